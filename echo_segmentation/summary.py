"""Statistics over judged cases: overall, per group, with bootstrap intervals, and two runs compared in pairs.

A row is what `metrics.csv` holds of a case: `stem`, `patient`, `view`, `phase`, `image_quality`, `unit`, and
`<structure>_<metric>` for each structure and metric (floats, NaN where undefined).
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cases import read_csv
from command import UserError, whole_file

GROUPS = ("view", "phase", "image_quality")
DESCRIPTION = ("stem", "patient", "view", "phase", "image_quality", "unit")
METRICS = ("dice", "hd95", "hd", "msd")
CONSOLE_NAMES = {"lv_endo": ("Lv endo", "Lv endo std"), "lv_epi": ("Lv Epi", "Lv Epi std")}
CONSOLE_NAMES["la"] = ("Lv Atrium", "Lv Atrium std")
Row = dict[str, Any]


def structures_in(rows: Sequence[Row]) -> list[str]:
    """Names of the structures that the rows judge, in their order."""
    return [name.removesuffix("_dice") for name in rows[0] if name.endswith("_dice")]


def column(rows: Sequence[Row], structure: str, metric: str) -> np.ndarray:
    """Values of one metric, (cases,) float64."""
    return np.array([row[f"{structure}_{metric}"] for row in rows], dtype=float)


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation (n - 1), median and number of the values that are defined."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return {"mean": math.nan, "std": math.nan, "median": math.nan, "n": 0}
    std = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    return {"mean": float(defined.mean()), "std": std, "median": float(np.median(defined)), "n": int(defined.size)}


def summarise_cases(rows: Sequence[Row]) -> dict[str, Any]:
    """Per structure: statistics of each metric; `absent`: cases where neither map has it (not judged at all);
    `missed`: cases where only one map has it (Dice 0, no distances).
    """
    result = {}
    for structure in structures_in(rows):
        dice, distance = column(rows, structure, "dice"), column(rows, structure, "hd")
        result[structure] = {metric: describe(column(rows, structure, metric)) for metric in METRICS}
        result[structure]["absent"] = int(np.isnan(dice).sum())
        result[structure]["missed"] = int((np.isfinite(dice) & np.isnan(distance)).sum())
    return result


def summarise(rows: Sequence[Row], bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """Overall and per view, phase and image quality where known; with `bootstrap` resamplings, intervals of means."""
    overall = summarise_cases(rows)
    if bootstrap:
        for structure in overall:
            for metric in METRICS:
                interval = bootstrap_interval(rows, structure, metric, bootstrap, seed)
                overall[structure][metric]["mean_95"] = interval
    result = {"cases": len(rows), "unit": rows[0]["unit"], "overall": overall}
    for group in GROUPS:
        names = sorted({row[group] for row in rows if row[group]})
        result[group] = {name: summarise_cases([row for row in rows if row[group] == name]) for name in names}
    return result


def bootstrap_interval(rows: Sequence[Row], structure: str, metric: str, count: int, seed: int) -> list[float]:
    """95 % percentile interval of the mean (Efron & Tibshirani 1993, section 13.3).

    Patients are resampled, not cases: the frames of a patient are alike.
    """
    values = column(rows, structure, metric)
    patients, inverse = np.unique([row["patient"] or row["stem"] for row in rows], return_inverse=True)
    sums = np.bincount(inverse, np.nan_to_num(values, nan=0.0))
    counts = np.bincount(inverse, np.isfinite(values))
    drawn = np.random.default_rng(seed).integers(len(patients), size=(count, len(patients)))
    totals = counts[drawn].sum(1)
    means = sums[drawn].sum(1)[totals > 0] / totals[totals > 0]
    return [float(edge) for edge in np.percentile(means, [2.5, 97.5])] if means.size else [math.nan, math.nan]


def console_line(overall: dict[str, Any]) -> str:
    """The published tester's line: mean over the structures, then the mean and standard deviation of each."""
    dice = {structure: statistics["dice"] for structure, statistics in overall.items()}
    names = {structure: CONSOLE_NAMES.get(structure, (structure, f"{structure} std")) for structure in dice}
    mean = describe(np.array([d["mean"] for d in dice.values()]))["mean"]  # of the structures that occur at all
    parts = [f"[Mean: {mean:.4f}]"]
    parts += [f"[{names[s][0]} {d['mean']:.4f}]" for s, d in dice.items()]
    parts += [f"[{names[s][1]} {d['std']:.4f}]" for s, d in dice.items()]
    return "Test Dice: " + " ".join(parts)


def table(summary: dict[str, Any]) -> str:
    """Mean and standard deviation of each metric, a line per structure; then Dice per group."""
    unit = summary["unit"]
    lines = [f"{'':14}" + "".join(f"{title:>21}" for title in ("Dice", f"HD95 {unit}", f"HD {unit}", f"MSD {unit}"))]
    for structure, statistics in summary["overall"].items():
        cells = [f"{statistics[m]['mean']:.3f} +/- {statistics[m]['std']:.3f}" for m in METRICS]
        note = "".join(f"  {statistics[why]} {why}" for why in ("absent", "missed") if statistics[why])
        lines.append(f"{structure:14}" + "".join(f"{cell:>21}" for cell in cells) + note)
        if "mean_95" in statistics["dice"]:
            edges = ["{:.3f} .. {:.3f}".format(*statistics[m]["mean_95"]) for m in METRICS]
            lines.append(f"{'  95 %':14}" + "".join(f"{cell:>21}" for cell in edges))
    for group in GROUPS:
        for name, statistics in summary[group].items():
            dice = "  ".join(f"{s} {v['dice']['mean']:.3f} +/- {v['dice']['std']:.3f}" for s, v in statistics.items())
            lines.append(f"{name:14}{dice}")
    return "\n".join(lines)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV; NaN becomes an empty field."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})


def read_rows(folder: Path) -> dict[str, Row]:
    """Rows of `<folder>/metrics.csv` by stem. Raises UserError if there is none, or it is none of ours."""
    path = folder / "metrics.csv"
    if not path.is_file():
        raise UserError(f"{folder}: no metrics.csv in it; give the output folder of test_model.py or runner.py")
    raw = read_csv(path)
    if not raw or not set(DESCRIPTION) <= set(raw[0]):
        raise UserError(f"{path}: not a table of this program, or empty")
    try:
        return {r["stem"]: {k: v if k in DESCRIPTION else float(v or "nan") for k, v in r.items()} for r in raw}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None

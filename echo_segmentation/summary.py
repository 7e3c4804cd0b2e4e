"""Statistics over evaluated cases: overall and per group, with bootstrap intervals, and as a table of text."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dataset_description import Description, camus
from rows import DISTANCES, METRICS, WITHIN_CONE, Row, column, missed, structures_in

GROUPS = ("view", "phase", "image_quality")
Penalty = Literal["none", "diagonal"]


def values_of(rows: Sequence[Row], structure: str, metric: str, penalty: Penalty = "none") -> np.ndarray:
    """Values of one metric, (cases,) float64; with the penalty `diagonal`, distances of missed structures are the
    diagonal of the frame instead of undefined.
    """
    values = column(rows, structure, metric)
    if penalty == "none" or metric not in DISTANCES:
        return values
    return np.where(missed(rows, structure), np.array([row["diagonal"] for row in rows], dtype=float), values)


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation (n - 1), median and number of the values that are defined."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return {"mean": math.nan, "std": math.nan, "median": math.nan, "n": 0}
    std = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    return {"mean": float(defined.mean()), "std": std, "median": float(np.median(defined)), "n": int(defined.size)}


def summarise_cases(rows: Sequence[Row], penalty: Penalty = "none") -> dict[str, Any]:
    """Per structure: statistics of each metric; `absent`: cases where neither map has it (not evaluated at all);
    `missed`: cases where only one map has it (Dice 0, distances by the penalty).
    """
    result = {}
    for structure in structures_in(rows):
        names = [m for m in (*METRICS, WITHIN_CONE) if f"{structure}_{m}" in rows[0]]
        result[structure] = {metric: describe(values_of(rows, structure, metric, penalty)) for metric in names}
        result[structure]["absent"] = int(np.isnan(column(rows, structure, "dice")).sum())
        result[structure]["missed"] = int(missed(rows, structure).sum())
    return result


def summarise(rows: Sequence[Row], bootstrap: int = 0, seed: int = 0, penalty: Penalty = "none") -> dict[str, Any]:
    """Overall and per view, phase and image quality where known; with `bootstrap` resamplings, intervals of means."""
    overall = summarise_cases(rows, penalty)
    if bootstrap:
        for structure in overall:
            for metric in METRICS:
                values = values_of(rows, structure, metric, penalty)
                overall[structure][metric]["mean_95"] = bootstrap_interval(rows, values, bootstrap, seed)
    result = {"cases": len(rows), "unit": rows[0]["unit"], "missed_distance": penalty, "overall": overall}
    for group in GROUPS:
        names = sorted({row[group] for row in rows if row[group]})
        result[group] = {name: summarise_cases([row for row in rows if row[group] == name], penalty) for name in names}
    return result


def bootstrap_interval(rows: Sequence[Row], values: np.ndarray, count: int, seed: int) -> list[float]:
    """95 % percentile interval of the mean of `values`, one for each row (Efron & Tibshirani 1993, section 13.3).

    Patients are resampled, not cases: the frames of a patient are alike.
    """
    patients, inverse = np.unique([row["patient"] or row["stem"] for row in rows], return_inverse=True)
    sums = np.bincount(inverse, np.nan_to_num(values, nan=0.0))
    counts = np.bincount(inverse, np.isfinite(values))
    drawn = np.random.default_rng(seed).integers(len(patients), size=(count, len(patients)))
    totals = counts[drawn].sum(1)
    means = sums[drawn].sum(1)[totals > 0] / totals[totals > 0]
    return [float(edge) for edge in np.percentile(means, [2.5, 97.5])] if means.size else [math.nan, math.nan]


def console_line(overall: dict[str, Any], description: Description | None = None) -> str:
    """The published tester's line: mean over its structures, then the mean and standard deviation of each."""
    described = (description or camus()).structures
    counted = [name for name in overall if name not in described or described[name].in_mean]
    dice = {name: overall[name]["dice"] for name in counted}
    names = {name: (described[name].console if name in described else None) or name for name in dice}
    mean = describe(np.array([d["mean"] for d in dice.values()]))["mean"]  # of the structures that occur at all
    parts = [f"[Mean: {mean:.4f}]"]
    parts += [f"[{names[s]} {d['mean']:.4f}]" for s, d in dice.items()]
    parts += [f"[{names[s]} std {d['std']:.4f}]" for s, d in dice.items()]
    return "Test Dice: " + " ".join(parts)


def table(summary: dict[str, Any]) -> str:
    """Mean and standard deviation of each metric, a line per structure; then Dice within the cone, and per group."""
    unit, width = summary["unit"], max([12, *map(len, summary["overall"])]) + 2
    titles = [f"{metric.upper()} {unit}" if metric in DISTANCES else metric.capitalize() for metric in METRICS]
    lines = [f"{'':{width}}" + "".join(f"{title:>21}" for title in titles)]
    for structure, statistics in summary["overall"].items():
        cells = [f"{statistics[m]['mean']:.3f} +/- {statistics[m]['std']:.3f}" for m in METRICS]
        note = "".join(f"  {statistics[why]} {why}" for why in ("absent", "missed") if statistics[why])
        lines.append(f"{structure:{width}}" + "".join(f"{cell:>21}" for cell in cells) + note)
        if "mean_95" in statistics["dice"]:
            edges = ["{:.3f} .. {:.3f}".format(*statistics[m]["mean_95"]) for m in METRICS]
            lines.append(f"{'  95 %':{width}}" + "".join(f"{cell:>21}" for cell in edges))
    if all(WITHIN_CONE in statistics for statistics in summary["overall"].values()):
        lines.append(_dice_line("within cone", summary["overall"], WITHIN_CONE))
    for group in GROUPS:
        lines += [_dice_line(name, statistics, "dice") for name, statistics in summary[group].items()]
    return "\n".join(lines)


def _dice_line(name: str, statistics: dict[str, Any], metric: str) -> str:
    cells = [f"{s} {v[metric]['mean']:.3f} +/- {v[metric]['std']:.3f}" for s, v in statistics.items() if metric in v]
    return f"{name:14}" + "  ".join(cells)

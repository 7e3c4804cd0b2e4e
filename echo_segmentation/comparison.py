"""Two evaluated runs side by side: differences in pairs, their intervals, and whether chance explains them.

A frame counts for a metric where both runs have a value: a structure that one of them missed has no distance, and is
counted by itself. The differences of a patient's frames are averaged before anything is tested, as the frames of one
patient are not independent. Dice is the primary endpoint; all p-values of the table are adjusted together (Holm 1979),
so that the chance of any false alarm in it is at most 5 % at an adjusted p of 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from command import UserError
from patients import QUANTITIES
from rows import METRICS, REFERENCE, Row, column, missed, read_rows, structures_in

RESAMPLINGS, CONFIDENCE = 9999, 0.95
MOST_NAMED = 5
NAMES = {"edv_ml": "EDV", "esv_ml": "ESV", "ef": "EF"}


@dataclass
class Difference:
    """One line of the comparison: `first` and `second` are paired values, (patients,) each."""

    title: str
    first: np.ndarray
    second: np.ndarray
    frames: int
    p: float = float("nan")
    """Two-sided, of Wilcoxon's signed-rank test (1945)."""
    adjusted_p: float = float("nan")

    def interval(self) -> tuple[float, float]:
        """95 % percentile interval of the mean difference, of resampled patients (Efron & Tibshirani 1993, 13.3)."""
        if len(self.first) < 2:
            return float("nan"), float("nan")
        settings = {"confidence_level": CONFIDENCE, "n_resamples": RESAMPLINGS, "method": "percentile", "rng": 0}
        return tuple(bootstrap((self.second - self.first,), np.mean, vectorized=True, **settings).confidence_interval)


def paired_p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 if there is no difference at all, NaN without pairs."""
    if not first.size:
        return float("nan")
    return 1.0 if np.array_equal(first, second) else float(wilcoxon(first, second).pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method (1979), in the order given; NaN stays NaN.

    Valid however the tests depend on one another.
    """
    p = np.asarray(p_values, dtype=float)
    tests = np.flatnonzero(np.isfinite(p))
    order = tests[np.argsort(p[tests])]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def paired_differences(
    first: Sequence[Row], second: Sequence[Row], patients: tuple[Sequence[Row], Sequence[Row]] = ((), ())
) -> list[Difference]:
    """Dice of every structure, then distances, then volumes and ejection fraction (absolute errors against labels).

    `first` and `second` are rows of the same cases in the same order, `patients` rows of ejection_fraction.csv.
    """
    structures = [name for name in structures_in(first) if name in structures_in(second)]
    names = [row["patient"] or row["stem"] for row in first]
    result = []
    for metric in METRICS:
        unit = "" if metric == "dice" else f" {first[0]['unit']}"
        for structure in structures:
            values = np.array([column(rows, structure, metric) for rows in (first, second)])
            result.append(_averaged(f"{structure} {metric}{unit}", values, names))
    tables = [{row["patient"]: row for row in rows} for rows in patients]
    common = sorted(tables[0].keys() & tables[1].keys())
    for quantity in QUANTITIES if common else ():
        errors = [[abs(t[name][f"{quantity}_predicted"] - t[name][f"{quantity}_reference"]) for name in common]
                  for t in tables]  # fmt: skip
        unit = "%" if quantity == "ef" else "ml"
        result.append(_averaged(f"{NAMES[quantity]} |error| {unit}", np.array(errors), common))
    for difference, adjusted in zip(result, holm([d.p for d in result]), strict=True):
        difference.adjusted_p = float(adjusted)
    return result


def _averaged(title: str, values: np.ndarray, patients: Sequence[str]) -> Difference:
    """Mean of each patient over the columns of `values` (2, cases) that are defined in both rows."""
    both = np.isfinite(values).all(0)
    _, inverse = np.unique(np.array(patients)[both], return_inverse=True)
    first, second = (np.bincount(inverse, row[both]) / np.bincount(inverse) for row in values)
    return Difference(title, first, second, int(both.sum()), paired_p_value(first, second))


def compare(first: Path, second: Path) -> str:
    """The comparison of two output folders as a table of text.

    Raises UserError if the runs have no case in common, other units, or were evaluated on other grids or against other
    reference labels.
    """
    runs = [{row["stem"]: row for row in read_rows(folder / "metrics.csv")} for folder in (first, second)]
    common = sorted(runs[0].keys() & runs[1].keys())
    if not common:
        raise UserError(f"{first} and {second}: no case in common")
    rows = [[run[stem] for stem in common] for run in runs]
    refuse_other_grids(first, second, *rows)
    refuse_other_references(first, second, *rows)
    lines = [f"A: {first}", f"B: {second}", f"{len(common)} cases in common"]
    alone = [len(run) - len(common) for run in runs]
    if any(alone):
        lines[-1] += f" (left out: {alone[0]} of A, {alone[1]} of B)"
    differences = paired_differences(*rows, (_patients(first), _patients(second)))
    lines.append(
        f"{'':22}{'A':>9}{'B':>9}{'B - A':>10}{'95 % interval':>21}{'p':>9}{'p Holm':>9}{'frames':>8}{'patients':>10}"
    )
    lines += [_line(difference) for difference in differences]
    lines.append("structures in one label map only (their distances are not compared):")
    for structure in structures_in(rows[0]):
        if structure in structures_in(rows[1]):
            counts = [int(missed(side, structure).sum()) for side in rows]
            lines.append(f"  {structure:20}{counts[0]:>9}{counts[1]:>9}")
    return "\n".join([*lines, *LEGEND])


LEGEND = (
    "Primary endpoint: Dice. All values are of frames that both runs have, averaged per patient.",
    "p: Wilcoxon's signed-rank test over patients; p Holm: adjusted for all lines of the table.",
    f"Interval: of the mean difference, {RESAMPLINGS} resamplings of the patients, not adjusted.",
)


def refuse_other_grids(first: Path, second: Path, first_rows: Sequence[Row], second_rows: Sequence[Row]) -> None:
    """Raises UserError if units or grids differ: what is measured depends on the pixels it is measured in."""
    units = [{row["unit"] for row in rows} for rows in (first_rows, second_rows)]
    hint = "evaluate both at one --img-size, or both with --native-dir, and with the same --spacing-mm, if any"
    if units[0] != units[1]:
        raise UserError(f"{first} is in {'/'.join(units[0])}, {second} in {'/'.join(units[1])}: {hint}")
    others = [a for a, b in zip(first_rows, second_rows, strict=True) if a["grid"] != b["grid"]]
    if others:
        raise UserError(
            f"{len(others)} cases, {others[0]['stem']} for one, have other grids in {first} and {second}: {hint}"
        )
    sizes = [[row["diagonal"] for row in rows] for rows in (first_rows, second_rows)]
    if not np.allclose(*sizes, rtol=1e-3, equal_nan=True):
        raise UserError(f"{first} and {second} have other sizes of a pixel, so distances would not compare: {hint}")


def refuse_other_references(first: Path, second: Path, first_rows: Sequence[Row], second_rows: Sequence[Row]) -> None:
    """Raises UserError if reference labels differ, naming some; tables from before do not tell them."""
    pairs = zip(first_rows, second_rows, strict=True)
    digests = [(a["stem"], a.get(REFERENCE), b.get(REFERENCE)) for a, b in pairs]
    others = [stem for stem, one, other in digests if one and other and one != other]
    if others:
        named = ", ".join(others[:MOST_NAMED]) + (" and others" if len(others) > MOST_NAMED else "")
        raise UserError(
            f"{len(others)} cases have other reference labels in {first} than in {second}: {named}; evaluate both "
            "against the same"
        )


def _patients(folder: Path) -> list[Row]:
    path = folder / "ejection_fraction.csv"
    numbers = [f"{quantity}_{source}" for quantity in QUANTITIES for source in ("predicted", "reference")]
    return read_rows(path, ("patient",), numbers) if path.is_file() else []


def _line(d: Difference) -> str:
    if not d.first.size:
        return f"{d.title:22}{'-':>9}{'-':>9}{'-':>10}{'-':>21}{'-':>9}{'-':>9}{0:>8}{0:>10}"
    interval = "{:+.4f} .. {:+.4f}".format(*d.interval())
    means = f"{d.first.mean():9.4f}{d.second.mean():9.4f}{(d.second - d.first).mean():+10.4f}"
    return f"{d.title:22}{means}{interval:>21}{d.p:9.2g}{d.adjusted_p:9.2g}{d.frames:>8}{len(d.first):>10}"

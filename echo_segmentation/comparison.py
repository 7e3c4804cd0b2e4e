"""Two judged runs side by side: paired differences, and whether chance explains them."""

from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from command import UserError
from summary import METRICS, Row, column, read_rows, structures_in


def patient_means(rows: list[Row], structure: str, metric: str) -> dict[str, float]:
    """Mean over the defined values of each patient (of each case where the patient is not known)."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, column(rows, structure, metric), strict=True):
        if np.isfinite(value):
            groups.setdefault(row["patient"] or row["stem"], []).append(value)
    return {patient: float(np.mean(values)) for patient, values in groups.items()}


def paired_p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945); 1 if there is no difference at all."""
    return 1.0 if np.array_equal(first, second) else float(wilcoxon(first, second).pvalue)


def compare(first: Path, second: Path) -> str:
    """A table of structure, metric, both means, mean difference (second - first) and p-value.

    The test pairs patients, whose frames are averaged first: the frames of one patient are not independent, and would
    make p too small. Raises UserError if the runs have no case in common or different units.
    """
    runs = [read_rows(folder) for folder in (first, second)]
    common = sorted(runs[0].keys() & runs[1].keys())
    if not common:
        raise UserError(f"{first} and {second}: no case in common")
    rows = [[run[stem] for stem in common] for run in runs]
    units = [{row["unit"] for row in side} for side in rows]
    if units[0] != units[1]:
        raise UserError(f"{first} is in {'/'.join(units[0])}, {second} in {'/'.join(units[1])}: nothing to compare")
    structures = [name for name in structures_in(rows[0]) if name in structures_in(rows[1])]
    lines = [f"A: {first}", f"B: {second}", f"{len(common)} cases in common"]
    alone = [len(run) - len(common) for run in runs]
    if any(alone):
        lines[-1] += f" (left out: {alone[0]} of A, {alone[1]} of B)"
    lines.append(f"{'':12}{'':10}{'A':>9}{'B':>9}{'B - A':>10}{'p':>9}{'patients':>10}")
    for structure in structures:
        for metric in METRICS:
            lines.append(
                f"{structure:12}"
                + _line(metric, "/".join(units[0]), *(patient_means(r, structure, metric) for r in rows))
            )
    return "\n".join(lines + ["p: Wilcoxon's signed-rank test over patients, whose frames are averaged first."])


def _line(metric: str, unit: str, first: dict[str, float], second: dict[str, float]) -> str:
    patients = sorted(first.keys() & second.keys())
    name = metric if metric == "dice" else f"{metric} {unit}"
    if not patients:
        return f"{name:10}{'-':>9}{'-':>9}{'-':>10}{'-':>9}{0:>10}"
    a, b = (np.array([side[patient] for patient in patients]) for side in (first, second))
    return (
        f"{name:10}{a.mean():9.4f}{b.mean():9.4f}{(b - a).mean():+10.4f}{paired_p_value(a, b):9.2g}{len(patients):>10}"
    )

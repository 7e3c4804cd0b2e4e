"""Volumes and ejection fraction of whole patients, from the long axes of their frames."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cases import SPLITS, Case
from dataset_description import camus
from dataset_schema import Volumes
from ejection_fraction import LongAxis, agreement, biplane_volume_ml, ejection_fraction
from rows import Row

QUANTITIES = ("edv_ml", "esv_ml", "ef")
SOURCES = ("predicted", "reference", "reported")
Axes = dict[str, LongAxis | None]


def measure_patients(
    cases: Sequence[Case], axes: Sequence[Axes], heart: Volumes | None = None, mark: str = ""
) -> list[Row]:
    """Volumes (ml) and ejection fraction (%) of each patient with both views at both phases of `heart` (None: CAMUS')
    and a known pixel size:
    `_predicted`, `_reference` (from the reference labels) and `_reported` (what metadata.csv says; NaN if nothing).

    `axes` has for each case its `predicted` and `reference` long axis. What does not belong together is left out:
    deformed copies and synthetic frames, with a number at the end of their names (after `mark`, in data of one's own),
    and patients with several frames of one view and phase.
    """
    views, phases = (heart or camus().volumes).views, (heart or camus().volumes).phases
    before = mark or f"_(?:{'|'.join(SPLITS)})_+"
    made = re.compile(rf".+{before}r?\d+", re.DOTALL)
    frames: dict[str, dict[tuple[str, str], int]] = {}
    several = set()
    for index, case in enumerate(cases):
        if made.fullmatch(case.stem):
            continue
        if case.patient and axes[index] and case.view in views and case.phase in phases:
            found = frames.setdefault(case.patient, {})
            if (case.view, case.phase) in found:
                several.add(case.patient)
            found[case.view, case.phase] = index
    whole = len(views) * len(phases)
    complete = {patient: f for patient, f in sorted(frames.items()) if len(f) == whole and patient not in several}
    rows = []
    for patient, found in complete.items():
        row: Row = {"patient": patient}
        for source in SOURCES[:2]:
            volumes = [biplane_volume_ml(*(axes[found[view, phase]][source] for view in views)) for phase in phases]
            values = (*volumes, ejection_fraction(*volumes))
            row |= {f"{name}_{source}": value for name, value in zip(QUANTITIES, values, strict=True)}
        ef, edv, esv = reported([cases[index] for index in found.values()])
        rows.append(row | {"edv_ml_reported": edv, "esv_ml_reported": esv, "ef_reported": ef})
    return rows


def reported(cases: Sequence[Case]) -> list[float]:
    """Ejection fraction, end-diastolic and end-systolic volume: of each the first that a patient's frames know."""
    quantities = zip(*(case.clinical for case in cases), strict=True)
    return [next((value for value in values if value is not None), math.nan) for values in quantities]


def summarise_patients(patients: Sequence[Row]) -> dict[str, Any]:
    """Agreement of predictions with labels and with reported values, and of labels with reported values."""
    pairs = {
        "against_labels": ("predicted", "reference"),
        "against_reported": ("predicted", "reported"),
        "labels_against_reported": ("reference", "reported"),
    }
    result: dict[str, Any] = {"patients": len(patients)}
    for name, sources in pairs.items():
        found = {q: agreement(*([row[f"{q}_{source}"] for row in patients] for source in sources)) for q in QUANTITIES}
        if any(statistics["n"] for statistics in found.values()):
            result[name] = found
    if patients and "against_labels" not in result:
        nothing = agreement([], [])
        result["against_labels"] = dict.fromkeys(QUANTITIES, nothing)
    return result


def ejection_fractions(patients: Sequence[Row]) -> np.ndarray:
    """Predicted and reference ejection fraction (%) where both are known, (2, patients)."""
    values = np.array([[row["ef_predicted"], row["ef_reference"]] for row in patients], dtype=float).T
    return values[:, np.isfinite(values).all(0)]

"""Everything that is written about predictions on a set of cases: tables, summary, label maps and figures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cases import Case
from command import whole_file
from dataset import CaseSet
from ejection_fraction import agreement, ejection_fraction, volume_ml
from figures import bland_altman, dice_boxes, overlay_sheet, pick_cases
from metrics import judge_case, structures_of
from summary import Row, console_line, structures_in, summarise, table, write_rows

VIEWS, PHASES = ("2CH", "4CH"), ("ED", "ES")
QUANTITIES = ("edv_ml", "esv_ml", "ef")


def judge(
    case_set: CaseSet,
    predictions: np.ndarray,
    num_classes: int,
    output_dir: Path,
    origin: dict[str, Any],
    overlays: int = 8,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge predicted label maps (cases, size, size), write the results into `output_dir`; prints, returns the summary.

    Written: metrics.csv, ejection_fraction.csv, summary.json (with `origin` in it), predictions/, figures/. Nothing of
    an earlier judgement is left there.
    """
    for folder in ("predictions", "figures"):
        (output_dir / folder).mkdir(parents=True, exist_ok=True)
    rows = judge_cases(case_set, predictions, num_classes)
    write_rows(output_dir / "metrics.csv", rows)
    summary = origin | summarise(rows, bootstrap, seed)
    patients = measure_patients(case_set, predictions)
    summary["ejection_fraction"] = summarise_patients(patients)
    with whole_file(output_dir / "summary.json") as path:
        path.write_text(json.dumps(without_nan(summary), indent=2) + "\n", encoding="utf-8")
    for case, prediction in zip(case_set.cases, predictions, strict=True):
        with whole_file(output_dir / "predictions" / f"{case.stem}.png") as path:
            Image.fromarray(prediction).save(path)
    remove_others(output_dir / "predictions", {f"{case.stem}.png" for case in case_set.cases})
    remove_others(output_dir / "figures", set())
    (output_dir / "ejection_fraction.csv").unlink(missing_ok=True)
    draw(case_set, predictions, rows, overlays, output_dir / "figures")
    if patients:
        write_rows(output_dir / "ejection_fraction.csv", patients)
        statistics = summary["ejection_fraction"]["against_labels"]["ef"]
        bland_altman(output_dir / "figures" / "ejection_fraction.png", *_pairs(patients, "ef", "reference"), statistics)
    report(summary, case_set)
    return summary


def remove_others(folder: Path, names: set[str]) -> None:
    """Delete the PNG files in `folder` that are not among `names`."""
    for file in folder.glob("*.png"):
        if file.name not in names:
            file.unlink()


def judge_cases(case_set: CaseSet, predictions: np.ndarray, num_classes: int) -> list[Row]:
    """A row per case. Distances are in mm if the size of every case is known, otherwise in pixels for all (`px/128`: of
    images of 128 x 128).
    """
    structures = structures_of(num_classes)
    unit = "mm" if all(case.extent_mm for case in case_set.cases) else f"px/{case_set.size}"

    def row(index: int) -> Row:
        case = case_set.cases[index]
        known = {name: getattr(case, name) for name in ("stem", "patient", "view", "phase", "image_quality")}
        spacing = spacing_mm(case, case_set.size) if unit == "mm" else (1.0, 1.0)
        return known | {"unit": unit} | judge_case(predictions[index], case_set[index][1], structures, spacing)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a case is small: starting threads for it costs more than they give
    try:
        return [row(index) for index in range(len(case_set))]
    finally:
        torch.set_num_threads(threads)


def spacing_mm(case: Case, size: int) -> tuple[float, float]:
    """Depth and lateral distance of pixels (rows, columns) at size x size."""
    return case.extent_mm[0] / size, case.extent_mm[1] / size


def measure_patients(case_set: CaseSet, predictions: np.ndarray) -> list[Row]:
    """Volumes (ml) and ejection fraction (%) of each patient with both views at both phases and a known pixel size:
    `_predicted`, `_reference` (from the reference labels) and `_reported` (what metadata.csv says; NaN if nothing).
    Patients with several frames of one view and phase (deformed copies) are left out: they do not belong together.
    """
    frames: dict[str, dict[tuple[str, str], int]] = {}
    several = set()
    for index, case in enumerate(case_set.cases):
        if case.patient and case.extent_mm and case.view in VIEWS and case.phase in PHASES:
            found = frames.setdefault(case.patient, {})
            if (case.view, case.phase) in found:
                several.add(case.patient)
            found[case.view, case.phase] = index
    whole = len(VIEWS) * len(PHASES)
    complete = {patient: f for patient, f in sorted(frames.items()) if len(f) == whole and patient not in several}
    rows = []
    for patient, found in complete.items():
        row: Row = {"patient": patient}
        for source in ("predicted", "reference"):
            volumes = []
            for phase in PHASES:
                indices = {view: found[view, phase] for view in VIEWS}
                labels = {v: predictions[i] if source == "predicted" else case_set[i][1] for v, i in indices.items()}
                spacings = {v: spacing_mm(case_set.cases[i], case_set.size) for v, i in indices.items()}
                volumes.append(volume_ml(labels, spacings))
            values = (*volumes, ejection_fraction(*volumes))
            row |= {f"{name}_{source}": value for name, value in zip(QUANTITIES, values, strict=True)}
        ef, edv, esv = reported([case_set.cases[index] for index in found.values()])
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


def _pairs(patients: Sequence[Row], quantity: str, against: str) -> np.ndarray:
    values = np.array([[row[f"{quantity}_predicted"], row[f"{quantity}_{against}"]] for row in patients], dtype=float).T
    return values[:, np.isfinite(values).all(0)]


def draw(case_set: CaseSet, predictions: np.ndarray, rows: Sequence[Row], overlays: int, folder: Path) -> None:
    """dice.png, and overlays.png of cases from best to worst."""
    dice_boxes(folder / "dice.png", rows)
    panels = []
    for index in pick_cases(rows, overlays):
        dice = "  ".join(f"{rows[index][f'{s}_dice']:.2f}" for s in structures_in(rows))
        image, reference = case_set[index]
        panels.append((f"{case_set.cases[index].stem}\nDice {dice}", image, predictions[index], reference))
    if panels:  # from the best case to the worst
        overlay_sheet(folder / "overlays.png", panels)


def report(summary: dict[str, Any], case_set: CaseSet) -> None:
    """Print the published line, the table and the ejection fraction."""
    print(console_line(summary["overall"]))
    print(table(summary))
    unknown = sum(not case.extent_mm for case in case_set.cases)
    if unknown:
        size = f"{case_set.size} x {case_set.size}"
        print(f"distances in pixels of {size} images: metadata.csv gives no pixel size for {unknown} cases")
    statistics = summary["ejection_fraction"]
    if not statistics["patients"]:
        print("ejection fraction: no patient with 2CH and 4CH at ED and ES and a known pixel size")
    for name in ("against_labels", "against_reported"):
        if name in statistics:
            ef, text = statistics[name]["ef"], name.replace("_", " ")
            limits = f"limits of agreement {ef['lower']:+.1f} .. {ef['upper']:+.1f}"
            print(f"ejection fraction (%) {text}: {ef['n']} patients, r {ef['correlation']:.2f}, "
                  f"bias {ef['bias']:+.1f}, {limits}")  # fmt: skip


def without_nan(value: Any) -> Any:
    """JSON knows no NaN: None in its place."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

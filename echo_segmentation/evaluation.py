"""Everything that is written about predictions on a set of cases: tables, summary, label maps and figures."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from camus_table import write_camus_table
from dataset_description import Description, camus
from ejection_fraction import as_camus, measure_long_axis
from figures import Panel, bland_altman, class_colours, dice_boxes, overlay_sheet, pick_cases
from frames import Frames, NativeFrames
from label_writing import write_like
from metrics import evaluate_case, evaluated_structures, ultrasound_cone
from output_files import new_file
from patients import Axes, ejection_fractions, measure_patients, summarise_patients
from recorded import write_settings
from results import RESULT_FILES, UNFINISHED
from rows import REFERENCE, Row, structures_in, write_rows
from summary import Penalty, console_line, summarise, table

DIGEST_LENGTH = 16  # characters: enough to tell labels apart, not to withstand forgery


@dataclass(frozen=True)
class Report:
    """How to report: `overlays` cases are drawn, means have intervals by `bootstrap` resamplings (0: none)."""

    overlays: int = 8
    bootstrap: int = 0
    seed: int = 0
    penalty: Penalty = "none"
    description: Description = field(default_factory=camus)
    settings: dict[str, Any] | None = None
    """Written as settings.json, if given."""


def evaluate(
    frames: Frames,
    predictions: Sequence[np.ndarray],
    num_classes: int,
    output_dir: Path,
    origin: dict[str, Any],
    report: Report,
    network_labels: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare label maps, each on the grid of its reference, and write the results; prints and returns the summary.

    Written: metrics.csv, ejection_fraction.csv, summary.json (with `origin` in it), camus_table.md and .csv, figures/,
    settings.json (those of `report`, if it has any),
    predictions/ where `network_labels` (cases, size, size) are given, and predictions_native/ (NIfTI in the geometry
    of the source) where the frames are native. Nothing of an earlier evaluation is left there, and while results come,
    with summary.json as the last, UNFINISHED stands beside them.
    """
    description = report.description
    rows, axes = evaluate_cases(frames, predictions, num_classes, description)
    mark = "" if description == camus() else description.names.mark
    patients = measure_patients(frames.cases, axes, description.volumes, mark)
    statistics = summarise_patients(patients)
    summary = origin | summarise(rows, report.bootstrap, report.seed, report.penalty)
    if description.volumes:
        summary["ejection_fraction"] = statistics
    print(console_line(summary["overall"], description))
    print(table(summary))
    remove_earlier(output_dir)
    if report.settings is not None:
        write_settings(output_dir, report.settings)
    write_label_maps(frames, predictions, network_labels, output_dir)
    draw(frames, predictions, rows, report, output_dir / "figures")
    if patients:
        against = statistics["against_labels"]["ef"]
        bland_altman(output_dir / "figures" / "ejection_fraction.png", *ejection_fractions(patients), against)
        write_rows(output_dir / "ejection_fraction.csv", patients)
    if description.volumes:
        print(write_camus_table(output_dir, rows, statistics, report.penalty, description))
    write_rows(output_dir / "metrics.csv", rows)
    with new_file(output_dir / "summary.json") as path:
        path.write_text(json.dumps(without_nan(summary), indent=2) + "\n", encoding="utf-8")
    (output_dir / UNFINISHED).unlink()
    say_about_patients(frames, statistics, description)
    return summary


def remove_earlier(output_dir: Path) -> None:
    """Delete what an earlier evaluation has said: if this one is killed, no table is of other label maps than are
    there. What is left then is known by UNFINISHED for results."""
    (output_dir / "figures").mkdir(parents=True, exist_ok=True)
    with new_file(output_dir / UNFINISHED) as path:
        path.write_text("The evaluation that writes here has not ended: run it again.\n", encoding="utf-8")
    for name in RESULT_FILES:
        (output_dir / name).unlink(missing_ok=True)
    remove_others(output_dir / "figures", set())


def evaluate_cases(
    frames: Frames, predictions: Sequence[np.ndarray], num_classes: int, description: Description
) -> tuple[list[Row], list[Axes]]:
    """A row per case, and its long axes (none where the size of a pixel is not known, or the data
    set has no volumes).

    Distances are in mm if that size is known of every case, otherwise in pixels for all.
    """
    structures, heart = evaluated_structures(num_classes, description), description.volumes

    def evaluated(index: int) -> tuple[Row, Axes]:
        case, image, reference = frames.cases[index], frames.image(index), frames.label(index)
        predicted, spacing_mm = predictions[index], frames.spacing_mm(index)
        spacing = spacing_mm if frames.in_mm else (1.0, 1.0)
        row = {name: getattr(case, name) for name in ("stem", "patient", "view", "phase", "image_quality")}
        row |= {"unit": frames.unit, "grid": "x".join(map(str, reference.shape))}
        row[REFERENCE] = digest_of(reference)
        row["diagonal"] = float(np.hypot(*np.multiply(reference.shape, spacing)))
        row |= evaluate_case(
            predicted, reference, structures, spacing, ultrasound_cone(image) if description.sector else None
        )
        if not (spacing_mm and heart):
            return row, {}
        both = {"predicted": predicted, "reference": reference}
        as_heart = {source: as_camus(labels, heart, description.values) for source, labels in both.items()}
        return row, {source: measure_long_axis(labels, spacing_mm) for source, labels in as_heart.items()}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a case is small: starting threads for it costs more than they give
    try:
        rows, axes = zip(*(evaluated(index) for index in range(len(frames))), strict=True)
    finally:
        torch.set_num_threads(threads)
    return list(rows), list(axes)


def digest_of(labels: np.ndarray) -> str:
    """The beginning of the SHA-256 of a label map (height, width) uint8, row by row."""
    return hashlib.sha256(np.ascontiguousarray(labels)).hexdigest()[:DIGEST_LENGTH]


def write_label_maps(
    frames: Frames, predictions: Sequence[np.ndarray], network_labels: np.ndarray | None, output_dir: Path
) -> None:
    """PNG files at the network's size into predictions/, NIfTI files of native frames into predictions_native/."""
    pngs, volumes = set(), set()
    for index, case in enumerate(frames.cases if network_labels is not None else ()):
        pngs.add(f"{case.stem}.png")
        (output_dir / "predictions").mkdir(exist_ok=True)
        with new_file(output_dir / "predictions" / f"{case.stem}.png") as path:
            Image.fromarray(network_labels[index]).save(path)
    for index in range(len(frames) if isinstance(frames, NativeFrames) else 0):
        volumes.add(f"{frames.name(index)}.nii.gz")
        (output_dir / "predictions_native").mkdir(exist_ok=True)
        path = output_dir / "predictions_native" / f"{frames.name(index)}.nii.gz"
        write_like(path, predictions[index], frames.source(index))
    remove_others(output_dir / "predictions", pngs)
    remove_others(output_dir / "predictions_native", volumes)


def remove_others(folder: Path, names: set[str]) -> None:
    """Delete the PNG and NIfTI files in `folder` that are not among `names`."""
    for file in (*folder.glob("*.png"), *folder.glob("*.nii.gz")):
        if file.name not in names:
            file.unlink()


def draw(frames: Frames, predictions: Sequence[np.ndarray], rows: Sequence[Row], report: Report, folder: Path) -> None:
    """dice.png, and overlays.png of cases from best to worst."""
    dice_boxes(folder / "dice.png", rows, report.description)
    panels = []
    for index in pick_cases(rows, report.overlays):
        dice = "  ".join(f"{rows[index][f'{s}_dice']:.2f}" for s in structures_in(rows))
        title = f"{frames.cases[index].stem}\nDice {dice}"
        image, reference = frames.image(index), frames.label(index)
        depth, lateral = frames.spacing_mm(index) or (1.0, 1.0)
        panels.append(Panel(title, image, predictions[index], reference, aspect=depth / lateral))
    if panels:
        overlay_sheet(folder / "overlays.png", panels, class_colours(report.description))


def say_about_patients(frames: Frames, statistics: dict[str, Any], description: Description) -> None:
    """Agreement of the ejection fraction, against labels and reported values; and what could not be given."""
    for name in ("against_labels", "against_reported"):
        if name in statistics:
            ef, text = statistics[name]["ef"], name.replace("_", " ")
            limits = f"limits of agreement {ef['lower']:+.1f} .. {ef['upper']:+.1f}"
            print(f"ejection fraction (%) {text}: {ef['n']} patients, r {ef['correlation']:.2f}, "
                  f"bias {ef['bias']:+.1f}, {limits}")  # fmt: skip
    unknown = 0 if frames.in_mm else sum(frames.spacing_mm(index) is None for index in range(len(frames)))
    if unknown:
        size = frames.unit.partition("@")[2]
        grid = f"{size} x {size} images: metadata.csv gives" if size else "the data set's frames: their files give"
        print(
            f"distances in pixels of {grid} no pixel size for {unknown} cases (--spacing-mm gives that of the frames)"
        )
    if description.volumes and not statistics["patients"]:
        views, phases = (" and ".join(names) for names in (description.volumes.views, description.volumes.phases))
        print(f"ejection fraction: no patient with {views} at {phases} and a known pixel size")


def without_nan(value: Any) -> Any:
    """JSON knows no NaN: None in its place."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

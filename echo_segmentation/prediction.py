"""What a network makes of recordings: label maps, overlays, areas, and the ventricle's volume over time."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from checkpoint import Checkpoint, read_checkpoint, sha256_of
from command import UserError
from cycles import Cycle, Ventricle, collect_cycles, measure_ventricle, summary_row, time_rows
from dataset import resize_image
from dataset_description import Description
from dataset_schema import Volumes
from devices import choose_device, memory_of
from ejection_fraction import as_camus
from figures import class_colours, cycle_curves, overlay
from folder_lock import FolderLock
from geometry import native_probabilities
from inference import PUBLISHED_SIZE, Predictor, load_network
from label_writing import write_like
from medical_images import MedicalImage, unknown_spacing
from output_files import new_file
from progress import next_step, track
from recorded import write_settings
from recordings import Recording
from rows import write_rows
from settings import PredictSettings

NAN = float("nan")
LARGEST_STRETCH = 4  # of an overlay's larger side over the frame's, whatever the size of a pixel is


def predict_recordings(settings: PredictSettings, recordings: Sequence[Recording]) -> None:
    """Predict each recording and write its results, then what many of them tell of a patient."""
    checkpoint = read_checkpoint(settings.model_path)
    predictor, size = load_predictor(settings, checkpoint)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with FolderLock(settings.output_dir), memory_of(settings):
        settings.check_output_dir()  # another run may have been here meanwhile
        recorded = settings.as_dict() | {"checkpoint_sha256": sha256_of(settings.model_path)}
        write_settings(settings.output_dir, recorded)
        write_predictions(predictor, size, settings, recordings, checkpoint.dataset)


def write_predictions(
    predictor: Predictor,
    size: int,
    settings: PredictSettings,
    recordings: Sequence[Recording],
    description: Description,
) -> None:
    """As `predict_recordings`, with a network that is loaded and a folder that nobody else writes into."""
    for folder in ("labels", "overlays"):
        (settings.output_dir / folder).mkdir(parents=True, exist_ok=True)
    rows, measured = [], []
    heart, colours = description.volumes, class_colours(description)
    for recording in track(recordings, "predicting", len(recordings), "file"):
        image = with_spacing(recording, settings.spacing_mm)
        labels = predict_frames(predictor, image.frames, size, settings.batch_size)
        write_labels(settings.output_dir / "labels", recording, image, labels, colours)
        write_overlays(settings.output_dir / "overlays", recording, image, labels, colours)
        ventricles = []
        if image.spacing_mm and heart:
            hearts = (as_camus(one, heart, description.values) for one in labels)
            ventricles = [measure_ventricle(one, image.spacing_mm) for one in hearts]
        rows += frame_rows(recording, ventricles, heart)
        if ventricles and recording.view:
            measured.append((recording.patient, recording.view, recording.phase, ventricles))
    write_rows(settings.output_dir / "frames.csv", rows)
    cycles = collect_cycles(measured)
    if cycles:
        write_cycles(settings.output_dir, cycles)
    print(f"{len(rows)} frames of {len(recordings)} files, in {settings.output_dir}")
    labels = "--data-dir", "LABELLED", "--predictions", settings.output_dir / "labels"
    print(next_step("echo_segmentation/test_model.py", *labels, "--output-dir", "./output/test"))


def with_spacing(recording: Recording, spacing_mm: Sequence[float]) -> MedicalImage:
    """The image, with the size of a pixel given by hand; without one, that of its file, or a warning."""
    image = recording.read()
    if spacing_mm:
        return replace(image, spacing_mm=(spacing_mm[0], spacing_mm[-1]))
    if image.spacing_mm is None and recording.is_medical:
        print(f"warning: {unknown_spacing(recording.path, image)}; --spacing-mm gives it by hand", file=sys.stderr)
    return image


def load_predictor(settings: PredictSettings, checkpoint: Checkpoint) -> tuple[Predictor, int]:
    """The network of --model-path, and the image size it sees. Raises UserError for a checkpoint that is none, or that
    does not carry its normalisation if none is given.
    """
    size = settings.img_size or checkpoint.description.get("img_size", PUBLISHED_SIZE)
    mean, std = normalisation(settings, checkpoint)
    device = choose_device(settings.gpu)
    network = load_network(settings.model_path, checkpoint, size, device)
    return Predictor(network, mean, std, device, **settings.inference_options()), size


def normalisation(settings: PredictSettings, checkpoint: Checkpoint) -> tuple[float, float]:
    """Mean and standard deviation of the grey values, from 0 to 1: those given, or the checkpoint's."""
    if settings.mean is not None:
        return settings.mean, settings.std
    if "mean" not in checkpoint.description:
        raise UserError(f"{settings.model_path} carries no mean and std of grey values: give --mean and --std")
    return checkpoint.description["mean"], checkpoint.description["std"]


def predict_frames(predictor: Predictor, frames: np.ndarray, size: int, batch_size: int) -> np.ndarray:
    """Grey frames (frames, height, width) uint8 -> label maps alike. The network sees them at size x size."""
    resized = torch.from_numpy(np.stack([resize_image(frame, size) for frame in frames]))
    batches = (predictor(batch).cpu().numpy() for batch in resized.split(batch_size))
    found = (native_probabilities(probabilities, frames.shape[1:]) for batch in batches for probabilities in batch)
    return np.stack([predictor.label_map(probabilities) for probabilities in found])


def write_labels(
    folder: Path, recording: Recording, image: MedicalImage, labels: np.ndarray, colours: np.ndarray
) -> None:
    """A NIfTI file in the geometry of a medical image, and for each frame a PNG file of class values with a palette."""
    if recording.is_medical:
        write_like(folder / f"{recording.name}.nii.gz", labels, image)
    palette = [0, 0, 0, *colours[1:].ravel().tolist()]
    for index, one in enumerate(labels):
        picture = Image.fromarray(one).convert("L")
        picture.putpalette(palette)
        with new_file(folder / f"{recording.frame_name(index)}.png") as path:
            picture.save(path)


def write_overlays(
    folder: Path, recording: Recording, image: MedicalImage, labels: np.ndarray, colours: np.ndarray
) -> None:
    """For each frame the image with its classes as tints; where the size of a pixel is known, true to scale."""
    height, width = true_to_scale(labels.shape[1:], image.spacing_mm) if image.spacing_mm else labels.shape[1:]
    for index, (frame, one) in enumerate(zip(image.frames, labels, strict=True)):
        picture = cv2.resize(overlay(frame, one, colours=colours), (width, height), interpolation=cv2.INTER_LINEAR)
        with new_file(folder / f"{recording.frame_name(index)}.png") as path:
            Image.fromarray(picture).save(path)


def true_to_scale(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of square pixels for a frame of `shape`: as fine as its finer axis, but where that would take
    more than LARGEST_STRETCH times its larger side."""
    extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    pixel = max(min(spacing_mm), max(extent) / (LARGEST_STRETCH * max(shape)))
    return tuple(max(1, round(mm / pixel)) for mm in extent)


def frame_rows(recording: Recording, ventricles: Sequence[Ventricle], heart: Volumes | None) -> list[dict]:
    """A row of frames.csv for each frame; without the size of a pixel there is no area, and of no `heart` no column."""
    rows = []
    for index in range(recording.frames):
        area, axis = (ventricles[index].area_cm2, ventricles[index].axis) if ventricles else (NAN, None)
        row = {"name": recording.name, "frame": index}
        row |= {key: getattr(recording, key) for key in ("patient", "view", "phase")}
        measured = {"cavity_area_cm2": area, "long_axis_mm": axis.length if axis else NAN}
        rows.append(row | (measured if heart else {}))
    return rows


def write_cycles(folder: Path, cycles: Sequence[Cycle]) -> None:
    """volumes.csv, ejection_fraction.csv, and the curves of each sequence in figures/; prints a line for each cycle."""
    write_rows(folder / "volumes.csv", [row for cycle in cycles for row in time_rows(cycle)])
    rows = [summary_row(cycle) for cycle in cycles]
    write_rows(folder / "ejection_fraction.csv", rows)
    for cycle, row in zip(cycles, rows, strict=True):
        if cycle.source == "sequence":
            (folder / "figures").mkdir(exist_ok=True)
            cycle_curves(folder / "figures" / f"{cycle.patient}_sequence.png", cycle)
        volumes = f"EDV {row['edv_ml']:.0f} ml, ESV {row['esv_ml']:.0f} ml, EF {row['ef']:.0f} %"
        print(f"{cycle.patient} ({row['source']}): {volumes if np.isfinite(row['ef']) else 'no volume'}")

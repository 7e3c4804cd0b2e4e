"""Folders on disk -> frames with their label maps and patients, read a batch at a time.

Here, and nowhere else, names tell which patient, label map and round a frame belongs to.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import basename, splitext

import numpy as np

from command import UserError
from config import Settings
from guided_diffusion.data.datasets import find_pairs, has_split, natural_key, raise_problems, read_file
from guided_diffusion.data.label_maps import check_classes
from guided_diffusion.runs import storage
from guided_diffusion.sampling.results import Results
from picture_files import decode_image, decode_labels, is_picture
from progress import Progress

CLASSES = ("outside", "lv_cavity", "cone_background", "lv_myocardium", "left_atrium")
"""The sector labels, by value."""
SPLITS = ("training", "validation", "testing")
LEAST_IMAGES = 10
READERS = 4
ROUND = re.compile(r"_r\d+$")
DEFORMATION = re.compile(r"_\d+$")
PATIENT = re.compile(r"[A-Za-z]*\d+(?=_)")


@dataclass(frozen=True)
class Frame:
    """A picture and its label map. `label_map` names the map it was drawn for (of a real frame: its own stem),
    `source` the real frame whose label was deformed into it, or "" where real_dir has none."""

    stem: str
    image_path: str
    label_path: str
    patient: str
    label_map: str
    source: str


def find_real(folder: str, warn: Callable[[str], object]) -> dict[str, list[Frame]]:
    """The real frames of each split that is there. Raises UserError: no training split, too few, without partners."""
    settings = Settings(datadir=folder, dataset_mode="camus")
    splits = [split for split in SPLITS if has_split(settings, split)]
    if "training" not in splits:
        raise UserError(f"real_dir {folder} has no label maps in sector_annotations/training")
    pairs = find_pairs(settings, splits, warn=warn)
    found: dict[str, list[Frame]] = {split: [] for split in splits}
    for pair in pairs:
        patient = _patient(pair.stem, pair.split)
        frame = Frame(pair.stem, str(pair.image_path), pair.label_path, patient, pair.stem, pair.stem)
        found[pair.split].append(frame)
    _refuse_few(f"real_dir {folder}", len(pairs))
    if len({frame.patient for frames in found.values() for frame in frames}) < 2:
        raise UserError(f"real_dir {folder} has frames of one patient alone: differences need at least two")
    return found


def find_synthetic(folder: str, real: Sequence[Frame]) -> list[Frame]:
    """The frames in samples/ with their maps in labels/. Raises UserError: too few, or without partners."""
    samples, labels = (_pictures(storage.join(folder, kind)) for kind in ("samples", "labels"))
    if not samples:
        raise UserError(f"{folder} has no pictures in samples/: image_sample.py writes them there")
    if not labels:
        raise UserError(
            f"{folder} has no label maps in labels/: images of an unconditional network cannot be evaluated"
        )
    problems = [f"{path}: no label map of this name in labels/" for stem, path in samples.items() if stem not in labels]
    problems += [f"{path}: no image of this name in samples/" for stem, path in labels.items() if stem not in samples]
    raise_problems(f"{folder} is not as image_sample.py writes it:", problems)
    _refuse_few(folder, len(samples))
    by_stem, maps = {frame.stem: frame for frame in real}, label_maps(folder)
    return [
        _synthetic_frame(stem, samples[stem], labels[stem], maps.get(stem, ROUND.sub("", stem)), by_stem)
        for stem in sorted(samples, key=natural_key)
    ]


def label_maps(folder: str) -> dict[str, str]:
    """The stem of the label map of each image, as manifest.csv has it; nothing where there is no manifest."""
    rows = Results(folder, 0).made()
    return {stem: splitext(basename(row["label_map"]))[0] for stem, row in rows.items() if row.get("label_map")}


def _synthetic_frame(stem: str, image: str, label: str, label_map: str, real: dict[str, Frame]) -> Frame:
    source = next((name for name in (label_map, DEFORMATION.sub("", label_map)) if name in real), "")
    split = next((split for split in SPLITS if split in label_map), "")
    patient = real[source].patient if source else _patient(DEFORMATION.sub("", label_map), split)
    return Frame(stem, image, label, patient, label_map, source)


def _patient(stem: str, split: str) -> str:
    """Patients count anew in each split of CAMUS' older release; a name that tells no patient is one of its own."""
    found = PATIENT.match(stem)
    return f"{split}/{found[0] if found else stem}"


def _pictures(folder: str) -> dict[str, str]:
    names = storage.list_names(folder) if storage.is_folder(folder) else []
    return {splitext(name)[0]: storage.join(folder, name) for name in names if is_picture(name)}


def _refuse_few(where: str, count: int) -> None:
    if count < LEAST_IMAGES:
        raise UserError(f"{where} has {count} images: at least {LEAST_IMAGES} are needed")


# --- Pixels -----------------------------------------------------------------------------------------------------------


def read_frame(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels and classes, [H, W] uint8 each.

    Raises UserError for files that are none, differ in size, hold other classes, or an image of one grey level alone.
    """
    image = decode_image(read_file(frame.image_path), frame.image_path)
    labels = decode_labels(read_file(frame.label_path), frame.label_path)
    if image.shape != labels.shape:
        sizes = " and ".join(f"{height} x {width}" for height, width in (image.shape, labels.shape))
        raise UserError(f"{frame.image_path}: image and label map differ in size ({sizes} pixels)")
    try:
        check_classes(labels, len(CLASSES))
    except UserError as error:
        raise UserError(f"{frame.label_path} {error}") from None
    if image.min() == image.max():
        raise UserError(f"{frame.image_path} is constant: grey level {image.min()} everywhere")
    if not labels.any():
        raise UserError(f"{frame.label_path} is 0 everywhere: no cone, nothing to measure")
    return image, labels


def size_of(frame: Frame) -> tuple[int, int]:
    """(height, width) in pixels. Raises UserError."""
    return read_frame(frame)[0].shape


def batches(
    frames: Sequence[Frame], size: tuple[int, int], batch_size: int, title: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and label maps, [B, H, W] uint8 each, in the order of `frames`, with a progress bar.

    Raises UserError at the end, with all files that cannot be read, or are not of `size`.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(READERS) as pool, Progress(title, len(frames), "image") as bar:
        for start in range(0, len(frames), batch_size):
            batch = frames[start : start + batch_size]
            read = list(pool.map(lambda frame: _read_or_problem(frame, size), batch))
            problems += [one for one in read if isinstance(one, str)]
            bar.reach(start + len(batch))
            if not problems:
                yield np.stack([image for image, _ in read]), np.stack([labels for _, labels in read])
    raise_problems(f"{len(problems)} of {len(frames)} {title} cannot be evaluated:", problems)


def _read_or_problem(frame: Frame, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | str:
    try:
        image, labels = read_frame(frame)
    except UserError as error:
        return str(error)
    if image.shape != size:
        found, wanted = (f"{height} x {width}" for height, width in (image.shape, size))
        return f"{frame.image_path} is {found} pixels, others {wanted}: bring all to one size"
    return image, labels

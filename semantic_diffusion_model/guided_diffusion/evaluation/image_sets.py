"""Folders on disk -> frames with their label maps and patients, read a batch at a time.

Here, and nowhere else, metadata.csv and names tell which patient, label map and round a frame belongs to.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import basename, splitext

import numpy as np

from command import UserError
from config import Settings
from dataset_description import DESCRIPTION, METADATA, Description
from guided_diffusion.data.arrays import read_file
from guided_diffusion.data.datasets import find_pairs, has_split, natural_key, raise_problems
from guided_diffusion.data.description import read_description, refuse_deformed_labels
from guided_diffusion.data.label_maps import check_classes
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.runs import storage
from guided_diffusion.sampling.results import Results
from picture_files import decode_image, decode_labels, is_picture
from progress import Progress
from schema import parse_csv

SPLITS = ("training", "validation", "testing")
LEAST_IMAGES = 10
READERS = 4
PATIENT = re.compile(r"(?P<patient>[A-Za-z]*\d+)_.*", re.DOTALL)
"""Where no description says how names tell it."""


@dataclass(frozen=True)
class Frame:
    """A picture and its label map. `label_map` names the map it was drawn for (of a real frame: its own stem),
    `source` the real frame whose label was deformed into it, or "" where real_dir has none; `label_sha256` is of the
    map's file, as manifest.csv has it."""

    stem: str
    image_path: str
    label_path: str
    patient: str
    label_map: str
    source: str
    label_sha256: str = ""


def described(real_dir: str, synthetic_dirs: Collection[str]) -> Description:
    """What real_dir holds. Raises UserError for a synthetic set of another description (none: CAMUS')."""
    found, *others = (_description(folder) for folder in (real_dir, *synthetic_dirs))
    for folder, other in zip(synthetic_dirs, others, strict=True):
        if other != found:
            keys = [key for key in Description.model_fields if getattr(other, key) != getattr(found, key)]
            raise UserError(
                f"{folder} is not of the data set of real_dir {real_dir}: their {DESCRIPTION} (none: CAMUS) differ in "
                f"{', '.join(keys)}"
            )
    return found


def _description(folder: str) -> Description:
    found = read_description(Settings(datadir=folder, dataset_mode="camus"))
    assert found is not None
    return found


class Patients:
    """Who a frame of `folder` is of: as its metadata.csv says, or else its name."""

    def __init__(self, folder: str, description: Description):
        path = storage.join(folder, METADATA)
        self.rows: dict[str, dict[str, str]] = {}
        if (data := storage.read_if_there(path)) is not None:
            self.rows = {row["stem"]: row for row in parse_csv(data, path, ("stem", "patient"))}
        names = description.names
        own = [re.compile(names.pattern)] if names.pattern else []
        self.patterns = [one for one in own if "patient" in one.groupindex] + ([] if names.table else [PATIENT])

    def of(self, stem: str, split: str = "") -> str:
        """Patients count anew in each split of CAMUS' older release; a name that tells no patient is one of its own."""
        row = self.rows.get(stem, {})
        split = split or row.get("split") or next((split for split in SPLITS if split in stem), "")
        found = next(filter(None, (pattern.fullmatch(stem) for pattern in self.patterns)), None)
        return f"{split}/{row.get('patient') or (found['patient'] if found else stem)}"


def find_real(folder: str, description: Description, warn: Callable[[str], object]) -> dict[str, list[Frame]]:
    """The real frames of each split that is there. Raises UserError: no training split, too few, without partners."""
    settings = Settings(datadir=folder, dataset_mode="camus")
    splits = [split for split in SPLITS if has_split(settings, split)]
    if "training" not in splits:
        raise UserError(f"real_dir {folder} has no label maps in sector_annotations/training")
    pairs = find_pairs(settings, splits, warn=warn)
    refuse_deformed_labels(pairs, settings, "compare with")
    found: dict[str, list[Frame]] = {split: [] for split in splits}
    patients = Patients(folder, description)
    if description.names.table is not None:
        unknown = [f"{pair.stem} has no row" for pair in pairs if pair.stem not in patients.rows]
        raise_problems(f"{storage.join(folder, METADATA)} does not tell who all frames are of:", unknown)
    for pair in pairs:
        patient = patients.of(pair.stem, pair.split)
        frame = Frame(pair.stem, str(pair.image_path), pair.label_path, patient, pair.stem, pair.stem)
        found[pair.split].append(frame)
    _refuse_few(f"real_dir {folder}", len(pairs))
    if len({frame.patient for frames in found.values() for frame in frames}) < 2:
        raise UserError(f"real_dir {folder} has frames of one patient alone: differences need at least two")
    return found


def find_synthetic(folder: str, description: Description, real: Sequence[Frame]) -> list[Frame]:
    """The frames in samples/ with their maps in labels/. Raises UserError: unfinished, too few, without partners."""
    if Results(folder, 0).is_unfinished():
        raise UserError(f"{folder}: the sampling is not finished; run image_sample.py again, as before, to complete it")
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
    rows = Results(folder, 0).made()
    maps = {stem: splitext(basename(row["label_map"]))[0] for stem, row in rows.items() if row.get("label_map")}
    mark, patients = re.escape(description.names.mark), Patients(folder, description)
    round_, deformation = re.compile(rf"{mark}r\d+$"), re.compile(rf"{mark}\d+$")
    by_stem = {frame.stem: frame for frame in real}
    found = []
    for stem in sorted(samples, key=natural_key):
        label_map = maps.get(stem, round_.sub("", stem))
        undeformed = deformation.sub("", label_map)
        source = next((by_stem[name] for name in (label_map, undeformed) if name in by_stem), None)
        known = label_map if label_map in patients.rows else undeformed
        patient = source.patient if source else patients.of(known)
        digest = rows.get(stem, {}).get("label_sha256") or ""
        found.append(
            Frame(stem, samples[stem], labels[stem], patient, label_map, source.stem if source else "", digest)
        )
    return found


def _pictures(folder: str) -> dict[str, str]:
    names = storage.list_names(folder) if storage.is_folder(folder) else []
    return {splitext(name)[0]: storage.join(folder, name) for name in names if is_picture(name)}


def _refuse_few(where: str, count: int) -> None:
    if count < LEAST_IMAGES:
        raise UserError(f"{where} has {count} images: at least {LEAST_IMAGES} are needed")


# --- Pixels -----------------------------------------------------------------------------------------------------------


def read_frame(frame: Frame, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels and classes, [H, W] uint8 each.

    Raises UserError for files that are none, differ in size, hold other classes, or an image of one grey level alone.
    """
    image = decode_image(read_file(frame.image_path), frame.image_path)
    labels = decode_labels(read_file(frame.label_path), frame.label_path)
    if image.shape != labels.shape:
        sizes = " and ".join(f"{height} x {width}" for height, width in (image.shape, labels.shape))
        raise UserError(f"{frame.image_path}: image and label map differ in size ({sizes} pixels)")
    check_classes(labels, len(classes.names), frame.label_path)
    if image.min() == image.max():
        raise UserError(f"{frame.image_path} is constant: grey level {image.min()} everywhere")
    if not classes.shown(labels).any():
        raise UserError(f"{frame.label_path} is {classes.outside} everywhere: no cone, nothing to measure")
    return image, labels


def size_of(frame: Frame, classes: Classes) -> tuple[int, int]:
    """(height, width) in pixels. Raises UserError."""
    return read_frame(frame, classes)[0].shape


def batches(
    frames: Sequence[Frame], classes: Classes, size: tuple[int, int], batch_size: int, title: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and label maps, [B, H, W] uint8 each, in the order of `frames`, with a progress bar.

    Raises UserError at the end, with all files that cannot be read, or are not of `size`.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(READERS) as pool, Progress(title, len(frames), "image") as bar:
        for start in range(0, len(frames), batch_size):
            batch = frames[start : start + batch_size]
            read = list(pool.map(lambda frame: _read_or_problem(frame, classes, size), batch))
            problems += [one for one in read if isinstance(one, str)]
            bar.reach(start + len(batch))
            if not problems:
                yield np.stack([image for image, _ in read]), np.stack([labels for _, labels in read])
    raise_problems(f"{len(problems)} of {len(frames)} {title} cannot be evaluated:", problems)


def _read_or_problem(frame: Frame, classes: Classes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | str:
    try:
        image, labels = read_frame(frame, classes)
    except UserError as error:
        return str(error)
    if image.shape != size:
        found, wanted = (f"{height} x {width}" for height, width in (image.shape, size))
        return f"{frame.image_path} is {found} pixels, others {wanted}: bring all to one size"
    return image, labels

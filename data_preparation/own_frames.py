"""The frames of any data set, as its dataset.json describes them: files paired and named, patients put into splits."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from command import UserError
from dataset_description import Description
from dataset_schema import LONGEST_MARK
from input_files import real_path
from medical_images import without_suffix
from names import ALL_VIEWS, LONGEST_NAME, SPLIT_OF_WORD, Naming, choose_mark, read_table, view_folder
from picture_files import passed_over
from source_files import is_source

UNFIT = re.compile(r"[\x00-\x1f\x7f/\\\ud800-\udfff]")  # the last: bytes that are no UTF-8


@dataclass(frozen=True)
class OwnFrame:
    """An image with its label map, and what is known of it."""

    name: str  # of the image, without its ending
    image: Path
    label: Path
    patient: str
    view: str  # of its view folder: with the phase, where there is one
    phase: str
    split: str  # empty where nothing tells


def list_sources(folder: Path, problems: list[str], warnings: list[str]) -> dict[str, Path]:
    """Name without ending -> file in `folder`. Two files of one name are a problem; hidden files are passed over, other
    ones that are no images by name, and folders, are so with a warning. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in entries:
        if not path.is_file() or not is_source(path):
            continue
        name = without_suffix(path)
        if name in found:
            problems.append(f"{path}: another file has this name: {found[name].name}")
        found[name] = path
    others = [path.name for path in entries if path.suffix.lower() not in (".raw", ".zraw")]
    others = [name for name in others if not (folder / name).is_file() or not is_source(folder / name)]
    if left := passed_over(folder, [name.encode(errors="replace").decode() for name in others]):
        warnings.append(left)
    return found


def pair_sources(
    images: Path, labels: Path, ending: str, problems: list[str], warnings: list[str]
) -> dict[str, tuple[Path, Path]]:
    """Name -> (image, label map), whose name has `ending` after that of the image; the two may lie in one folder. What
    has no partner is a problem."""
    image_files, label_files = (list_sources(folder, problems, warnings) for folder in (images, labels))
    same = real_path(images) == real_path(labels)
    if same and not ending:
        return problems.append(f"{images} holds images and label maps: names.label_ending has to tell them apart") or {}
    if ending:
        image_files = {name: path for name, path in image_files.items() if not (same and name.endswith(ending))}
        label_files = {name[: -len(ending)]: path for name, path in label_files.items() if name.endswith(ending)}
    problems += [
        f"{path} has no label map {name}{ending} in {labels}"
        for name, path in image_files.items()
        if name not in label_files
    ]
    problems += [
        f"{path} has no image {name} in {images}" for name, path in label_files.items() if name not in image_files
    ]
    return {name: (path, label_files[name]) for name, path in image_files.items() if name in label_files}


def find_frames(images: Path, labels: Path, description: Description, beside: Path) -> tuple[list[OwnFrame], list[str]]:
    """All frames, and warnings. `beside` is the folder of dataset.json, in which the table of names lies.

    Raises UserError that lists what is wrong with files and names.
    """
    problems: list[str] = []
    warnings: list[str] = []
    pairs = pair_sources(images, labels, description.names.label_ending, problems, warnings)
    if not pairs and not problems:
        raise UserError(f"{images} holds no images (PNG, JPEG, BMP, TIFF, NIfTI, MHD, DICOM)")
    naming = Naming(description, read_table(beside, description))
    frames, nameless = [], []
    for name, (image, label) in pairs.items():
        if wrong := unfit(name):
            problems.append(f"{str(image).encode(errors='replace').decode()}: {wrong}")
            continue
        try:
            found = naming.fields(name, image.name)
        except UserError as error:
            problems.append(f"{image}: {error}")
            continue
        if found is None:
            nameless.append(image)
            continue
        view = view_folder(found["view"], found["phase"])
        if view and (wrong := unfit(view) or (view == ALL_VIEWS and "is the name of all views together")):
            problems.append(f"{image}: the view {view!r} {wrong}")
        split = SPLIT_OF_WORD.get(found["split"].lower(), "") if found["split"] else ""
        if found["split"] and not split:
            problems.append(f"{image}: the split {found['split']!r} is none of {', '.join(SPLIT_OF_WORD)}")
        frames.append(OwnFrame(name, image, label, found["patient"], view, found["phase"], split))
    problems += _without_name(nameless, len(pairs), description)
    problems += _in_two_splits(frames)
    if problems:
        raise UserError(f"{images} and {labels} have {len(problems)} problems:", problems)
    return frames, warnings


def unfit(name: str) -> str:
    """What keeps `name` from being that of a file or folder here; empty if nothing does."""
    if UNFIT.search(name):
        return "a control character, slash, backslash or what is no UTF-8 stands in the name"
    if name.startswith("."):
        return "the name begins with a point"
    return f"the name is longer than {LONGEST_NAME} bytes" if len(name.encode()) > LONGEST_NAME else ""


def _without_name(nameless: list[Path], count: int, description: Description) -> list[str]:
    """Problems of the images that the description does not know: one line if those are all."""
    key = "names.pattern" if description.names.table is None else "names (pattern and table together)"
    if nameless and len(nameless) == count:
        return [f"{key} of the description matches none of the {count} names, {nameless[0].name!r} for one"]
    return [f"{path}: {key} of the description does not match this name" for path in nameless]


def _in_two_splits(frames: Iterable[OwnFrame]) -> list[str]:
    splits: dict[str, dict[str, OwnFrame]] = defaultdict(dict)
    for frame in frames:
        splits[frame.patient].setdefault(frame.split or "no split", frame)
    return [
        f"patient {patient} is in {' and '.join(f'{split} ({one.image.name})' for split, one in found.items())}"
        for patient, found in splits.items()
        if len(found) > 1
    ]


def draw_splits(
    frames: list[OwnFrame], shares: dict[str, float], seed: int
) -> tuple[list[OwnFrame], dict[str, list[str]]]:
    """The frames, each in a split, and the patients drawn for each split that no frame was in.

    Splits that nobody is in are drawn among the patients of training, or of no split: the share of all patients, one at
    least. Raises UserError if too few patients are left.
    """
    split_of = {frame.patient: frame.split or "training" for frame in frames}
    missing = [split for split in shares if split not in split_of.values() and shares[split] > 0]
    free = sorted(patient for patient, split in split_of.items() if split == "training")
    order = np.random.default_rng([seed, 0]).permutation(len(free)).tolist()
    drawn: dict[str, list[str]] = {}
    for split in missing:
        count = max(1, round(shares[split] * len(split_of)))
        if count >= len(order):
            raise UserError(f"{len(free)} patients are too few to draw {' and '.join(missing)} from, by these shares")
        drawn[split] = sorted(free[order.pop()] for _ in range(count))
        split_of |= dict.fromkeys(drawn[split], split)
    return [replace(frame, split=split_of[frame.patient]) for frame in frames], drawn


def without_split(told: Iterable[OwnFrame], placed: Iterable[OwnFrame]) -> list[str]:
    """A warning of the patients who are in training because nothing says their split, where it does of others; `placed`
    are the frames of `told`, each in a split."""
    pairs = list(zip(told, placed, strict=True))
    silent = {after.patient for before, after in pairs if not before.split and after.split == "training"}
    if not silent or not any(before.split for before, _ in pairs):
        return []
    return [f"{len(silent)} patients have no split, where others have one, and are in training: {min(silent)} for one"]


def mark_for(frames: Iterable[OwnFrame]) -> str:
    """What is to stand before the numbers that later commands append to these names. Raises UserError."""
    mark = choose_mark(frame.name for frame in frames)
    if len(mark) > LONGEST_MARK:
        raise UserError(f"a name ends in {len(mark) - 1} underscores and a number: no more than {LONGEST_MARK - 1} do")
    return mark

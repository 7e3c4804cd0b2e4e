"""Which cases there are: images and annotations paired by name, and what metadata.csv knows of them.

Layout, as the data preparation writes it: `<data>/{images,annotations}/{training,validation,testing}/<stem>.png`, with
an optional `<data>/metadata.csv`.
"""

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from command import UserError
from dataset_description import Description, camus, read_description
from input_files import read_if_there
from medical_images import FIELD_OF_VIEW_MM, is_utf8
from picture_files import is_picture, passed_over
from schema import Record, checked, parse_csv, shown

SPLITS = ("training", "validation", "testing")
KINDS = ("images", "annotations")
SECTOR_ANNOTATIONS = "sector_annotations"  # beside them in what the diffusion model is trained with, or sampled from
PHASES = ("ED", "ES")
STEM = re.compile(r"(?P<patient>patient\d+)_(?P<view>[^_]+)_(?P<phase>ED|ES)(_.*)?")
GEOMETRY = ("native_height", "native_width", "spacing_depth_mm", "spacing_lateral_mm")
CLINICAL = ("ef", "edv_ml", "esv_ml")
Millimetres = Annotated[float, Interval(gt=0, le=1e3)]
Volume = Annotated[float, Interval(gt=0, le=1e5)]


class MetadataRow(Record):
    """What is relied on in a row of metadata.csv; empty fields are left out."""

    stem: str
    native_height: Annotated[int, Interval(ge=1, le=2**16)] | None = None
    native_width: Annotated[int, Interval(ge=1, le=2**16)] | None = None
    spacing_depth_mm: Millimetres | None = None
    spacing_lateral_mm: Millimetres | None = None
    ef: Annotated[float, Interval(gt=0, le=100)] | None = None
    edv_ml: Volume | None = None
    esv_ml: Volume | None = None
    image_interpolation: Literal["nearest", "area"] = "nearest"


@dataclass(frozen=True)
class Case:
    """One image and its annotation. What is not known is an empty string or None."""

    stem: str
    image: Path
    annotation: Path
    patient: str = ""
    view: str = ""
    phase: str = ""
    image_quality: str = ""
    extent_mm: tuple[float, float] | None = None
    """Depth and lateral extent of the whole frame (rows, columns), whatever its present size in pixels."""
    clinical: tuple[float | None, ...] = (None,) * 3
    """Ejection fraction (%), end-diastolic and end-systolic volume (ml) as reported by the data set."""
    source: str = ""
    """The image in the release it was extracted from, relative to the release's root."""
    native_size: tuple[int, int] | None = None
    """Rows and columns of the source."""
    alignment: Literal["nearest", "area"] = "nearest"
    """How it was extracted; what metadata.csv does not say was extracted as published."""


def split_folder(data_dir: str, kind: str, split: str) -> Path:
    """Folder of one kind (images or annotations) of one split."""
    base = Path(data_dir.replace("%s", kind)) if "%s" in data_dir else Path(data_dir) / kind
    return base / split


def check_data_dir(data_dir: str, flag: str = "--data-dir") -> None:
    """Raises UserError unless `data_dir`, given by `flag`, leads to a folder of images and one of annotations."""
    if data_dir.count("%s") > 1:
        raise UserError(f"{flag} {data_dir}: %s may stand once, where images or annotations goes")
    for kind in KINDS:
        folder = split_folder(data_dir, kind, "")
        if folder.is_dir():
            continue
        hint = f"give a folder that holds {KINDS[0]} and {KINDS[1]}, or a path with %s in that place (/path/%s/)"
        if kind == "annotations" and split_folder(data_dir, SECTOR_ANNOTATIONS, "").is_dir():
            hint = "it has sector_annotations, the labels of the diffusion model: run prepare_inference4segmentation.py"
        elif "%" in data_dir.replace("%s", ""):
            hint = "the only place holder is %s"
        raise UserError(f"{flag} {data_dir}: {folder} is not a folder; {hint}")


def find_cases(data_dir: str, split: str, optional: bool = False, flag: str = "--data-dir") -> list[Case]:
    """The cases of a split, sorted by name; none if `optional` and the split is not there.

    Hidden files and folders are passed over, and what is no picture by its name, with a warning. Raises UserError for a
    split that is not there or empty, for an image without annotation and the other way round (all of them are listed).
    """
    folders = [split_folder(data_dir, kind, split) for kind in KINDS]
    if optional and not any(folder.is_dir() for folder in folders):
        return []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{flag} {data_dir}: the folder {folder} is not there")
    images, annotations = (_pictures(folder) for folder in folders)
    problems = [f"{images[stem]}: no annotation of this name" for stem in sorted(set(images) - set(annotations))]
    problems += [f"{annotations[stem]}: no image of this name" for stem in sorted(set(annotations) - set(images))]
    if problems:
        raise UserError(f"{len(problems)} files of {split} have no partner:", problems)
    if not images:
        raise UserError(f"{folders[0]}: no pictures")
    refuse_deformed(data_dir, images, flag)
    table, own = read_metadata(metadata_file(data_dir)), description_of(data_dir) != camus()
    cases = [_describe(stem, images[stem], annotations[stem], table.get(stem, {}), own) for stem in sorted(images)]
    doubtful = sum(bool(table.get(case.stem, {}).get(GEOMETRY[2])) and case.extent_mm is None for case in cases)
    if doubtful:
        print(
            f"warning: {metadata_file(data_dir)}: the size of the pixels of {doubtful} frames is not believed "
            "(1 x 1 mm, or a field of view outside 3 to 40 cm) and taken for unknown",
            file=sys.stderr,
        )
    return cases


def refuse_deformed(data_dir: str, stems: Collection[str], flag: str) -> None:
    """Raises UserError for deformed label maps, made to sample from: they lie beside images that are not theirs."""
    if not split_folder(data_dir, SECTOR_ANNOTATIONS, "").is_dir():
        return
    names = re.compile(rf".+{description_of(data_dir).names.mark}\d+", re.DOTALL)
    if deformed := [stem for stem in stems if names.fullmatch(stem)]:
        raise UserError(
            f"{flag} {data_dir}: {len(deformed)} label maps are deformed (as {deformed[0]}), their images are not: "
            "that is to sample from; give real frames, or the folder that prepare_inference4segmentation.py makes"
        )


def _pictures(folder: Path) -> dict[str, Path]:
    """By name without suffix. Warns of what is passed over; raises UserError for two files of one name."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and not file.is_dir())
    if left := passed_over(folder, [file.name for file in files if not is_picture(file)]):
        print(f"warning: {left}", file=sys.stderr)
    if odd := [ascii(str(file)) for file in files if not is_utf8(file.name)]:
        raise UserError(f"{folder}: {len(odd)} names are no UTF-8:", odd)
    found = {file.stem: file for file in files if is_picture(file)}
    twice = [str(file) for file in files if is_picture(file) and found[file.stem] != file]
    if twice:
        raise UserError(f"{folder}: {len(twice)} names occur twice, with different endings:", twice)
    return found


def with_quality(cases: list[Case], qualities: Sequence[str]) -> list[Case]:
    """The cases whose image quality is one of `qualities`; all if none is named. Raises UserError for one that no case
    has: misspelt, it would leave cases out unnoticed."""
    there = {case.image_quality for case in cases} - {""}
    if unknown := [quality for quality in qualities if quality not in there]:
        told = ", ".join(sorted(there)) or "none: metadata.csv does not tell"
        raise UserError(f"--image-quality {' '.join(unknown)}: no such case; image qualities there: {told}")
    return [case for case in cases if not qualities or case.image_quality in qualities]


def description_of(data_dir: str) -> Description:
    """What the data in `data_dir` are: the dataset.json beside metadata.csv, or CAMUS' where there is none."""
    return read_description(metadata_file(data_dir).parent)


def metadata_file(data_dir: str) -> Path:
    """metadata.csv of a data folder: beside the images and annotations folders."""
    if "%s" not in data_dir:
        return Path(data_dir) / "metadata.csv"
    before = data_dir.split("%s")[0]
    return (Path(before) if before.endswith("/") or not before else Path(before).parent) / "metadata.csv"


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Rows of metadata.csv by stem; empty if there is no such file. Raises UserError if it is not one."""
    data = read_if_there(path)
    if data is None:
        return {}
    rows = parse_csv(data, str(path), ("stem", *GEOMETRY))
    problems = []
    for number, row in enumerate(rows, start=2):
        try:
            checked(MetadataRow, {name: value for name, value in row.items() if value}, "")
        except UserError as error:
            problems.append(f"line {number}, {shown(row['stem'])}{error}")
    table = {row["stem"]: row for row in rows}
    if len(table) < len(rows):
        problems.append(f"{len(rows) - len(table)} stems stand in it more than once")
    if problems:
        raise UserError(f"{path} cannot be used:", problems)
    return table


def _describe(stem: str, image: Path, annotation: Path, row: dict[str, str], own: bool) -> Case:
    """metadata.csv comes first; otherwise, unless the data set is one's `own`, a name like patient0001_2CH_ED_testing
    tells patient, view and phase."""
    match = None if own else STEM.fullmatch(stem)
    known = {name: row.get(name) or (match[name] if match else "") for name in ("patient", "view", "phase")}
    phase = known["phase"] if own else known["view"][-2:]
    if phase and (own or phase in PHASES):  # known is a view folder's name
        known["view"] = known["view"].removesuffix(f"_{phase}")
    geometry = [float(row.get(name) or 0) for name in GEOMETRY]
    extent = (geometry[0] * geometry[2], geometry[1] * geometry[3])
    low, high = FIELD_OF_VIEW_MM
    believed = own or (geometry[2:] != [1, 1] and all(low <= mm <= high for mm in extent))  # own: said by hand, or so
    return Case(
        stem,
        image,
        annotation,
        **known,
        image_quality=row.get("image_quality") or "",
        extent_mm=extent if believed and all(extent) else None,
        clinical=tuple(float(row[name]) if row.get(name) else None for name in CLINICAL),
        source=row.get("source") or "",
        native_size=(int(geometry[0]), int(geometry[1])) if all(geometry[:2]) else None,
        alignment=row.get("image_interpolation") or "nearest",
    )

"""View folders: <view>/{images,annotations}/<split>/<stem>.png with metadata.csv, as the commands here hand them on."""

import csv
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Interval

from camus import INFO_LARGEST, METADATA_COLUMNS, PHANTOMS, RELEASE_FOLDERS, VIEW_NAMES
from command import UserError
from dataset_description import DESCRIPTION, METADATA, Description, camus, read_description
from dataset_schema import Millimetres
from input_files import read_if_there
from names import ALL_VIEWS, OWN_TABLE, SPLITS, Naming, Stem, naming_of
from picture_files import decode_image, decode_labels, is_picture, passed_over, read_bytes
from schema import Record, checked, parse_csv

KINDS = IMAGES, ANNOTATIONS, SECTOR_ANNOTATIONS = "images", "annotations", "sector_annotations"
MOST_WARNINGS = 20


def read_image(path: Path) -> np.ndarray:
    """Grey values [height, width] uint8 of a picture. Raises UserError."""
    return decode_image(read_bytes(path), str(path))


def read_label(path: Path) -> np.ndarray:
    """Class values [height, width] uint8 of a label map. Raises UserError."""
    return decode_labels(read_bytes(path), str(path))


def warn(texts: Collection[str]) -> None:
    """Print warnings, the first of them if they are many."""
    texts = list(texts)
    rest = len(texts) - MOST_WARNINGS
    for text in [*texts[:MOST_WARNINGS], *([f"and {rest} more like these"] if rest > 0 else [])]:
        print(f"warning: {text}", file=sys.stderr)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 `pixels` [height, width] as the bytes of a PNG file."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def check_labels(path: Path, label: np.ndarray, classes: int) -> None:
    """Raises UserError if `label` holds values outside 0 .. classes - 1."""
    if label.max() >= classes:
        wrong = np.unique(label[label >= classes])
        values = ", ".join(map(str, wrong[:8])) + (", …" if len(wrong) > 8 else "")
        raise UserError(f"{path} has label values outside 0-{classes - 1}: {values}")


def check_same_size(image_path: Path, image: np.ndarray, label_path: Path, label: np.ndarray) -> None:
    """Raises UserError if image and label differ in height or width."""
    if image.shape != label.shape:
        sizes = [f"{height} x {width}" for height, width in (image.shape, label.shape)]
        raise UserError(f"{image_path} is {sizes[0]} pixels, its label {label_path.name} {sizes[1]}")


class MetadataRow(Record):
    """What numbers a row of metadata.csv may hold; empty fields are left out."""

    stem: str
    native_height: Annotated[int, Interval(ge=1, le=2**16)] | None = None
    native_width: Annotated[int, Interval(ge=1, le=2**16)] | None = None
    spacing_depth_mm: Millimetres | None = None
    spacing_lateral_mm: Millimetres | None = None
    ef: Annotated[float, Interval(gt=0, le=INFO_LARGEST["ef"])] | None = None
    edv_ml: Annotated[float, Interval(gt=0, le=INFO_LARGEST["edv_ml"])] | None = None
    esv_ml: Annotated[float, Interval(gt=0, le=INFO_LARGEST["esv_ml"])] | None = None
    image_interpolation: Literal["nearest", "area"] = "nearest"


@dataclass(frozen=True)
class Pair:
    """An image and its label map, paired by file name."""

    stem: Stem
    image: Path
    label: Path


def list_pictures(folder: Path, naming: Naming, problems: list[str]) -> dict[Stem, Path]:
    """Stem -> file of the pictures in `folder`; bad names, and names that occur twice, are problems.

    Hidden files are passed over; other files that are no pictures are, too, with a warning that counts and names them.
    """
    found: dict[Stem, Path] = {}
    if not folder.is_dir():
        return found
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    for path in filter(is_picture, files):
        try:
            stem = naming.parse(path.stem)
        except UserError as error:
            problems.append(f"{path}: {error}")
            continue
        if stem in found:
            problems.append(f"{path}: another file has this name: {found[stem]}")
        found[stem] = path
    if left := passed_over(folder, [path.name for path in files if not is_picture(path)]):
        warn([left])
    return found


def pair_by_name(images: Path, labels: Path, naming: Naming, problems: list[str]) -> list[Pair]:
    """Pictures of the folder `images` with those of the same name in `labels`; one without the other is a problem."""
    image_files, label_files = (list_pictures(folder, naming, problems) for folder in (images, labels))
    problems += [
        f"{path} has no label map in {labels}" for stem, path in image_files.items() if stem not in label_files
    ]
    problems += [f"{path} has no image in {images}" for stem, path in label_files.items() if stem not in image_files]
    return [Pair(stem, path, label_files[stem]) for stem, path in image_files.items() if stem in label_files]


def list_pairs(view_folder: Path, problems: list[str], splits: Iterable[str] = SPLITS) -> list[Pair]:
    """All pairs of a view folder; a file whose name says another split than its folder is a problem."""
    pairs, naming = [], naming_of(view_folder)
    for split in splits:
        found = pair_by_name(view_folder / IMAGES / split, view_folder / ANNOTATIONS / split, naming, problems)
        problems += [f"{pair.image} lies in the folder of {split}" for pair in found if pair.stem.split != split]
        pairs += found
    return pairs


def not_real(pair: Pair) -> str:
    """The problem of a pair whose name is not that of a real frame, where such are needed."""
    return f"{pair.image} is a deformed copy or a further sampling round, by its name: real frames are needed here"


def is_view_folder(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir()


def is_made_here(folder: Path) -> bool:
    """Whether a view folder with a description is one of ours, by the names that it points to: not somebody's source
    data, which may look like one. Raises UserError for a description that cannot be read."""
    if not (is_view_folder(folder) and (folder / METADATA).is_file()):
        return False
    return read_description(folder).names.table == OWN_TABLE


def is_replaceable(folder: Path) -> bool:
    """Whether all in this folder is what the toolkit writes into a view folder, and metadata.csv is its own: nothing is
    lost that cannot be made again."""
    table = folder / METADATA
    if not (is_view_folder(folder) and table.is_file()):
        return False
    with open(table, "rb") as file:
        columns = file.readline(1 << 12).decode(errors="replace").strip().split(",")
    known = {*KINDS, METADATA, DESCRIPTION, PHANTOMS}
    return (
        columns[0] == "stem"
        and {*columns} <= {*METADATA_COLUMNS}
        and all(path.name in known or path.name.startswith(".") for path in folder.iterdir())
    )


def find_view_folders(folder: Path) -> list[Path]:
    """`folder` itself if it is a view folder, otherwise the view folders of the extracted set in it.

    Raises UserError if there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    if is_view_folder(folder):
        return [folder]
    views = [folder / name for name in names_of_set(folder)]
    for view in views:
        missing = [kind for kind in (IMAGES, ANNOTATIONS) if not (view / kind).is_dir()]
        if len(missing) == 1:
            raise UserError(f"{view} is not whole: {missing[0]}/ is missing")
    found = [view for view in views if is_view_folder(view)]
    if not found:
        raise UserError(
            f"{folder} is neither a view folder (with images/ and annotations/) nor a folder of view folders"
        )
    return found


def folders_of(view: str) -> tuple[str, ...]:
    """The view folders that a frame stands in: that of its view, if it has one, and that of all."""
    return (view, ALL_VIEWS) if view else (ALL_VIEWS,)


def names_of_set(folder: Path, views: Iterable[str] = ()) -> list[str]:
    """The names of view folders that `folder` holds, or would hold with `views`: those of CAMUS, whether there or not,
    those made here with a description of their own, and last of all views together."""
    described = folder.glob(f"*/{DESCRIPTION}") if folder.is_dir() else ()
    views_there = (path.parent for path in described if is_made_here(path.parent))
    own = {view.name for view in views_there if not (view / SECTOR_ANNOTATIONS).is_dir()}  # which are made from views
    return list(dict.fromkeys((*VIEW_NAMES, *sorted((own | set(views)) - {ALL_VIEWS}), ALL_VIEWS)))


def make_folders(
    out: Path, folders: Iterable[str], kinds: Callable[[str], Iterable[str]] = lambda split: (IMAGES, ANNOTATIONS)
) -> None:
    """Make the view folders below `out`, empty, with those of the `kinds` that a split has."""
    for folder in folders:
        for split in SPLITS:
            for kind in kinds(split):
                (out / folder / kind / split).mkdir(parents=True)


def common_description(folders: Iterable[Path]) -> Description:
    """The description of view folders, or sampling results. Raises UserError if it is not the same of all."""
    found = {folder: read_description(folder) for folder in folders}
    first = next(iter(found))
    for folder, description in found.items():
        if description != found[first]:
            raise UserError(
                f"{first} and {folder} are not of one data set: they hold different {DESCRIPTION} (none means CAMUS)"
            )
    return found[first]


def write_description(folder: Path, description: Description) -> None:
    """The folder's dataset.json. CAMUS needs none."""
    if description != camus():
        (folder / DESCRIPTION).write_text(description.as_json(), encoding="utf-8")


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Stem -> row of the folder's metadata.csv; empty without one. Raises UserError."""
    path = folder / METADATA
    data = read_if_there(path)
    if data is None:
        return {}
    rows = parse_csv(data, str(path), ("stem",))
    known = [{name: value for name, value in row.items() if value} for row in rows]
    checked(list[MetadataRow], known, str(path))
    by_stem = {row["stem"]: row for row in rows}
    if len(by_stem) < len(rows):
        raise UserError(f"{path}: {len(rows) - len(by_stem)} stems stand in it more than once")
    return by_stem


def spacing_fields(spacing_mm: tuple[float, float] | None) -> dict[str, object]:
    """What a row of metadata.csv says of the size of a pixel, (depth, lateral); nothing if it is not known."""
    names = ("spacing_depth_mm", "spacing_lateral_mm")
    return dict(zip(names, (round(mm, 6) or mm for mm in spacing_mm), strict=True)) if spacing_mm else {}


def write_metadata(folder: Path, rows: Iterable[dict[str, object]]) -> None:
    """The folder's metadata.csv, sorted by stem."""
    with open(folder / METADATA, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, METADATA_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["stem"]))


def metadata_row(stem: Stem, *known: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """The row of an image made from a real frame: what is known of the frame or its label map, by the first of the
    tables `known` that has it, and what the name says."""
    named = {"patient": stem.patient, "view": stem.view, "phase": stem.phase, "split": stem.split}
    rows = (table[name] for table in known for name in (stem.label_map, stem.source) if name in table)
    return {**named, **next(rows, {}), "stem": str(stem)}


def person_of(patient: str, split: str, row: Mapping[str, str], own: bool) -> str:
    """Who is shown, by a name that is the same in all splits: `patient`, but of the test patients of CAMUS' older
    release, which counts them anew. Whether it is of that, `row` of metadata.csv tells, where the data set is not one's
    `own`; where it does not, it may be."""
    anew = split == "testing" and not own and RELEASE_FOLDERS[0] not in Path(row.get("source") or "").parts
    return f"{patient} of testing" if anew else patient

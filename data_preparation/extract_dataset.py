"""Extract images and label maps of your own, as a dataset.json describes them, into view folders (docs/own_data.md)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from alignment import Direction, check_same_place, in_plane, lie_otherwise
from command import UserError, YesNo, run_command
from dataset_description import Description, parse_description
from medical_images import MedicalImage, unknown_spacing
from names import ALL_VIEWS, SPLITS
from outputs import new_folders, refuse_to_replace
from own_frames import OwnFrame, draw_splits, find_frames, mark_for, without_split
from parallel import default_workers, for_each
from progress import next_step
from resizing import check_size, resize_pair
from schema import check_settings
from source_files import read_source_image, read_source_label
from template import write_template
from view_folders import (
    ANNOTATIONS,
    IMAGES,
    check_same_size,
    encode_png,
    folders_of,
    is_replaceable,
    make_folders,
    names_of_set,
    spacing_fields,
    warn,
    write_description,
    write_metadata,
)

Share = Annotated[float, Interval(ge=0, lt=1)]


@dataclass
class OwnSettings:
    images: Path
    """Folder of the images: PNG, JPEG, BMP, TIFF, NIfTI, MHD or single-frame DICOM, grey or of equal channels."""
    labels: Path
    """Folder of their label maps, called like them (or with names.label_ending): the same kinds, but no JPEG."""
    dataset: Path
    """The dataset.json that describes them; with --write_template, where a first one is written."""
    save_folder_path: Path | None = None
    """Where the view folders are made: <save_folder_path>/<view>/{images,annotations}/<split>/*.png, and all_views."""
    write_template: YesNo = False
    """Look at the images and label maps, propose a dataset.json, say what was guessed, and do nothing else."""
    save_img_size: tuple[int, ...] = (256, 256)
    """Height and width of the extracted images in pixels (one number: both)."""
    image_interpolation: Literal["nearest", "area"] = "area"
    """area averages what a new pixel covers, and its label is the commonest there; nearest as published for CAMUS."""
    share_validation: Share = 0.1
    """Share of the patients drawn for validation, if no frame says that it is of validation. 0: none."""
    share_testing: Share = 0.1
    """Likewise for testing."""
    seed: Annotated[int, Interval(ge=0, lt=2**64)] = 0
    """The same seed draws the same patients."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace the view folders (as a whole) if save_folder_path has them already; otherwise they are an error."""


@dataclass
class Extracted:
    """What became of a frame: its row of metadata.csv, or what is wrong with it; how many pixels of its label map have
    each value before and each class after it was resized, int [256] each; and what is merely doubtful."""

    row: dict[str, object] | None = None
    problem: str | None = None
    counts: np.ndarray | None = None
    kept: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)
    direction: Direction | None = None


def extract_frame(frame: OwnFrame, out: Path, settings: OwnSettings, description: Description) -> Extracted:
    """Write the PNGs of one frame below `out`."""
    try:
        source, labelled = read_source_image(frame.image), read_source_label(frame.label)
        label = labelled.pixels
        check_same_size(frame.image, source.pixels, frame.label, label)
        doubt = check_same_place(source.medical, labelled.medical)
    except UserError as error:
        return Extracted(problem=str(error))
    counts = np.bincount(label.ravel(), minlength=256)
    place = np.zeros(256, np.uint8)  # of a value among the classes
    place[list(description.values)] = np.arange(description.num_classes)
    resized = resize_pair(source.pixels, place[label], settings.save_img_size, settings.image_interpolation)
    for kind, pixels in zip((IMAGES, ANNOTATIONS), resized, strict=True):
        data = encode_png(pixels)
        for folder in folders_of(frame.view):
            (out / folder / kind / frame.split / f"{frame.name}.png").write_bytes(data)
    spacing_mm = source.spacing_mm or description.spacing_mm
    warnings = [doubt] if doubt else []
    if source.medical is not None and source.spacing_mm is None:
        warnings += doubtful_spacing(frame.image, source.medical, spacing_mm)
    row = {
        **vars(frame),
        "stem": frame.name,
        "source": frame.image.name,
        "native_height": label.shape[0],
        "native_width": label.shape[1],
        **spacing_fields(spacing_mm),
        "image_interpolation": settings.image_interpolation,
    }
    kept = np.bincount(resized[1].ravel(), minlength=256)
    return Extracted(row, counts=counts, kept=kept, warnings=warnings, direction=in_plane(source.medical))


def doubtful_spacing(path: Path, image: MedicalImage, spacing_mm: tuple[float, float] | None) -> list[str]:
    """The warning on a size of pixels in the file that is not believed; none if it is the 1 x 1 of those that do not
    say, and the description's `spacing_mm` is there instead."""
    if spacing_mm is None:
        return [unknown_spacing(path, image)]
    if tuple(image.spacing[:2]) == (1, 1):
        return []
    depth, lateral = spacing_mm
    return [f"{unknown_spacing(path, image)}, and {depth:g} x {lateral:g} mm of the description taken instead"]


def wrong_values(
    frames: Sequence[OwnFrame], counts: Sequence[np.ndarray | None], description: Description
) -> list[str]:
    """Problems: values of label maps that no class has, by file, and classes that no label map has."""
    problems, total = [], np.zeros(256, np.int64)
    for frame, found in zip(frames, counts, strict=True):
        if found is None:
            continue
        total += found
        wrong = [value for value in np.flatnonzero(found).tolist() if value not in description.values]
        if wrong:
            told = ", ".join(f"{value} ({found[value]} pixels)" for value in wrong[:8]) + (", …" if wrong[8:] else "")
            known = ", ".join(map(str, description.values))
            problems.append(f"{frame.label}: values that no class has: {told}; those of the classes are {known}")
    pairs = list(zip(description.values, description.classes, strict=True))[1:]
    problems += [
        f"classes: {one.name!r}, value {value}, occurs in no label map" for value, one in pairs if not total[value]
    ]
    return problems


def vanished(done: Sequence[Extracted], description: Description, size: str) -> list[str]:
    """Warnings of classes too thin for the size that is asked for."""
    seen = [(one.counts, one.kept) for one in done if one.counts is not None and one.kept is not None]
    warnings = []
    for place, (value, one) in enumerate(zip(description.values, description.classes, strict=True)):
        there = sum(bool(counts[value]) for counts, _ in seen)
        lost = sum(bool(counts[value]) and not kept[place] for counts, kept in seen)
        if lost:
            warnings.append(f"{one.name} is in {there} label maps and vanishes from {lost} of them at {size} pixels")
    return warnings


def read_given(path: Path) -> Description:
    """The description in the file `path`. Raises UserError, also where it asks for volumes that nothing could tell."""
    if not path.is_file():
        raise UserError(f"--dataset {path}: no such file; --write_template True proposes one")
    description = parse_description(path.read_bytes(), str(path))
    volumes = description.volumes
    if volumes is not None and volumes.wall is None and volumes.atrium is None:
        raise UserError(f"{path}: volumes: needs wall or atrium, which tell where the cavity ends at its base")
    return description


def refuse_idle(settings: OwnSettings) -> None:
    """Raises UserError for flags of an extraction where a template is asked for."""
    used = ("images", "labels", "dataset", "write_template", "num_workers")
    for one in fields(OwnSettings):
        value = getattr(settings, one.name)
        if one.name not in used and value != one.default:
            raise UserError(f"--{one.name} {value} has no effect with --write_template True, which extracts nothing")


def extract_dataset(settings: OwnSettings) -> None:
    """Extract the data set. Raises UserError that lists everything wrong with it, before anything appears on disk."""
    check_settings(settings)
    check_size(settings)
    if settings.write_template:
        refuse_idle(settings)
        write_template(settings.images, settings.labels, settings.dataset)
        return
    if settings.save_folder_path is None:
        raise UserError("--save_folder_path is needed: where the view folders are made")
    description = read_given(settings.dataset)
    found, warnings = find_frames(settings.images, settings.labels, description, settings.dataset.parent)
    shares = {"testing": settings.share_testing, "validation": settings.share_validation}
    frames, drawn = draw_splits(found, shares, settings.seed)
    warnings += without_split(found, frames)
    views = sorted({frame.view for frame in frames} - {""})
    travelling = description.travelling(mark_for(frames))
    of_set = names_of_set(settings.save_folder_path, views)
    inputs = [settings.images, settings.labels, settings.dataset]
    if description.names.table:
        inputs.append(settings.dataset.parent / description.names.table.path)
    refuse_to_replace(inputs, settings.save_folder_path, of_set)
    size = " x ".join(map(str, settings.save_img_size))
    told = f"extracting {len(frames)} frames from {settings.images} at {size} into {settings.save_folder_path}"
    print(told, flush=True)
    with new_folders(settings.save_folder_path, of_set, settings.overwrite, is_replaceable) as out:
        make_folders(out, [*views, ALL_VIEWS])
        work = partial(extract_frame, out=out, settings=settings, description=description)
        done = list(for_each(work, frames, settings.num_workers, "frames"))
        problems = [one.problem for one in done if one.problem]
        problems += wrong_values(frames, [one.counts for one in done], description)
        if problems:
            raise UserError(f"{settings.images} and {settings.labels} have {len(problems)} problems:", problems)
        rows = [one.row for one in done if one.row]
        for folder in (*views, ALL_VIEWS):
            write_metadata(out / folder, [row for row in rows if folder in folders_of(str(row["view"]))])
            write_description(out / folder, travelling)
    warnings += vanished(done, description, size)
    warnings += lie_otherwise((frame.image, one.direction) for frame, one in zip(frames, done, strict=True))
    warn([*warnings, *(text for one in done for text in one.warnings)])
    tell(frames, rows, drawn, views, settings)


def tell(
    frames: Sequence[OwnFrame],
    rows: Sequence[dict[str, object]],
    drawn: dict[str, list[str]],
    views: Sequence[str],
    settings: OwnSettings,
) -> None:
    """Print what was extracted, who was drawn for which split, what is not known of the pixels, and what follows."""
    patients = {split: len({frame.patient for frame in frames if frame.split == split}) for split in SPLITS}
    counts = ", ".join(f"{patients[split]} {split}" for split in SPLITS)
    where = f"in {len(views)} views ({', '.join(views)})" if views else "in one view"
    print(
        f"{len(frames)} frames of {sum(patients.values())} patients ({counts}) {where}, in {settings.save_folder_path}"
    )
    for split, people in drawn.items():
        told = ", ".join(people[:8]) + (", …" if people[8:] else "")
        print(f"no frame said {split}: {len(people)} patients drawn for it, {told}")
    unknown = sum("spacing_depth_mm" not in row for row in rows)
    if unknown:
        print(
            f"the size of a pixel of {unknown} frames is not known: distances will be in pixels (spacing_mm gives it)"
        )
    augment = "data_preparation/augment_camus_labels.py", "--data_folder", settings.save_folder_path
    print(next_step(*augment, "--save_folder", "./data/sector", "--add_augmentation", "False"))


if __name__ == "__main__":
    sys.exit(run_command(extract_dataset, OwnSettings, description=__doc__))

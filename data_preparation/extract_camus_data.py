"""Extract CAMUS (MHD or NIfTI release) into folders of PNGs, one per view, and one of all views together."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from alignment import Direction, check_same_place, in_plane, lie_otherwise
from camus import PHANTOMS, VIEW_NAMES, Frame, Problem, Release, find_release, read_info
from command import UserError, YesNo, run_command
from dataset_description import camus
from dataset_schema import Millimetres
from medical_images import read_frame, unknown_spacing
from names import ALL_VIEWS, SPLITS
from outputs import new_folders, refuse_to_replace
from parallel import default_workers, for_each
from progress import next_step
from resizing import check_size, resize_pair
from schema import check_settings as check_ranges
from view_folders import (
    ANNOTATIONS,
    IMAGES,
    check_labels,
    check_same_size,
    encode_png,
    is_replaceable,
    make_folders,
    names_of_set,
    spacing_fields,
    warn,
    write_metadata,
)


@dataclass
class ExtractSettings:
    camus_data_folder: Path
    """The CAMUS release: with database_nifti/ and database_split/ (NIfTI), or training/ and testing/ (MHD)."""
    save_folder_path: Path
    """Where the view folders are made: <save_folder_path>/<view>/{images,annotations}/<split>/*.png."""
    save_img_size: tuple[int, ...] = (256, 256)
    """Height and width of the extracted images in pixels (one number: both)."""
    view_names: tuple[Literal["2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"], ...] = VIEW_NAMES
    """Views to extract."""
    image_interpolation: Literal["nearest", "area"] = "nearest"
    """nearest as published; area averages what a new pixel covers (less noise); its label is the commonest there."""
    spacing_mm: tuple[Millimetres, ...] = ()
    """Size of a pixel in the release's files, depth and lateral, in mm (one number: both), instead of what they say."""
    skip_incomplete: YesNo = False
    """Leave out patients with missing or faulty files, and say which; otherwise they are an error."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace all view folders that save_folder_path has already, those of other views too: it never holds a mix of two
    runs. Otherwise they are an error."""


@dataclass
class Extracted:
    """What became of a frame: its row of metadata.csv, or what is wrong with it; and what is merely doubtful."""

    row: dict[str, object] | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    direction: Direction | None = None


def extract_frame(frame: Frame, root: Path, out: Path, settings: ExtractSettings) -> Extracted:
    """Write the PNGs of one frame of the release in `root` below `out`."""
    problems, read = [], []
    for path in (frame.image, frame.label):
        try:
            read.append(read_frame(path))
        except UserError as error:
            problems.append(str(error))
    if problems:
        return Extracted(problems=problems)
    image, label = (found.frames[0] for found in read)
    doubts = []
    for check in (
        partial(check_same_size, frame.image, image, frame.label, label),
        partial(check_labels, frame.label, label, camus().num_classes),
        partial(check_same_place, *read),
    ):
        try:
            doubts.append(check())
        except UserError as error:
            problems.append(str(error))
    if problems:
        return Extracted(problems=problems)
    resized = resize_pair(image, label, settings.save_img_size, settings.image_interpolation)
    for kind, pixels in zip((IMAGES, ANNOTATIONS), resized, strict=True):
        data = encode_png(pixels)
        for folder in (frame.view, ALL_VIEWS):
            (out / folder / kind / frame.split / f"{frame.stem}.png").write_bytes(data)
    info, warnings = read_info(frame.info)
    warnings += filter(None, doubts)
    spacing_mm = settings.spacing_mm or read[0].spacing_mm
    if spacing_mm is None:
        warnings.append(f"{unknown_spacing(frame.image, read[0])}; --spacing_mm gives it by hand")
    row = {
        "stem": frame.stem,
        "patient": frame.patient,
        "view": frame.view,
        "phase": frame.view.split("_")[1],
        "split": frame.split,
        "source": frame.image.relative_to(root).as_posix(),
        "native_height": image.shape[0],
        "native_width": image.shape[1],
        **spacing_fields(spacing_mm),
        "image_interpolation": settings.image_interpolation,
        **info,
    }
    return Extracted(row, warnings=warnings, direction=in_plane(read[0]))


def check_settings(settings: ExtractSettings) -> None:
    """Make save_img_size (height, width). Raises UserError for impossible settings."""
    check_ranges(settings)
    check_size(settings)
    spacing = settings.spacing_mm
    if len(spacing) > 2:
        raise UserError(f"--spacing_mm {' '.join(map(str, spacing))}: one or two numbers")
    settings.spacing_mm = spacing * 2 if len(spacing) == 1 else spacing
    settings.view_names = tuple(name for name in VIEW_NAMES if name in settings.view_names)
    if not settings.view_names:
        raise UserError("--view_names: name at least one view")


def extract_camus_data(settings: ExtractSettings) -> None:
    """Extract the release. Raises UserError that lists everything wrong with it, before anything appears on disk."""
    check_settings(settings)
    release = find_release(settings.camus_data_folder)
    if release.root != settings.camus_data_folder:
        print(f"{settings.camus_data_folder} is not the release itself: {release.root} is taken", file=sys.stderr)
    frames = [release.frame(*person, view) for person in release.people for view in settings.view_names]
    folders = (*settings.view_names, ALL_VIEWS)
    of_set = names_of_set(settings.save_folder_path)
    refuse_to_replace([release.root], settings.save_folder_path, of_set)
    height, width = settings.save_img_size
    print(
        f"extracting {len(frames)} frames of {len(release.people)} patients from {release.root} "
        f"at {height} x {width} into {settings.save_folder_path}",
        flush=True,
    )
    with new_folders(settings.save_folder_path, of_set, settings.overwrite, is_replaceable) as out:
        make_folders(out, folders)
        work = partial(extract_frame, root=release.root, out=out, settings=settings)
        done = list(for_each(work, frames, settings.num_workers, "frames"))
        problems = list(release.problems)
        for frame, one in zip(frames, done, strict=True):
            problems += [Problem(text, (frame.split, frame.patient)) for text in one.problems]
        lying = lie_otherwise((frame.image, one.direction) for frame, one in zip(frames, done, strict=True))
        warn([*lying, *dict.fromkeys(text for one in done for text in one.warnings)])
        skipped = _refuse_or_skip(problems, settings)
        kept = []
        for frame, one in zip(frames, done, strict=True):
            if (frame.split, frame.patient) in skipped:
                _remove(frame, out)
            else:
                kept.append(one.row)
        if not kept:
            raise UserError(f"{settings.camus_data_folder}: no complete patient is left", [p.text for p in problems])
        for split in {split for split, _ in release.people} - {row["split"] for row in kept}:
            print(f"warning: no patient of {split} is left", file=sys.stderr)
        for folder in folders:
            write_metadata(out / folder, [row for row in kept if folder in (row["view"], ALL_VIEWS)])
            if release.phantoms:
                (out / folder / PHANTOMS).write_text("Extracted from what make_phantom_camus.py made: no real data.\n")
    tell(release, kept, skipped, settings)


def tell(
    release: Release,
    kept: Sequence[dict[str, object]],
    skipped: Collection[tuple[str, str]],
    settings: ExtractSettings,
) -> None:
    """Print what was extracted, and what follows."""
    patients = {split: len({row["patient"] for row in kept if row["split"] == split}) for split in SPLITS}
    counts = ", ".join(f"{patients[split]} {split}" for split in SPLITS)
    print(
        f"{release.kind} release: {len(kept)} frames of {sum(patients.values())} patients ({counts}) "
        f"in {len(settings.view_names)} views, {len(skipped)} patients left out, in {settings.save_folder_path}"
    )
    augment = "data_preparation/augment_camus_labels.py", "--data_folder", settings.save_folder_path
    print(next_step(*augment, "--save_folder", "./data/sector", "--add_augmentation", "False"))


def _refuse_or_skip(problems: list[Problem], settings: ExtractSettings) -> set[tuple[str, str]]:
    """The people to leave out, after saying so; UserError if the user did not ask to go on."""
    texts = [problem.text for problem in problems]
    if problems and not settings.skip_incomplete:
        hint = "--skip_incomplete True goes on without the patients concerned"
        raise UserError(f"{settings.camus_data_folder} has {len(problems)} problems ({hint}):", texts)
    skipped = {problem.person for problem in problems if problem.person}
    if problems:
        names = ", ".join(sorted("/".join(filter(None, person)) for person in skipped)) or "nobody"
        print("\n  ".join([f"left out: {names}, because of", *texts]), file=sys.stderr)
    return skipped


def _remove(frame: Frame, out: Path) -> None:
    """Delete what was written of a frame."""
    for folder in (frame.view, ALL_VIEWS):
        for kind in (IMAGES, ANNOTATIONS):
            (out / folder / kind / frame.split / f"{frame.stem}.png").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(run_command(extract_camus_data, ExtractSettings, description=__doc__))

"""Extract CAMUS (MHD or NIfTI release) into folders of PNGs, one per view, and one of all views together."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Interval

from camus import ALL_VIEWS, CAMUS_CLASSES, SPLITS, VIEW_NAMES, Frame, Problem, find_release, read_info
from command import UserError, YesNo, run_command
from medical_images import read_medical_image
from outputs import new_folders
from parallel import default_workers, for_each
from schema import check_settings as check_ranges
from view_folders import ANNOTATIONS, IMAGES, check_labels, check_same_size, encode_png, write_metadata


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
    skip_incomplete: YesNo = False
    """Leave out patients with missing or faulty files, and say which; otherwise they are an error."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace the view folders (as a whole) if save_folder_path has them already; otherwise they are an error."""


def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """The input pixel of each of `new_size` output pixels: int(k * ((size - 1) / (new_size - 1))), in float64."""
    return (np.arange(new_size) * ((size - 1) / (new_size - 1))).astype(int)


def resize_nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """`pixels` [rows, columns] at height x width by the published rule: first on first, last on last, rounded down."""
    return pixels[np.ix_(nearest_indices(pixels.shape[0], height), nearest_indices(pixels.shape[1], width))]


def resize_image_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `image` [rows, columns] at height x width: the mean over the area that each new pixel covers."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def resize_label_area(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `label` [rows, columns], classes 0-3, at height x width: the class of most of the area that a pixel covers.

    So labels lie where area-averaged images do. Of equal shares, which occur at half the size, the lower class wins.
    """
    one_hot = np.eye(CAMUS_CLASSES, dtype=np.float32)[label]
    share = cv2.resize(one_hot, (width, height), interpolation=cv2.INTER_AREA)
    return np.argmax(share, axis=2).astype(np.uint8)


def extract_frame(frame: Frame, out: Path, settings: ExtractSettings) -> tuple[dict[str, object] | None, list[str]]:
    """Write one frame's PNGs below `out`; returns its metadata row, or None and what is wrong with it."""
    problems, read = [], []
    for path in (frame.image, frame.label):
        try:
            read.append(read_medical_image(path))
        except UserError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    image, label = (found.pixels for found in read)
    for check in (
        partial(check_same_size, frame.image, image, frame.label, label),
        partial(check_labels, frame.label, label),
    ):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    area = settings.image_interpolation == "area"
    resized = {
        IMAGES: (resize_image_area if area else resize_nearest)(image, *settings.save_img_size),
        ANNOTATIONS: (resize_label_area if area else resize_nearest)(label, *settings.save_img_size),
    }
    for kind, pixels in resized.items():
        data = encode_png(pixels)
        for folder in (frame.view, ALL_VIEWS):
            (out / folder / kind / frame.split / f"{frame.stem}.png").write_bytes(data)
    return {
        "stem": frame.stem,
        "patient": frame.patient,
        "view": frame.view,
        "phase": frame.view.split("_")[1],
        "split": frame.split,
        "source": frame.image.relative_to(settings.camus_data_folder).as_posix(),
        "native_height": image.shape[0],
        "native_width": image.shape[1],
        "spacing_depth_mm": round(read[0].spacing_mm[0], 6),
        "spacing_lateral_mm": round(read[0].spacing_mm[1], 6),
        "image_interpolation": settings.image_interpolation,
        **read_info(frame.info),
    }, []


def check_settings(settings: ExtractSettings) -> None:
    """Make save_img_size (height, width). Raises UserError for impossible settings."""
    check_ranges(settings)
    size = tuple(settings.save_img_size)
    size = size * 2 if len(size) == 1 else size
    if len(size) != 2 or not all(16 <= n <= 4096 for n in size):
        raise UserError(f"--save_img_size {' '.join(map(str, size))}: one or two numbers from 16 to 4096")
    settings.save_img_size = size
    settings.view_names = tuple(name for name in VIEW_NAMES if name in settings.view_names)
    if not settings.view_names:
        raise UserError("--view_names: name at least one view")


def extract_camus_data(settings: ExtractSettings) -> None:
    """Extract the release. Raises UserError that lists everything wrong with it, before anything appears on disk."""
    check_settings(settings)
    release = find_release(settings.camus_data_folder)
    frames = [release.frame(*person, view) for person in release.people for view in settings.view_names]
    folders = (*settings.view_names, ALL_VIEWS)
    with new_folders(settings.save_folder_path, (*VIEW_NAMES, ALL_VIEWS), settings.overwrite) as out:
        for folder in folders:
            for kind in (IMAGES, ANNOTATIONS):
                for split in SPLITS:
                    (out / folder / kind / split).mkdir(parents=True)
        problems, rows = list(release.problems), []
        work = partial(extract_frame, out=out, settings=settings)
        results = for_each(work, frames, settings.num_workers, "frames")
        for frame, (row, wrong) in zip(frames, results, strict=True):
            rows.append(row)
            problems += [Problem(text, (frame.split, frame.patient)) for text in wrong]
        skipped = _refuse_or_skip(problems, settings)
        kept = [
            row
            for frame, row in zip(frames, rows, strict=True)
            if (frame.split, frame.patient) not in skipped or _remove(frame, out)
        ]
        if not kept:
            raise UserError(f"{settings.camus_data_folder}: no complete patient is left", [p.text for p in problems])
        for split in {split for split, _ in release.people} - {row["split"] for row in kept}:
            print(f"warning: no patient of {split} is left", file=sys.stderr)
        for folder in folders:
            write_metadata(out / folder, [row for row in kept if folder in (row["view"], ALL_VIEWS)])
    patients = {split: len({row["patient"] for row in kept if row["split"] == split}) for split in SPLITS}
    counts = ", ".join(f"{patients[split]} {split}" for split in SPLITS)
    print(
        f"{release.kind} release: {len(kept)} frames of {sum(patients.values())} patients ({counts}) "
        f"in {len(settings.view_names)} views, {len(skipped)} patients left out, in {settings.save_folder_path}"
    )


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

"""Label maps that somebody else predicted: a folder of PNG, NIfTI or MHD files, one for each case."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cases import Case
from command import UserError
from dataset import read_annotation
from frames import Frames
from medical_images import SUFFIXES, is_medical_image, read_frame, without_suffix
from picture_files import is_picture


def find_predictions(folder: Path, cases: Sequence[Case]) -> list[Path]:
    """The file of each case: `<stem>`, or `<patient>_<view>_<phase>` as CAMUS calls a frame; .png, .nii.gz, .nii, .mhd.
    Of a name with both, as predict.py writes them, the medical file: it has the geometry of the frame.

    Raises UserError, listing every case, for a folder that is none, and for cases with no file or more than one.
    """
    if not folder.is_dir():
        raise UserError(f"--predictions {folder}: not a folder")
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if not file.is_dir() and not file.name.startswith(".") and (is_picture(file) or is_medical_image(file)):
            found.setdefault(without_suffix(file), []).append(file)
    for name, of_name in found.items():
        found[name] = [file for file in of_name if is_medical_image(file)] or of_name
    problems, files = [], []
    for case in cases:
        names = dict.fromkeys((case.stem, *([f"{case.patient}_{case.view}_{case.phase}"] if case.phase else [])))
        files.append([file for name in names for file in found.get(name, [])])
        if len(files[-1]) != 1:
            what = "none" if not files[-1] else ", ".join(file.name for file in files[-1])
            problems.append(f"{' or '.join(names)} (.png, {', '.join(SUFFIXES)}): {what}")
    uses = Counter(file for of_case in files for file in of_case)
    problems += [f"{file.name} would be that of {uses[file]} cases" for file in uses if uses[file] > 1]
    if problems:
        raise UserError(f"--predictions {folder}: {len(problems)} problems, where each case has one file:", problems)
    return [file for (file,) in files]


def read_predictions(files: Sequence[Path], frames: Frames, num_classes: int) -> list[np.ndarray]:
    """The label map of each case, brought to the grid of its reference, uint8.

    A PNG file lies on the image as extracted, at any size; a NIfTI or MHD file on the frame as in the data set. Raises
    UserError, listing every file that cannot be read, has a class beyond num_classes - 1, another shape or, where the
    frames' own files are known, axes of another direction.
    """
    labels, problems = [], []
    for index, file in enumerate(files):
        try:
            image = read_frame(file) if is_medical_image(file) else None
            found = image.pixels if image else read_annotation(file)
            if (top := int(found.max())) >= num_classes:
                raise UserError(f"{file}: class {top}")
            labels.append(frames.from_medical(index, image) if image else frames.from_png(index, found))
        except UserError as error:
            problems.append(str(error))
    if problems:
        told = f"{len(problems)} predictions cannot be evaluated (classes are 0 .. {num_classes - 1}):"
        raise UserError(told, problems)
    return labels

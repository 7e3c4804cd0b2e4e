"""Does an image show its label? Dice between the label it was drawn for and what a segmentation network sees in it."""

from collections.abc import Iterable, Sequence
from os.path import splitext

import numpy as np

from command import UserError
from guided_diffusion.data.arrays import read_file
from guided_diffusion.data.datasets import raise_problems
from guided_diffusion.data.label_maps import check_classes
from guided_diffusion.evaluation.classes import Classes, Values
from guided_diffusion.evaluation.image_sets import Frame, read_frame
from guided_diffusion.runs import storage
from picture_files import decode_labels, is_picture


def find_predictions(folder: str, frames: Sequence[Frame], all_of_them: bool) -> list[str | None]:
    """The prediction of each frame by its stem, in `folder` or its labels/; None where there is none.

    Raises UserError if `all_of_them` must have one and some have not, or if none has.
    """
    below = storage.join(folder, "labels")
    root = below if storage.is_folder(below) else folder
    files = {splitext(name)[0]: storage.join(root, name) for name in storage.list_names(root) if is_picture(name)}
    found = [files.get(frame.stem) for frame in frames]
    if all_of_them:
        missing = [frame for frame, path in zip(frames, found, strict=True) if path is None]
        raise_problems(f"predictions {root}:", [f"{frame.stem}.png is missing" for frame in missing])
    if not any(found):
        raise UserError(f"predictions {root}: no picture has the name of any of the {len(frames)} frames")
    return found


def dice_of(frames: Sequence[Frame], predictions: Sequence[str | None], classes: Classes) -> np.ndarray:
    """Dice within the cone, of each frame and structure, [N, structures]; NaN without prediction, or where neither map
    has the structure. Raises UserError for predictions that are no label maps of plain labels, of equal size.
    """
    found, problems = np.full((len(frames), len(classes.structures)), np.nan), []
    for row, (frame, path) in enumerate(zip(frames, predictions, strict=True)):
        if path is None:
            continue
        try:
            found[row] = dice(*_pair(frame, path, classes), classes.structures.values())
        except UserError as error:
            problems.append(str(error))
    raise_problems(f"{len(problems)} predictions cannot be evaluated:", problems)
    return found


def _pair(frame: Frame, path: str, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    predicted, (_, labels) = decode_labels(read_file(path), path), read_frame(frame, classes)
    if predicted.shape != labels.shape:
        sizes = [f"{height} x {width}" for height, width in (predicted.shape, labels.shape)]
        raise UserError(f"{path} is {sizes[0]} pixels, the frame {sizes[1]}")
    check_classes(predicted, classes.description.num_classes, path)
    return np.where(classes.shown(labels), predicted, 0), classes.description.from_conditions(labels)


def dice(predicted: np.ndarray, reference: np.ndarray, structures: Iterable[Values]) -> list[float]:
    """2 |A and B| / (|A| + |B|) of each of `structures`, of maps [H, W] of plain labels; NaN where both lack it."""
    values = []
    for labels in structures:
        a, b = np.isin(predicted, labels), np.isin(reference, labels)
        total = a.sum() + b.sum()
        values.append(float(2 * (a & b).sum() / total) if total else float("nan"))
    return values

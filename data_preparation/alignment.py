"""How the pixels of medical images lie in the patient: a label map must lie as its image does, and frames alike.

Pixels are taken in the order in which a file holds them, as the field's data sets mean it; what its header says of
directions is compared, not applied. Where two files disagree, one of them would be a mirror image.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from command import UserError
from medical_images import MedicalImage

Direction = tuple[float, ...]
NEAR = 1e-3  # of cosines; and of sizes of a pixel, as a share


def in_plane(image: MedicalImage | None) -> Direction | None:
    """The cosines of the lateral and the depth axis within the plane (of a slice with a third dimension, too), rounded
    to whole numbers where they are near them; None for what has no geometry."""
    if image is None:
        return None
    axes = round(len(image.direction) ** 0.5)
    cosines = np.reshape(image.direction, (axes, axes))[:2, :2].ravel()
    return tuple((np.where(np.abs(cosines - np.round(cosines)) < NEAR, np.round(cosines), cosines) + 0.0).tolist())


def check_same_place(image: MedicalImage | None, label: MedicalImage | None) -> str | None:
    """A warning if both say how large their pixels are, and disagree.

    Raises UserError where the axes of the label map do not point where those of its image do.
    """
    directions = in_plane(image), in_plane(label)
    if None in directions:
        return None
    if not np.allclose(*directions, atol=NEAR):
        theirs, ours = (told(direction) for direction in directions)
        raise UserError(
            f"{image.path} and its label {label.path.name} lie otherwise (lateral and depth axis {theirs} and {ours}): "
            "one of them is turned or mirrored; save the label on the grid of the image"
        )
    sizes = image.spacing_mm, label.spacing_mm
    if None in sizes or np.allclose(*sizes, rtol=10 * NEAR):
        return None
    image_mm, label_mm = (f"{depth:g} x {lateral:g}" for depth, lateral in sizes)
    return f"{image.path} has pixels of {image_mm} mm, its label {label.path.name} of {label_mm}: the image's are taken"


def lie_otherwise(frames: Iterable[tuple[Path, Direction | None]]) -> list[str]:
    """A warning if frames of a data set lie in several ways: those of the rarer ones come out turned or mirrored."""
    known = [(path, direction) for path, direction in frames if direction is not None]
    counts = Counter(direction for _, direction in known).most_common()
    if len(counts) < 2:
        return []
    usual, others = counts[0], sum(count for _, count in counts[1:])
    path, direction = next(one for one in known if one[1] != usual[0])
    return [
        f"{others} frames lie otherwise than the other {usual[1]}, as {path} ({told(direction)} instead of "
        f"{told(usual[0])}, lateral and depth axis): they come out turned or mirrored against them"
    ]


def told(direction: Direction) -> str:
    """(1, 0) (0, -1): where the lateral and the depth axis point."""
    lateral, depth = zip(direction[:2], direction[2:], strict=True)
    return " ".join(f"({first:g}, {second:g})" for first, second in (lateral, depth))

"""Images, label maps and overlays as pictures: uint8 arrays that can be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

# Okabe and Ito's colours, which colour-blind readers tell apart, on black for class 0. Class 2 of the sector labels,
# the cone's background, is a dull grey, so that the chambers stand out.
PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (90, 90, 90),
        (0, 158, 115),
        (86, 180, 233),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    dtype=np.uint8,
)
OVERLAY_SHARE = 0.4
# Of a contact sheet, in pixels.
SMALLEST_PANEL = 96
CAPTION_WIDTH = 84
GAP = 4


@dataclass(frozen=True)
class Palette:
    """The colour of each class, uint8 [n, 3]; `quiet` classes are left as they are in overlays."""

    colours: np.ndarray = field(default_factory=lambda: PALETTE)
    quiet: tuple[int, ...] = (0, 2)


SECTOR = Palette()


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] [..., C, H, W] as [..., H, W, C] uint8."""
    return np.moveaxis(np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8), -3, -1)


def to_grey(picture: np.ndarray) -> np.ndarray:
    """The mean of the channels [H, W, 1 or 3], which for a model of grey images are nearly equal: [H, W] uint8."""
    return np.rint(picture.astype(np.float32).mean(-1)).astype(np.uint8)


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Grey [H, W] or [H, W, 1], or colour [H, W, 3], as [H, W, 3]."""
    picture = picture[..., None] if picture.ndim == 2 else picture
    return picture.repeat(3, axis=-1) if picture.shape[-1] == 1 else picture


def colour(labels: np.ndarray, palette: Palette = SECTOR) -> np.ndarray:
    """Label map [H, W] in colours [H, W, 3]."""
    return palette.colours[labels % len(palette.colours)]


def visible(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Class values spread over 0 .. 255, so that a viewer shows them."""
    return (labels.astype(np.uint16) * 255 // max(1, num_classes - 1)).astype(np.uint8)


def overlay(picture: np.ndarray, labels: np.ndarray, palette: Palette = SECTOR) -> np.ndarray:
    """The picture with its chambers tinted in their colours."""
    rgb = as_rgb(picture)
    tinted = ((1 - OVERLAY_SHARE) * rgb + OVERLAY_SHARE * colour(labels, palette)).astype(np.uint8)
    return np.where(np.isin(labels, palette.quiet)[..., None], rgb, tinted)


def outlines(picture: np.ndarray, labels: np.ndarray, palette: Palette = SECTOR) -> np.ndarray:
    """The picture with the borders of its label map drawn one pixel wide."""
    rgb = as_rgb(picture).copy()
    kernel = np.ones((3, 3), np.uint8)
    for value in np.unique(labels):
        if value not in palette.quiet:
            region = (labels == value).astype(np.uint8)
            rgb[(region - cv2.erode(region, kernel)) > 0] = palette.colours[value % len(palette.colours)]
    return rgb


def stack(panels: Sequence[np.ndarray | None]) -> np.ndarray:
    """Panels one under the other; None stands for a black one."""
    shape = next(panel.shape for panel in map(_rgb_or_none, panels) if panel is not None)
    return np.concatenate([np.zeros(shape, np.uint8) if p is None else as_rgb(p) for p in panels], axis=0)


def _rgb_or_none(panel: np.ndarray | None) -> np.ndarray | None:
    return None if panel is None else as_rgb(panel)


def contact_sheet(columns: Sequence[np.ndarray], captions: Sequence[str] = (), per_row: int = 8) -> np.ndarray:
    """Columns [h, w, 3] of equal size beside each other, at most `per_row` of them in a row of the sheet.

    Each column is cut into as many panels as there are `captions`, which stand to the left of them. Small pictures are
    enlarged, so that they can be seen and the captions read.
    """
    factor = max(1, -(-SMALLEST_PANEL // columns[0].shape[1]))
    columns = [column.repeat(factor, 0).repeat(factor, 1) for column in columns]
    rows = -(-len(columns) // per_row)
    per_row = -(-len(columns) // rows)
    gap = np.full((columns[0].shape[0], GAP, 3), 255, np.uint8)
    blank = np.full_like(columns[0], 255)
    padded = [*columns, *[blank] * (rows * per_row - len(columns))]
    margin = _captions(captions, columns[0].shape[0])
    lines = []
    for start in range(0, len(padded), per_row):
        parts = [part for column in padded[start : start + per_row] for part in (gap, column)]
        line = np.concatenate([margin, *parts], axis=1)
        lines += [line, np.full((GAP, *line.shape[1:]), 255, np.uint8)]
    return np.concatenate(lines[:-1], axis=0)


def _captions(captions: Sequence[str], height: int) -> np.ndarray:
    """White [height, CAPTION_WIDTH, 3] with `captions` in black, each in the middle of its share of the height."""
    margin = np.full((height, CAPTION_WIDTH if captions else 0, 3), 255, np.uint8)
    for i, caption in enumerate(captions):
        baseline = round((i + 0.5) * height / len(captions)) + 5
        cv2.putText(margin, caption, (4, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return margin

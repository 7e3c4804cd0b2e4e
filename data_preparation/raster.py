"""Drawing in millimetres: contours filled and stroked on the pixels over a cone, and the label map of a heart."""

from dataclasses import dataclass

import cv2
import numpy as np

from anatomy import Cone, Contour, LeftHeart

BACKGROUND, CAVITY, MYOCARDIUM, ATRIUM = range(4)
SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Raster:
    """Pixels over the cone's bounding box: `shape` is (rows = depth, columns = lateral), pixels are square."""

    cone: Cone
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, round(self.rows * 2 * self.cone.half_width_mm / self.cone.depth_mm)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(depth, lateral) size of a pixel."""
        return self.cone.depth_mm / self.shape[0], 2 * self.cone.half_width_mm / self.shape[1]

    @property
    def centres_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """(x [1, columns], z [rows, 1]) of the pixels' centres."""
        z, x = ((np.arange(count) + 0.5) * mm for count, mm in zip(self.shape, self.spacing_mm, strict=True))
        return x[None, :] - self.cone.half_width_mm, z[:, None]

    def to_pixels(self, contour: Contour) -> np.ndarray:
        """(x, z) in mm -> (column, row), whole numbers at the pixels' centres."""
        depth_mm, lateral_mm = self.spacing_mm
        column = (contour[:, 0] + self.cone.half_width_mm) / lateral_mm - 0.5
        return np.stack([column, contour[:, 1] / depth_mm - 0.5], axis=1)

    def fill(self, canvas: np.ndarray, contour: Contour, value: float) -> None:
        """Set the pixels whose centre lies within `contour` (even-odd rule), so that areas are kept on average.

        cv2.fillPoly sets those that the outline touches as well, which makes a structure half a pixel too large.
        """
        start = self.to_pixels(contour)
        low = np.clip(np.floor(start.min(axis=0)), 0, self.shape[::-1]).astype(int)
        high = np.clip(np.ceil(start.max(axis=0)) + 1, low, self.shape[::-1]).astype(int)
        start = start - low
        end = np.roll(start, -1, axis=0)
        columns, rows = high - low
        edge, row = np.nonzero((start[:, 1:] <= np.arange(rows)) != (end[:, 1:] <= np.arange(rows)))
        share = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
        crossing = np.ceil(start[edge, 0] + share * (end[edge, 0] - start[edge, 0]))
        toggles = np.zeros((rows, columns + 1), np.uint8)
        np.add.at(toggles, (row, np.clip(crossing, 0, columns).astype(int)), 1)
        within = np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) % 2 == 1
        canvas[low[1] : high[1], low[0] : high[0]][within] = value

    def stroke(self, canvas: np.ndarray, contour: Contour, value: float, width_mm: float) -> None:
        width = max(1, round(width_mm / self.spacing_mm[0]))
        points = np.rint(self.to_pixels(contour) * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(canvas, [points], False, value, width, cv2.LINE_8, SUBPIXEL_BITS)

    def blur(self, canvas: np.ndarray, width_mm: float) -> np.ndarray:
        """Gaussian blur with a standard deviation of `width_mm`."""
        return cv2.GaussianBlur(canvas, (0, 0), width_mm / self.spacing_mm[0])


def label_map(heart: LeftHeart, raster: Raster) -> np.ndarray:
    """CAMUS labels of `heart`, uint8 [rows, columns]."""
    labels = np.zeros(raster.shape, np.uint8)
    raster.fill(labels, heart.atrium(), ATRIUM)
    raster.fill(labels, heart.wall(), MYOCARDIUM)
    raster.fill(labels, heart.cavity(), CAVITY)
    return labels

"""One warp of a label map: an affine map after a cubic B-spline free-form deformation, composed into one resampling.

An output pixel p takes its label from A(p + d(p)): d is the displacement of the B-spline (Rueckert et al. 1999, IEEE
TMI 18(8):712), A the affine map. Nearest neighbour, once, so that edges are not torn twice. The ranges are those of the
published recipe; pixels refer to 256 x 256 and scale with the size. docs/differences.md says where we depart from it.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.interpolate import BSpline
from skimage import measure

REFERENCE_SIZE = 256
MESH = (7, 1)  # cells of the B-spline over the rows and the columns of the image
DEGREE = 3
COEFFICIENT_RANGE = 19.0  # pixels at 256 x 256, either way: a displacement of 5.3 pixels rms per axis
ROTATION = np.radians(5.0)  # either way
SHEAR = np.radians(5.0)  # along x, either way
SHIFT = 0.05  # of the height, either way, vertical only
SCALE = (0.8, 1.05)
MAX_TRIES = 10
SLOPE_ROWS = 1 / 32  # of the height: the last rows, from which the outlines of cut structures go on
OPENING = 0.5
FAR = 1e6  # pixels: how far the other kind is in a row that has none of it


@dataclass(frozen=True)
class Deformation:
    """What is drawn for one warp."""

    rotation: float  # radians, counter-clockwise as seen
    scale: float
    shear: float  # radians
    shift: float  # of the height, positive moves the content down
    coefficients: np.ndarray  # [10 rows, 4 columns, (y, x)] in pixels at 256 x 256; outermost rows 0


def draw_deformation(rng: np.random.Generator) -> Deformation:
    """A deformation within the ranges above, each value uniform."""
    rotation, shear, shift = (rng.uniform(-most, most) for most in (ROTATION, SHEAR, SHIFT))
    coefficients = rng.uniform(-COEFFICIENT_RANGE, COEFFICIENT_RANGE, (MESH[0] + DEGREE, MESH[1] + DEGREE, 2))
    coefficients[[0, -1]] = 0
    return Deformation(rotation, rng.uniform(*SCALE), shear, shift, coefficients)


@lru_cache(maxsize=8)
def spline_basis(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """A uniform cubic B-spline over `size` pixels: the weight of each control point at each pixel's centre, float32
    [size, cells + 3], and the pixel coordinate of each control point (the first and the last lie outside)."""
    knots = np.arange(-DEGREE, cells + DEGREE + 1, dtype=float)
    centres = (np.arange(size) + 0.5) / size * cells
    weights = BSpline.design_matrix(centres, knots, DEGREE).toarray().astype(np.float32)
    return weights, np.arange(-1, cells + 2) / cells * size - 0.5


def affine_matrix(deformation: Deformation, shape: tuple[int, int]) -> np.ndarray:
    """The 3 x 3 map from output to input pixels (x, y, 1): shear, scale and rotation about the centre, undone."""
    cos, sin = np.cos(deformation.rotation), np.sin(deformation.rotation)
    turn = np.array([[cos, sin], [-sin, cos]])  # counter-clockwise where y points down
    forward = np.eye(3)
    forward[:2, :2] = deformation.scale * turn @ np.array([[1, np.tan(deformation.shear)], [0, 1]])
    centre = (np.array(shape[::-1]) - 1) / 2
    forward[:2, 2] = centre + [0, deformation.shift * shape[0]] - forward[:2, :2] @ centre
    return np.linalg.inv(forward)


def sampling_map(deformation: Deformation, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the input pixel of each output pixel, both float32 [height, width].

    A B-spline weighs its control points with weights that sum to 1 and reproduces straight lines, so the affine map
    of the deformed grid is the B-spline of the mapped control points.
    """
    (rows, y), (columns, x) = (spline_basis(size, cells) for size, cells in zip(shape, MESH, strict=True))
    moved_y = y[:, None] + deformation.coefficients[..., 0] * shape[0] / REFERENCE_SIZE
    moved_x = x[None, :] + deformation.coefficients[..., 1] * shape[1] / REFERENCE_SIZE
    matrix = affine_matrix(deformation, shape)
    mapped = (row[0] * moved_x + row[1] * moved_y + row[2] for row in matrix[:2])
    return tuple(rows @ (points.astype(np.float32) @ columns.T) for points in mapped)


def row_distances(inside: np.ndarray) -> np.ndarray:
    """The distance of each pixel of a row (bool [width]) to the nearest of the other kind, FAR if there is none;
    negative outside."""
    row = inside.astype(np.uint8)[None]
    within, without = (cv2.distanceTransform(part, cv2.DIST_L1, cv2.DIST_MASK_3)[0] for part in (row, 1 - row))
    return np.clip(within - without, -FAR, FAR)


def rows_below(label: np.ndarray, count: int) -> np.ndarray:
    """`count` rows to follow the last one of `label` (uint8 [height, width]): outlines that the image's edge cuts
    go straight on, in the direction that they have in the last rows.

    So an atrium closes where it was closing, and leans where it leaned. An outline moves outwards by OPENING pixels a
    row at most: what the edge cuts just below its top would else grow without end. What had filled a row whole yields
    by no more, to whatever has come in since.
    """
    step = max(1, round(SLOPE_ROWS * len(label)))
    below, largest = np.zeros((count, label.shape[1]), np.uint8), np.zeros((count, label.shape[1]))
    for value in np.unique(label[-1][label[-1] > 0]):
        last, before = (row_distances(label[row] == value) for row in (-1, max(-1 - step, -len(label))))
        slope = np.clip((last - before) / step, -OPENING if before.min() == FAR else -np.inf, OPENING)
        distances = last + slope * np.arange(1, count + 1)[:, None]
        below[distances > largest] = value
        largest = np.maximum(largest, distances)
    return below


def warp(label: np.ndarray, cone: np.ndarray, deformation: Deformation) -> np.ndarray:
    """`label` (uint8 [height, width]) deformed, for an image whose ultrasound cone is `cone` (bool, the same shape).

    Where the input would lie outside the image nobody annotated anything. Within the cone a structure that the image's
    edge cuts off goes on there (below by `rows_below`, elsewhere by replicating the border): a 0 would give the atrium
    a straight wall which no heart has. Outside the cone it ends, with 0.
    """
    x, y = sampling_map(deformation, label.shape)
    bounded = cv2.remap(label, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    extended = np.vstack([label, rows_below(label, len(label) // 2)])
    continued = cv2.remap(extended, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.where(cone, continued, bounded)


def pieces(label: np.ndarray) -> dict[int, int]:
    """The number of connected pieces (8-neighbourhood) of each structure (label > 0) present."""
    left, top, width, height = cv2.boundingRect(label)
    inner = label[top : top + height, left : left + width]
    numbers, first_pixels = np.unique(measure.label(inner, connectivity=2), return_index=True)
    values, counts = np.unique(inner.ravel()[first_pixels[numbers > 0]], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_whole(found: dict[int, int], own: dict[int, int], kept: Collection[int] | None = None) -> bool:
    """Whether each structure of `own`, or those of them in `kept`, is in `found`, in no more pieces (both as `pieces`
    counts them)."""
    wanted = own if kept is None else own.keys() & set(kept)
    return all(1 <= found.get(value, 0) <= own[value] for value in wanted)


def deform(
    label: np.ndarray, cone: np.ndarray, stem: str, repeat: int, seed: int, kept: Collection[int] | None = None
) -> tuple[np.ndarray, int]:
    """The `repeat`-th deformation of the label map called `stem`, and how many were rejected before it.

    `cone` (bool, the shape of `label`) is where the frame shows ultrasound. Both the deformed map and what the cone
    leaves of it must keep every structure (or those in `kept`), in no more pieces than the frame's own map has, whole
    and cut likewise; otherwise another deformation is drawn. After MAX_TRIES rejections the undeformed map is returned.
    What is drawn depends on (seed, stem, repeat, try) alone.
    """
    own, own_within = pieces(label), pieces(label * cone)
    for attempt in range(MAX_TRIES):
        rng = np.random.default_rng([seed, zlib.crc32(stem.encode()), repeat, attempt])
        deformed = warp(label, cone, draw_deformation(rng))
        if is_whole(pieces(deformed), own, kept) and is_whole(pieces(deformed * cone), own_within, kept):
            return deformed, attempt
    return label.copy(), MAX_TRIES

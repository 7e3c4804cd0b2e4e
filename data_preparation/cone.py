"""Which pixels of a frame the ultrasound cone covers."""

import cv2
import numpy as np
from skimage.measure import label as connected_parts

CORNER = 1 / 12  # share of height and width of the corners that a sector leaves dark
MARGIN = 8  # grey levels above the outside that are still noise of a lossy compression
CLOSING = 1 / 24  # share of the smaller side that a dark patch may have without splitting the cone
SPECKS = 0.0005  # share of the picture that isolated pixels may have


def plain_cone(image: np.ndarray) -> np.ndarray:
    """CAMUS' own rule: `image` [height, width] is not 0."""
    return image != 0


def fitted_cone(image: np.ndarray) -> np.ndarray:
    """The cone in an `image` [height, width] uint8 whose outside is not exactly 0: bool, the same shape.

    What is brighter than the upper corners, which a sector with its tip at the top leaves dark; its largest connected
    part, without texts and scales beside it; and the convex hull of that: a sector of less than 180 degrees, cut by the
    edges of the picture, is convex, and shadows belong to it.
    """
    height, width = image.shape
    rows, columns = max(1, int(height * CORNER)), max(1, int(width * CORNER))
    outside = np.median(np.concatenate([image[:rows, :columns].ravel(), image[:rows, -columns:].ravel()]))
    bright = (cv2.medianBlur(image, 3) > outside + MARGIN).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(3, int(min(image.shape) * CLOSING)) | 1,) * 2)
    parts = connected_parts(cv2.morphologyEx(bright, cv2.MORPH_CLOSE, kernel))
    if not parts.any():
        return np.zeros(image.shape, bool)
    largest = (parts == np.bincount(parts.ravel())[1:].argmax() + 1) & (bright != 0)
    hull = cv2.convexHull(cv2.findNonZero(largest.astype(np.uint8)))
    return cv2.fillConvexPoly(np.zeros(image.shape, np.uint8), hull, 1).astype(bool)


CONES = {"plain": plain_cone, "fit": fitted_cone}


def doubtful(cone: np.ndarray) -> str | None:
    """What is odd about a `cone` found by the plain rule, or None: it fills the picture, or is full of specks."""
    if cone.all():
        return "is 0 nowhere: nothing would be outside of the ultrasound cone"
    parts, holes = (connected_parts(mask, connectivity=1) for mask in (cone, ~cone))
    at_the_edge = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    sizes = np.bincount(parts.ravel())[1:]
    specks = sizes.sum() - sizes.max(initial=0) + np.sum(~np.isin(holes, at_the_edge))
    if specks <= SPECKS * cone.size:
        return None
    return f"is 0 in holes of the ultrasound cone, or not 0 in specks beside it: {specks / cone.size:.0%} of its pixels"

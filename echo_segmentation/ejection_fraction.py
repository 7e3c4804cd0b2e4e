"""Left-ventricular volumes by Simpson's biplane method of discs, and the ejection fraction.

Lang et al. 2015, "Recommendations for Cardiac Chamber Quantification by Echocardiography in Adults", section II: the
cavity is a stack of 20 elliptic discs, whose two diameters are measured across the long axis in the apical two- and
four-chamber views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label

from dataset_schema import Volumes

DISCS = 20
CAVITY, MYOCARDIUM, ATRIUM = 1, 2, 3
MM3_PER_ML = 1000
CORNERS = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])  # of a pixel, from its centre
MITRAL_SHARE = 0.25  # in the labels of CAMUS the atrium covers at least 0.94 of the opening
AGREEMENT_SDS = 1.96  # limits of agreement: Bland & Altman 1986


@dataclass(frozen=True)
class LongAxis:
    """Long axis of the cavity in one view, and the diameters across it from base to apex, in mm."""

    length: float
    diameters: np.ndarray


def measure_long_axis(labels: np.ndarray, spacing_mm: Sequence[float]) -> LongAxis | None:
    """Of a label map (rows = depth, columns = lateral), with the spacing of its pixels along the two.

    The axis runs from the middle of the base to the farthest point of the cavity, the apex. A disc's diameter is its
    area over its height. Only the largest connected cavity and atrium count. None if there is no cavity or no base.
    """
    cavity = largest_part(labels == CAVITY)
    edge = base_of(cavity, labels, spacing_mm)
    if not edge.size:
        return None
    pixels = np.argwhere(cavity)
    from_base = (pixels - edge.mean(0)) * spacing_mm
    corners = (from_base[:, None] + CORNERS * spacing_mm).reshape(-1, 2)
    apex = corners[np.argmax((corners**2).sum(1))]
    length = float(np.hypot(*apex))
    along = from_base @ apex / length
    along = along[(along >= 0) & (along < length)]  # discs stand on the base's middle: none reaches below it
    disc = (along / length * DISCS).astype(int)
    areas = np.bincount(disc, minlength=DISCS) * spacing_mm[0] * spacing_mm[1]
    return LongAxis(length, areas / (length / DISCS))


def as_camus(labels: np.ndarray, heart: Volumes, values: Sequence[int]) -> np.ndarray:
    """Plain labels in which the parts of a `heart` have CAMUS' numbers, and all else is 0; `values` are those of the
    classes in the description that `heart` is of."""
    numbers = np.zeros(256, np.uint8)
    for value, number in ((heart.cavity, CAVITY), (heart.wall, MYOCARDIUM), (heart.atrium, ATRIUM)):
        if value is not None:
            numbers[values.index(value)] = number
    return numbers[labels]


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask; neighbours share a side."""
    parts = label(mask, connectivity=1)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if parts.any() else mask


def base_of(cavity: np.ndarray, labels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Pixels (n, 2) on both sides of the edge where the ventricle ends: the longest stretch where it meets the atrium.

    Without an atrium, or where it meets less than MITRAL_SHARE of the opening, it is the longest stretch where the
    cavity meets anything but myocardium: a hole in the wall, or a corner that looks through it, is shorter. Of labels
    without myocardium the atrium alone can tell it: nothing if there is none, either.
    """
    mitral = _longest_contact(cavity, largest_part(labels == ATRIUM), spacing_mm)
    if not (labels == MYOCARDIUM).any():
        return mitral
    opening = _longest_contact(cavity, (labels != MYOCARDIUM) & ~cavity, spacing_mm)
    enough = _extent(mitral, spacing_mm) >= MITRAL_SHARE * _extent(opening, spacing_mm)
    return mitral if mitral.size and enough else opening


def _longest_contact(cavity: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Pixels (n, 2) on both sides of the longest connected edge between two masks: their mean lies on it."""
    edge = (cavity & ndimage.binary_dilation(other)) | (other & ndimage.binary_dilation(cavity))
    stretches, count = label(edge, return_num=True)  # corners connect: an edge goes down steps
    return max((np.argwhere(stretches == n) for n in range(1, count + 1)),
               key=lambda pixels: _extent(pixels, spacing_mm), default=np.empty((0, 2)))  # fmt: skip


def _extent(pixels: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Diagonal (mm) of the box around pixels (n, 2)."""
    return float(np.hypot(*(np.ptp(pixels, axis=0) + 1) * spacing_mm)) if pixels.size else 0.0


def biplane_volume_ml(two_chamber: LongAxis | None, four_chamber: LongAxis | None) -> float:
    """V = pi / 4 * sum(a_i * b_i) * L / 20, with L the longer of the two axes; NaN if one of the views has none."""
    if two_chamber is None or four_chamber is None:
        return float("nan")
    height = max(two_chamber.length, four_chamber.length) / DISCS
    return float(np.pi / 4 * (two_chamber.diameters * four_chamber.diameters).sum() * height / MM3_PER_ML)


def ejection_fraction(edv: float, esv: float) -> float:
    """100 % * (end-diastolic - end-systolic) / end-diastolic volume; NaN where one is, or edv is 0."""
    return 100 * (edv - esv) / edv if edv else float("nan")


def agreement(measured: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation, and bias and limits of agreement of measured - reference (Bland & Altman 1986).

    Pairs with a NaN are left out. NaN for what the number of pairs (`n`) does not allow.
    """
    pairs = np.array([measured, reference], dtype=float)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    difference, n = pairs[0] - pairs[1], pairs.shape[1]
    bias = float(difference.mean()) if n else float("nan")
    sd = float(difference.std(ddof=1)) if n > 1 else float("nan")
    varies = n > 1 and (pairs.std(axis=1) > 0).all()
    return {
        "n": n,
        "correlation": float(np.corrcoef(pairs)[0, 1]) if varies else float("nan"),
        "bias": bias,
        "sd": sd,
        "lower": bias - AGREEMENT_SDS * sd,
        "upper": bias + AGREEMENT_SDS * sd,
        "mean_absolute": float(np.abs(difference).mean()) if n else float("nan"),
    }

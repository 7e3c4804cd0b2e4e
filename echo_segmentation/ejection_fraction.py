"""Left-ventricular volumes by Simpson's biplane method of discs, and the ejection fraction.

Lang et al. 2015, "Recommendations for Cardiac Chamber Quantification by Echocardiography in Adults", section II: the
cavity is a stack of 20 elliptic discs, whose two diameters are measured across the long axis in the apical two- and
four-chamber views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

DISCS = 20
CAVITY, MYOCARDIUM, ATRIUM = 1, 2, 3
MM3_PER_ML = 1000
CORNERS = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])  # of a pixel, from its centre
AGREEMENT_SDS = 1.96  # limits of agreement: Bland & Altman 1986


@dataclass(frozen=True)
class LongAxis:
    """Long axis of the cavity in one view, and the diameters across it from base to apex, in mm."""

    length: float
    diameters: np.ndarray


def measure_long_axis(labels: np.ndarray, spacing_mm: Sequence[float]) -> LongAxis | None:
    """Of a label map (rows = depth, columns = lateral), with the spacing of its pixels along the two.

    The axis runs from the middle of the base, where the cavity touches the atrium (or, without an atrium there,
    anything but myocardium), to the farthest point of the cavity. A disc's diameter is its area over its height. Only
    the largest connected cavity and atrium count. None if there is no cavity or no base.
    """
    cavity = largest_part(labels == CAVITY)
    edge = _contact(cavity, largest_part(labels == ATRIUM))
    if not edge.size:
        edge = _contact(cavity, (labels != MYOCARDIUM) & ~cavity)
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


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _contact(cavity: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels on both sides of the edge where the masks touch: their mean lies on it."""
    sides = [cavity & ndimage.binary_dilation(other), other & ndimage.binary_dilation(cavity)]
    return np.concatenate([np.argwhere(side) for side in sides])


def biplane_volume_ml(two_chamber: LongAxis, four_chamber: LongAxis) -> float:
    """V = pi / 4 * sum(a_i * b_i) * L / 20, with L the longer of the two axes."""
    height = max(two_chamber.length, four_chamber.length) / DISCS
    return float(np.pi / 4 * (two_chamber.diameters * four_chamber.diameters).sum() * height / MM3_PER_ML)


def volume_ml(labels: dict[str, np.ndarray], spacings_mm: dict[str, Sequence[float]]) -> float:
    """Volume of the label maps of the views 2CH and 4CH; NaN if one of them shows no ventricle with a base."""
    axes = [measure_long_axis(labels[view], spacings_mm[view]) for view in ("2CH", "4CH")]
    return float("nan") if None in axes else biplane_volume_ml(*axes)


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

"""What texture says of ultrasound: contrast, Nakagami parameters, correlation lengths, power spectra.

Pure functions of arrays. Grey levels of a B-mode image are log-compressed, filtered and often averaged in time: the
parameters are those of the picture, to compare pictures with, not of the tissue.
"""

import numpy as np
from scipy import fft
from scipy.special import digamma, polygamma

GCNR_BINS = 32
NEWTON_STEPS = 8
LEAST_PIXELS, LEAST_PAIRS = 20, 20
HALF = 0.5


def contrast_to_noise(cavity: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """CNR = (mean of the wall - mean of the cavity) / sqrt(sum of the variances); positive where blood is darker.

    `cavity`, `wall`: how often each grey level occurs, [..., 256]. NaN where either is empty or both are constant.
    """
    (mean_c, var_c), (mean_w, var_w) = moments(cavity), moments(wall)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(var_c + var_w > 0, (mean_w - mean_c) / np.sqrt(var_c + var_w), np.nan)


def generalised_contrast(cavity: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """gCNR = 1 - overlap of the two histograms (Rodriguez-Molares et al. 2020, eq. 11): 0 alike, 1 apart.

    Unlike CNR it does not change under grey-level transforms. Of `GCNR_BINS` bins: finer ones would tell small regions
    apart by chance. [..., 256] each -> [...].
    """
    first, second = (shares(h.reshape(*h.shape[:-1], GCNR_BINS, -1).sum(-1)) for h in (cavity, wall))
    return 1 - np.minimum(first, second).sum(-1)


def moments(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of grey levels [..., 256] counted; NaN of fewer than LEAST_PIXELS."""
    share, levels = shares(histogram), np.arange(histogram.shape[-1])
    mean = share @ levels
    return mean, (share * (levels - mean[..., None]) ** 2).sum(-1)


def shares(histogram: np.ndarray) -> np.ndarray:
    """Counts [..., 256] as shares of their sum; NaN of fewer than LEAST_PIXELS."""
    total = histogram.sum(-1, keepdims=True).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total >= LEAST_PIXELS, histogram / total, np.nan)


def envelope(dynamic_range: float) -> np.ndarray:
    """Echo amplitude of each grey level, [256], 1 at 255: 20 log10(amplitude) rises by `dynamic_range` dB from 0 on."""
    return 10 ** ((np.arange(256) / 255 - 1) * dynamic_range / 20)


def nakagami(histogram: np.ndarray, amplitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape m and scale Omega of Nakagami's distribution by maximum likelihood; counts [..., K] of `amplitudes` [K].

    The square of the amplitude is then gamma distributed (Shankar 2000, eq. 1): m is the root of
    log m - digamma(m) = log(mean of squares) - mean(log of squares), found from Thom's approximation by Newton's
    method on 1/m (Minka 2002, eq. 14); Omega is the mean square. m = 1 is Rayleigh: fully developed speckle.
    """
    share, powers = shares(histogram), amplitudes**2
    omega = share @ powers
    gap = np.log(omega) - share @ np.log(powers)
    gap = np.where(gap > 1e-9, gap, np.nan)  # one amplitude alone has no m
    m = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(NEWTON_STEPS):
        m = 1 / (1 / m + (np.log(m) - digamma(m) - gap) / (m**2 * (1 / m - polygamma(1, m))))
    return m, omega


def correlation_length(values: np.ndarray, mask: np.ndarray, axis: int) -> float:
    """The lag in pixels at which the autocorrelation of `values` [H, W] within `mask` falls to one half.

    Along `axis` (0: depth, 1: across), linear between whole lags, of pairs of pixels that both lie in the mask; a plane
    is taken off first, since haze and gain vary slowly. NaN if the mask is too small for it to fall so far.
    """
    values = without_plane(values, mask)
    variance = (values**2).sum() / max(mask.sum(), 1)
    before = 1.0
    for lag in range(1, mask.shape[axis]):
        ahead, behind = ([slice(None)] * 2 for _ in range(2))
        ahead[axis], behind[axis] = slice(lag, None), slice(None, -lag)
        pairs = np.count_nonzero(mask[tuple(ahead)] & mask[tuple(behind)])
        if pairs < LEAST_PAIRS or variance <= 0:
            break
        now = (values[tuple(ahead)] * values[tuple(behind)]).sum() / pairs / variance
        if now < HALF:
            return lag - 1 + (before - HALF) / (before - now)
        before = now
    return float("nan")


def without_plane(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`values` [H, W] less the plane that fits them best within `mask`; 0 outside of it."""
    rows, columns = np.nonzero(mask)
    left = np.zeros(values.shape)
    if rows.size < LEAST_PIXELS:
        return left
    design = np.stack([np.ones(rows.size), rows - rows.mean(), columns - columns.mean()], 1)
    inside = values[mask].astype(float)
    left[mask] = inside - design @ (np.linalg.pinv(design.T @ design) @ (design.T @ inside))
    return left


def radial_spectrum(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Power by spatial frequency within the cone, as a share of all: [B, H, W] and its mask -> [B, F].

    Ring f of F = min(H, W) / 2 holds frequencies around (f + 0.5) / (2 F) cycles per pixel. The mean of the cone is
    taken off; what lies outside of it is 0, so its outline is in the spectrum, the same for equal cones.
    """
    count = np.maximum(inside.sum((1, 2), keepdims=True), 1)
    values = (images - (images * inside).sum((1, 2), keepdims=True) / count) * inside
    power = np.abs(fft.fft2(values)) ** 2
    height, width = images.shape[1:]
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.fftfreq(width)[None])
    rings = min(height, width) // 2
    ring = np.floor(radius * 2 * rings).astype(int)
    wanted = (ring < rings) & (radius > 0)
    sums = np.stack([np.bincount(ring[wanted], one[wanted], minlength=rings) for one in power])
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / sums.sum(1, keepdims=True)

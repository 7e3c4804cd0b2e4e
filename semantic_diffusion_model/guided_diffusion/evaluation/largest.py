"""The law of the largest of m correlations by chance, and how far it reaches: how near a training frame may come.

Fisher's z = artanh(r) of a correlation by chance is normal (Fisher 1921), and the nearest of T training frames,
mirrored too, has the largest of 2 T of them: F(z) = Phi((z - a) / b)^m, with m = 2 T if all were independent. It is
skewed: its upper tail, from which a limit is extrapolated, is far longer than that of a normal law of the same
quartiles, and the longer the larger m is (towards Gumbel's law). Frames that have much in common count as fewer; and
where images differ in how near all of training lies to them, the law is closer to the normal one, m = 1. So m is told
by the values, where there are enough of them.
"""

from functools import cache

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import norm

USED = 0.8
"""Share of the values, from the lowest on, that are looked at: the others may be copies themselves."""
LEAST_SCALE = 0.02
LEAST_VALUES, MOST_VALUES = 10, 400
"""A fit counts as one to so many values at least, and at most."""
SIMULATIONS, FEW_SIMULATIONS = 10_000, 2_000
DOUBT = 0.05
HIGHEST = 100.0


def limit(values: np.ndarray, most: int, draws: float, chance: float) -> float:
    """What none of `draws` further values of the law of `values` [H] exceeds, but by `chance`; m is `most` at most."""
    values = np.sort(values)[None]
    m = shape(values, most)
    place, scale = fit(values, m)
    return float(place[0] + reach(values.shape[1], m, draws, chance) * max(scale[0], LEAST_SCALE))


def shape(values: np.ndarray, most: int) -> int:
    """m: the largest power of 2 up to `most`, or `most`, that does not contradict the ascending `values` [1, H].

    One that does would bend as little as they do by a chance of DOUBT or less: so few values leave it at `most`, which
    has the longest tail.
    """
    count = values.shape[1]
    found = most
    while found > 1 and count >= LEAST_VALUES and bend(values)[0] < least_bend(count, found):
        found = 2 ** ((found - 1).bit_length() - 1)
    return found


def bend(values: np.ndarray) -> np.ndarray:
    """Of ascending samples [R, H], how much they bend upwards on a normal probability plot, [R]: the coefficient of the
    square over that of the slope, whatever their place and scale; 0 of a normal law. inf of values that are all equal.
    """
    scores = _scores(values.shape[1], 1)
    basis, weights = np.linalg.qr(np.stack([np.ones_like(scores), scores, scores**2], 1))
    _, slope, square = (values[:, : len(scores)] @ basis @ np.linalg.inv(weights).T).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope > 0, square / slope, np.inf)


@cache
def least_bend(count: int, m: int) -> float:
    """What `count` values of the law bend by at the least, but for a share DOUBT of such samples."""
    return float(np.quantile(bend(_samples(count, m, FEW_SIMULATIONS)), DOUBT))


def fit(values: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """a and b, [R] each, of ascending samples [R, H]: the line through what is USED of them over the quantiles of the
    standard law (least squares on a probability plot). b is 0 of a single value.
    """
    scores = _scores(values.shape[1], m)
    centred = scores - scores.mean()
    used = values[:, : len(scores)]
    scale = used @ centred / max(float(centred @ centred), 1e-12)
    return used.mean(1) - scale * scores.mean(), scale


@cache
def reach(count: int, m: int, draws: float, chance: float) -> float:
    """k such that the largest of `draws` values exceeds a + k b with probability `chance`, a and b fitted to `count`
    values of the same law: so that a limit keeps its promise however few there are.

    (largest - a) / b has one law whatever the true place and scale, as the fit follows both. That law is simulated.
    """
    place, scale = fit(_samples(count, m, SIMULATIONS), m)
    low, high = 0.0, HIGHEST
    while high - low > 1e-3:
        middle = (low + high) / 2
        exceeded = -np.expm1(m * draws * log_ndtr(place + middle * scale)).mean()
        low, high = (middle, high) if exceeded > chance else (low, middle)
    return high


def quantile(p: np.ndarray, m: int) -> np.ndarray:
    """Where Phi(z)^m = `p`."""
    return norm.isf(-np.expm1(np.log(p) / m))


def _scores(count: int, m: int) -> np.ndarray:
    """Quantiles of the standard law at which the USED ones of `count` ascending values are expected."""
    return quantile((np.arange(max(1, round(USED * count))) + 0.5) / count, m)


def _samples(count: int, m: int, samples: int) -> np.ndarray:
    """Ascending samples [R, H] of the standard law."""
    count = min(max(count, LEAST_VALUES), MOST_VALUES)
    uniform = np.random.default_rng(0).random((samples, count))
    uniform.sort(axis=1)
    return quantile(uniform, m)

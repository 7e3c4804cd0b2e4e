"""Chance among patients: bootstrap intervals, and the difference between two halves of the real patients.

Frames of one patient are not independent, so patients are drawn, and each counts alike. Draws are weights [R, P] over
patients: means of every draw are then one product of matrices. NaN (not shown in any frame) is left out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import wasserstein_distance

CONFIDENCE = 0.95
HALVINGS = 200


@dataclass(frozen=True)
class Difference:
    """A number of real and of synthetic frames. `interval`: of the difference (synthetic less real; of a distance: of
    itself), patients resampled. `yardstick`: 95 % of random halves of the real patients differ by less; longer where
    there are few synthetic patients (`chance`)."""

    real: float | None
    synthetic: float | None
    difference: float
    interval: tuple[float, float]
    yardstick: float

    @property
    def outside(self) -> bool | None:
        """Whether the difference is larger than the yardstick; None where one of them is not defined."""
        if not np.isfinite([self.difference, self.yardstick]).all():
            return None
        return bool(abs(self.difference) > self.yardstick)

    def as_dict(self) -> dict:
        return asdict(self) | {"outside": self.outside}


@dataclass(frozen=True)
class Draws:
    """Weights of each resampling of the real and of the synthetic patients, and of each half of the real ones."""

    real: np.ndarray
    synthetic: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]


def draw(real: int, synthetic: int, resamplings: int, seed: int) -> Draws:
    """Draws for these numbers of patients. `real` is at least 2."""
    generator = np.random.default_rng([seed, 1])
    weights = [bootstrap_weights(count, resamplings, generator) for count in (real, synthetic)]
    return Draws(*weights, half_weights(real, generator))


def bootstrap_weights(count: int, resamplings: int, generator: np.random.Generator) -> np.ndarray:
    """[resamplings, count]: how often each is drawn, with replacement (Efron & Tibshirani 1993, 13.3), as shares."""
    return generator.multinomial(count, np.full(count, 1 / count), resamplings) / count


def half_weights(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights of two random halves, [HALVINGS, count] each."""
    first = np.argsort(generator.random((HALVINGS, count)), 1) < count // 2
    return first / first.sum(1, keepdims=True), ~first / (~first).sum(1, keepdims=True)


def by_patient(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Means over the frames of each patient, in the order of their names: [N, ...] -> [P, ...]."""
    _, which = np.unique(np.asarray(patients), return_inverse=True)
    known = np.isfinite(values)
    sums, counts = (np.zeros((which.max() + 1, *values.shape[1:])) for _ in range(2))
    np.add.at(sums, which, np.where(known, values, 0))
    np.add.at(counts, which, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts


def weighted_means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[R, P] and [P, ...] -> [R, ...]; NaN counts for nothing."""
    known = np.isfinite(values)
    flat = np.where(known, values, 0).reshape(len(values), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ flat) / (weights @ known.reshape(len(values), -1))
    return means.reshape(len(weights), *values.shape[1:])


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of `draws` [R]; NaN if there are none."""
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def upper(draws: np.ndarray) -> float:
    """What 95 % of `draws` [R] are below."""
    draws = draws[np.isfinite(draws)]
    return float(np.quantile(draws, CONFIDENCE)) if draws.size else float("nan")


def chance(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """By how much, [K], differences of P real and Q synthetic patients of one population are larger than those of two
    halves of the real ones: [P, K] and [Q, K], counted where they are defined.

    Means of halves differ with variance 4 s^2 / P, those of both sets with s^2 / P + s^2 / Q: the ratio of the standard
    deviations is sqrt((1 + P / Q) / 4). 1 where that is less: from a third as many synthetic patients on the halves
    are the yardstick as they are.
    """
    counts = (np.maximum(np.isfinite(side).sum(0), 1) for side in (real, synthetic))
    ratio = np.divide(*counts)
    return np.maximum(1, np.sqrt((1 + ratio) / 4))


def mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over patients [P, ...] -> [...]."""
    return weighted_means(np.full((1, len(values)), 1 / len(values)), values)[0]


def compare_means(real: np.ndarray, synthetic: np.ndarray, draws: Draws) -> list[Difference]:
    """Columns of numbers by patient, [P, K] and [Q, K]."""
    there, made = mean_of(real), mean_of(synthetic)
    spread = weighted_means(draws.synthetic, synthetic) - weighted_means(draws.real, real)
    halves = np.abs(np.subtract(*(weighted_means(half, real) for half in draws.halves))) * chance(real, synthetic)
    return [
        Difference(
            float(there[k]), float(made[k]), float(made[k] - there[k]), interval(spread[:, k]), upper(halves[:, k])
        )
        for k in range(real.shape[1])
    ]


def histogram_distances(real: np.ndarray, synthetic: np.ndarray, draws: Draws) -> list[Difference]:
    """Wasserstein distance, in grey levels, of histograms by patient and class: [P, C, 256] and [Q, C, 256] shares.

    0 is alike. It cannot be negative, so its interval lies above what two draws of one population would have.
    """
    found = []
    for c in range(real.shape[1]):
        distance = wasserstein(mean_of(real[:, c]), mean_of(synthetic[:, c]))
        resampled = distances(weighted_means(draws.real, real[:, c]), weighted_means(draws.synthetic, synthetic[:, c]))
        halves = distances(*(weighted_means(half, real[:, c]) for half in draws.halves))
        longer = float(chance(real[:, c, 0], synthetic[:, c, 0]))
        found.append(Difference(None, None, distance, interval(resampled), longer * upper(halves)))
    return found


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`wasserstein` of each pair of rows [R, 256] -> [R]."""
    return np.array([wasserstein(one, other) for one, other in zip(first, second, strict=True)])


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """First Wasserstein distance of two histograms over grey levels, [256] each; NaN if either is empty."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    levels = np.arange(len(first))
    return float(wasserstein_distance(levels, levels, first, second))

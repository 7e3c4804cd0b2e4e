"""Two synthetic sets side by side, paired by label map: which is nearer to real frames, and is it more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from command import UserError
from guided_diffusion.evaluation.image_sets import Frame
from guided_diffusion.evaluation.resampling import (
    by_patient,
    distances,
    draw,
    interval,
    mean_of,
    wasserstein,
    weighted_means,
)


@dataclass(frozen=True)
class Pairing:
    """For each label map that both sets have: the rows of A's frames, those of B's, and its patient."""

    rows: tuple[list[np.ndarray], list[np.ndarray]]
    patients: list[str]

    def values(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values by frame of A and of B -> means by label map, then by patient, [P, ...] each.

        What is not defined (NaN) of a label map in one set is left out of the other, too: so means and differences are
        of the same label maps.
        """
        with np.errstate(invalid="ignore"):
            maps = [
                np.stack([_mean(table[rows]) for rows in side])
                for table, side in zip((first, second), self.rows, strict=True)
            ]
        lacking = ~np.isfinite(maps[0]) | ~np.isfinite(maps[1])
        a, b = (by_patient(np.where(lacking, np.nan, one), self.patients) for one in maps)
        return a, b


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def pair_by_label_map(first: Sequence[Frame], second: Sequence[Frame]) -> Pairing:
    """Raises UserError if the sets have no label map in common, or others of the same names."""
    sides: list[dict[str, list[int]]] = []
    patients: dict[str, str] = {}
    for frames in (first, second):
        rows: dict[str, list[int]] = {}
        for index, frame in enumerate(frames):
            rows.setdefault(frame.label_map, []).append(index)
            patients[frame.label_map] = frame.patient
        sides.append(rows)
    common = sorted(sides[0].keys() & sides[1].keys())
    if not common:
        raise UserError("--compare: the two sets have no label map in common, so nothing can be paired")
    digests = [{frame.label_map: frame.label_sha256 for frame in frames} for frames in (first, second)]
    other = [name for name in common if all(side[name] for side in digests) and digests[0][name] != digests[1][name]]
    if other:
        raise UserError(
            f"--compare: {len(other)} label maps of the same name are others in the second set, such as {other[0]} "
            "(label_sha256 in manifest.csv): sample both sets for the same label maps"
        )
    rows = tuple([np.array(side[name]) for name in common] for side in sides)
    return Pairing((rows[0], rows[1]), [patients[name] for name in common])


def compare_numbers(real: np.ndarray, first: np.ndarray, second: np.ndarray, resamplings: int, seed: int) -> list[dict]:
    """Of numbers by patient, real [P, K], A and B [Q, K]: both means, their paired difference, and how much farther B
    is from real than A is (|B - real| - |A - real|), with 95 % intervals over patients. A and B as `Pairing.values`
    gives them, undefined for the same patients.
    """
    draws = draw(len(real), len(first), resamplings, seed)
    there, a, b = mean_of(real), mean_of(first), mean_of(second)
    real_draws = weighted_means(draws.real, real)
    a_draws, b_draws = (weighted_means(draws.synthetic, side) for side in (first, second))
    farther = np.abs(b - there) - np.abs(a - there)
    farther_draws = np.abs(b_draws - real_draws) - np.abs(a_draws - real_draws)
    return [
        {
            "real": float(there[k]),
            "a": float(a[k]),
            "b": float(b[k]),
            "b_minus_a": float(b[k] - a[k]),
            "interval": interval(b_draws[:, k] - a_draws[:, k]),
            **_verdict(farther[k], farther_draws[:, k]),
        }
        for k in range(real.shape[1])
    ]


def compare_histograms(
    real: np.ndarray, first: np.ndarray, second: np.ndarray, resamplings: int, seed: int
) -> list[dict]:
    """The same of the Wasserstein distance from real, of histograms by patient and class, [P, C, 256], [Q, C, 256]."""
    draws, found = draw(len(real), len(first), resamplings, seed), []
    for c in range(real.shape[1]):
        a, b = (wasserstein(mean_of(real[:, c]), mean_of(side[:, c])) for side in (first, second))
        drawn = [
            distances(weighted_means(draws.real, real[:, c]), weighted_means(draws.synthetic, side[:, c]))
            for side in (first, second)
        ]
        farther = drawn[1] - drawn[0]
        entry = {"real": None, "a": a, "b": b, "b_minus_a": b - a, "interval": interval(farther)}
        found.append(entry | _verdict(b - a, farther))
    return found


def _verdict(farther: float, draws: np.ndarray) -> dict:
    """Which set is closer to real, from how much farther B is; None where that is not defined."""
    low, high = interval(draws)
    closer = "A" if low > 0 else "B" if high < 0 else "neither"
    if not np.isfinite([farther, low, high]).all():
        closer = None
    return {"b_farther_from_real": float(farther), "farther_interval": (low, high), "closer_to_real": closer}


def compare_dice(first: np.ndarray, second: np.ndarray, resamplings: int, seed: int) -> list[dict]:
    """Of Dice by patient, A and B [Q, structures]: both means and the paired difference."""
    weights = draw(2, len(first), resamplings, seed).synthetic
    draws = weighted_means(weights, second - first)
    a, b, difference = mean_of(first), mean_of(second), mean_of(second - first)
    return [
        {"a": float(a[k]), "b": float(b[k]), "b_minus_a": float(difference[k]), "interval": interval(draws[:, k])}
        for k in range(first.shape[1])
    ]

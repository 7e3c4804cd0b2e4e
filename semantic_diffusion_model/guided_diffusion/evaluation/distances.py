"""Distances between two clouds of features, by torch-fidelity (slow to import): Frechet, kernel, precision, recall."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guided_diffusion.evaluation.resampling import interval, mean_of, upper

ENOUGH_IMAGES = 2048
MANY_FEATURES = 1024
HALVINGS, FEW_HALVINGS = 10, 3
KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 20, 1000
NEIGHBOURS = 3
AT_ONCE = 2000
LEAST_IMAGES = 2
"""Fewer have no covariance."""


@dataclass(frozen=True)
class Cloud:
    """Features [N, D] and the patient of each."""

    features: np.ndarray
    patients: Sequence[str]


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """|mean difference|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, eq. 6), of [N, D] and [M, D].

    Biased upwards, the more so the fewer images.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(torch.from_numpy(f.astype(np.float64))) for f in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kernel(first: np.ndarray, second: np.ndarray, seed: int) -> float:
    """Squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018), unbiased: may be below 0."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KERNEL_SUBSET_SIZE, len(first), len(second))
    subsets = 1 if size == len(first) == len(second) else KERNEL_SUBSETS
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    pair = (torch.from_numpy(f.astype(np.float64)) for f in (first, second))
    return float(kid_features_to_metric(*pair, **options)[KEY_METRIC_KID_MEAN])


def precision_recall(synthetic: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Share of synthetic images among the neighbours of real ones, and the reverse (Kynkaanniemi et al. 2019)."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    options = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": AT_ONCE, "save_cpu_ram": True, "verbose": False}
    pair = (torch.from_numpy(f) for f in (synthetic, real))
    found = prc_features_to_metric(*pair, **options)
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def standardised(real: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Features in standard deviations of the real ones, those without any spread left out."""
    mean, spread = real.mean(0), real.std(0)
    kept = spread > 1e-6 * max(1.0, float(np.abs(mean).max()))
    return [((f[:, kept] - mean[kept]) / spread[kept]).astype(np.float32) for f in (real, *others)]


def compare_clouds(real: Cloud, synthetic: Cloud, seed: int) -> dict:
    """All distances; for Frechet and kernel distance also between halves of the real patients (the yardstick), and
    between such a half and as many synthetic images, so that both suffer alike from small numbers. NaN, and nothing is
    judged (`outside` None), where no half has LEAST_IMAGES.
    """
    precision, recall = precision_recall(synthetic.features, real.features)
    halvings = FEW_HALVINGS if real.features.shape[1] > MANY_FEATURES else HALVINGS
    rows = [_half_distances(real, synthetic, np.random.default_rng([seed, 2, i]), seed) for i in range(halvings)]
    found = {
        "images": {"real": len(real.features), "synthetic": len(synthetic.features)},
        "enough_images": min(len(real.features), len(synthetic.features)) >= ENOUGH_IMAGES,
        "images_of_a_half": next((row[4] for row in rows if row[4] >= LEAST_IMAGES), rows[0][4]),
        "precision": precision,
        "recall": recall,
    }
    table = np.array(rows)
    for name, value, columns in (
        ("frechet", frechet(real.features, synthetic.features), (0, 1)),
        ("kernel", kernel(real.features, synthetic.features, seed), (2, 3)),
    ):
        equal, halves = (table[:, column] for column in columns)
        found[name] = {
            "all_images": value,
            "equal_numbers": float(mean_of(equal)),
            "interval": interval(equal),
            "yardstick": upper(halves),
            "outside": bool(mean_of(equal) > upper(halves)) if np.isfinite(upper(halves)) else None,
        }
    return found


def _half_distances(real: Cloud, synthetic: Cloud, generator: np.random.Generator, seed: int) -> tuple[float, ...]:
    """Frechet of a real half against as many synthetic images and against the other half, kernel likewise; how many.

    NaN for fewer than LEAST_IMAGES.
    """
    names = np.asarray(real.patients)
    chosen = np.isin(names, generator.permutation(np.unique(names))[: len(np.unique(names)) // 2])
    halves = [generator.permutation(np.flatnonzero(part)) for part in (chosen, ~chosen)]
    count = min(*map(len, halves), len(synthetic.features))
    if count < LEAST_IMAGES:
        return *[float("nan")] * 4, count
    one, other = (real.features[half[:count]] for half in halves)
    made = synthetic.features[generator.permutation(len(synthetic.features))[:count]]
    return frechet(one, made), frechet(one, other), kernel(one, made, seed), kernel(one, other, seed), count

"""What stands in evaluation.json: every number in its place (docs/evaluation.md names the keys)."""

import json
import math
from typing import Any

import numpy as np

from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.comparison import Pairing, compare_dice, compare_histograms, compare_numbers
from guided_diffusion.evaluation.distances import Cloud, compare_clouds, standardised
from guided_diffusion.evaluation.frame_numbers import quantities
from guided_diffusion.evaluation.measuring import Measured
from guided_diffusion.evaluation.resampling import (
    Draws,
    by_patient,
    compare_means,
    draw,
    histogram_distances,
    interval,
    mean_of,
    weighted_means,
)

Entry = dict[str, Any]
SECTIONS = ("grey_levels", "contrast", "speckle", "autocorrelation", "power_spectrum")


def differences(
    classes: Classes, real: Measured, synthetic: Measured, resamplings: int, seed: int
) -> tuple[Entry, Entry]:
    """The SECTIONS, by row and key, and the curve of the power spectrum."""
    pair = [measured.by_patient("numbers") for measured in (real, synthetic)]
    draws = draw(*map(len, pair), resamplings, seed)
    found: Entry = {section: {} for section in SECTIONS}
    histograms = [measured.by_patient("grey_levels") for measured in (real, synthetic)]
    for name, one in zip(classes.names, histogram_distances(*histograms, draws), strict=True):
        found["grey_levels"].setdefault(name, {})["wasserstein"] = one.as_dict() | {"unit": "grey level"}
    for quantity, one in zip(quantities(classes), compare_means(*pair, draws), strict=True):
        found[quantity.section].setdefault(quantity.row, {})[quantity.key] = one.as_dict() | {"unit": quantity.unit}
    return found, spectrum_curve(*(measured.by_patient("spectrum") for measured in (real, synthetic)), draws)


def spectrum_curve(real: np.ndarray, synthetic: np.ndarray, draws: Draws) -> Entry:
    """Shares of power by ring of frequency, in dB, with 95 % bands over patients: of [P, F] and [Q, F]."""
    rings = real.shape[1]
    found: Entry = {"cycles_per_pixel": ((np.arange(rings) + 0.5) / (2 * rings)).tolist()}
    for name, values, weights in (("real", real, draws.real), ("synthetic", synthetic, draws.synthetic)):
        drawn = decibels(weighted_means(weights, values))
        found[f"{name}_db"] = decibels(mean_of(values)).tolist()
        found[f"{name}_interval_db"] = [interval(drawn[:, ring]) for ring in range(rings)]
    return found


def decibels(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(values)


def feature_distances(real: Measured, synthetic: Measured, network: str, seed: int) -> Entry:
    """As `compare_clouds`; those of our encoder are brought to unit spread first, Inception's left as they are."""
    clouds = [measured.tables[network] for measured in (real, synthetic)]
    if network == "encoder":
        clouds = standardised(*clouds)
    pair = [Cloud(cloud, m.patients) for cloud, m in zip(clouds, (real, synthetic), strict=True)]
    return compare_clouds(*pair, seed)


def agreement(
    classes: Classes,
    synthetic: Measured,
    dice: np.ndarray,
    real: Measured,
    real_dice: np.ndarray | None,
    resamplings: int,
    seed: int,
) -> Entry:
    """Mean Dice over patients by structure, of synthetic frames and of those real ones that have a prediction."""
    found: Entry = {}
    sides = {"synthetic": (dice, synthetic), "real": (real_dice, real)}
    for name, (values, measured) in sides.items():
        if values is None:
            found[name] = None
            continue
        table = by_patient(values, measured.patients)
        drawn = weighted_means(draw(2, len(table), resamplings, seed).synthetic, table)
        found[name] = {"frames": int(np.isfinite(values).any(1).sum())} | {
            structure: {"dice": float(mean_of(table)[k]), "interval": interval(drawn[:, k])}
            for k, structure in enumerate(classes.structures)
        }
    return found


def comparison(
    classes: Classes,
    real: Measured,
    sets: tuple[Measured, Measured],
    pairing: Pairing,
    dice: tuple[np.ndarray, np.ndarray] | None,
    resamplings: int,
    seed: int,
) -> Entry:
    """A and B by the rows and keys of SECTIONS, and Dice where both have predictions."""
    found: Entry = {section: {} for section in SECTIONS}

    def sides(name: str) -> list[np.ndarray]:
        return [real.by_patient(name), *pairing.values(*(one.tables[name] for one in sets))]

    for name, one in zip(classes.names, compare_histograms(*sides("grey_levels"), resamplings, seed), strict=True):
        found["grey_levels"].setdefault(name, {})["wasserstein"] = one
    for quantity, one in zip(quantities(classes), compare_numbers(*sides("numbers"), resamplings, seed), strict=True):
        found[quantity.section].setdefault(quantity.row, {})[quantity.key] = one
    found["label_maps_in_common"] = len(pairing.patients)
    found["patients"] = len(set(pairing.patients))
    found["label_agreement"] = None
    if dice is not None:
        tables = pairing.values(*dice)
        found["label_agreement"] = dict(zip(classes.structures, compare_dice(*tables, resamplings, seed), strict=True))
    return found


def as_json(entry: Entry) -> str:
    """JSON in which what is not defined (NaN) is null."""
    return json.dumps(_plain(entry), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value

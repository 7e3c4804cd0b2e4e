"""What is measured on each frame: one row of named numbers, histograms by class, a spectrum."""

from dataclasses import dataclass

import numpy as np

from guided_diffusion.evaluation import speckle
from guided_diffusion.evaluation.classes import Classes, Values

BANDS = ((0, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2))
"""Octaves of spatial frequency, in cycles per pixel."""


@dataclass(frozen=True)
class Quantity:
    """A column of the numbers: the section of the report it stands in, its row there, its key and its unit."""

    section: str
    row: str
    key: str
    unit: str


def quantities(classes: Classes) -> list[Quantity]:
    """The columns of `frame_numbers`, in order."""
    found = [Quantity("grey_levels", name, key, "grey level") for name in classes.names for key in ("mean", "sd")]
    found += [Quantity("contrast", name, key, "") for name in classes.contrasts for key in ("cnr", "gcnr")]
    speckle_keys = (("nakagami_m", ""), ("nakagami_omega_db", "dB"), ("black", "share of pixels"))
    inside = [classes.names[value] for value in classes.inside]
    found += [Quantity("speckle", name, key, unit) for name in inside for key, unit in speckle_keys]
    found += [Quantity("autocorrelation", name, key, "pixels") for name in inside for key in ("depth", "across")]
    return found + [Quantity("power_spectrum", band_name(*band), "power_db", "dB") for band in BANDS]


def band_name(low: float, high: float) -> str:
    return f"{low:g} to {high:g} cycles/pixel"


def grey_histograms(images: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """How often each grey level occurs in each class: [B, H, W] uint8 twice -> [B, classes, 256] int32."""
    joint = labels.astype(np.int32) * 256 + images
    count = len(classes.names)
    counts = [np.bincount(one.ravel(), minlength=count * 256) for one in joint]
    return np.stack(counts).reshape(len(images), count, 256).astype(np.int32)


def frame_numbers(images: np.ndarray, labels: np.ndarray, classes: Classes, dynamic_range: float) -> np.ndarray:
    """[B, H, W] uint8 twice -> [B, quantities] float64; NaN for what a frame does not show (no atrium, say)."""
    histograms = grey_histograms(images, labels, classes)
    mean, variance = speckle.moments(histograms)
    columns = [np.stack([mean, np.sqrt(variance)], -1).reshape(len(images), -1)]
    for sides in classes.contrasts.values():
        pair = [histograms[:, values].sum(1) for values in sides]
        columns += [speckle.contrast_to_noise(*pair)[:, None], speckle.generalised_contrast(*pair)[:, None]]
    columns.append(_speckle(histograms[:, classes.inside], dynamic_range))
    columns.append(_lengths(images, labels, classes.inside))
    columns.append(band_powers(speckle.radial_spectrum(images, classes.shown(labels))))
    return np.concatenate(columns, 1)


def _speckle(histograms: np.ndarray, dynamic_range: float) -> np.ndarray:
    """m, Omega in dB and the share of black pixels, by class: [B, 3 * classes].

    Level 0 lies below what the display shows, at no known amplitude: it is counted, not fitted.
    """
    m, omega = speckle.nakagami(histograms[..., 1:], speckle.envelope(dynamic_range)[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        black = histograms[..., 0] / histograms.sum(-1)
        return np.stack([m, 10 * np.log10(omega), black], -1).reshape(len(histograms), -1)


def _lengths(images: np.ndarray, labels: np.ndarray, inside: Values) -> np.ndarray:
    """Correlation lengths in depth and across, by class: [B, 2 * classes]."""
    found = []
    for image, label in zip(images, labels, strict=True):
        for value in inside:
            mask = label == value
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if not rows.size:
                found += [np.nan, np.nan]
                continue
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            found += [speckle.correlation_length(image[box], mask[box], axis) for axis in (0, 1)]
    return np.reshape(found, (len(images), -1))


def band_powers(spectra: np.ndarray) -> np.ndarray:
    """Share of the power in each of BANDS, in dB: [B, F] -> [B, bands]; NaN where a band holds none."""
    rings = spectra.shape[-1]
    centre = (np.arange(rings) + 0.5) / (2 * rings)
    shares = [spectra[..., (centre >= low) & (centre < high)].sum(-1) for low, high in BANDS]
    with np.errstate(divide="ignore"):
        powers = 10 * np.log10(np.stack(shares, -1))
    return np.where(np.isfinite(powers), powers, np.nan)

"""Simulated B-mode echo: from a map of tissues to grey levels, in the order in which a scanner forms an image.

Scatterers of random strength whose mean echo depends on the tissue -> pulse along the beam and beam profile across (a
convolution in polar coordinates) -> envelope -> loss with depth -> log compression -> scan conversion into the cone.
The model is that of Bamber & Dickinson 1980 (Phys. Med. Biol. 25:463): RF = scatterers * point spread function.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Probe:
    """Sampling and point spread; defaults give the speckle of a 2.5 MHz cardiac probe as CAMUS shows it."""

    samples: int = 720  # along a beam, from the tip of the cone to its end
    beams: int = 224
    pulse_mm: float = 0.42  # standard deviation of the pulse's Gaussian envelope along the beam
    wavelength_mm: float = 0.8  # of the received carrier, two-way
    beam_width: float = 0.0095  # standard deviation across, in radians
    looks: int = 2  # images of independent speckle whose envelopes are averaged (compounding)
    dynamic_range_db: float = 54.0


def polar_grid(probe: Probe, depth_mm: float, half_angle: float) -> tuple[np.ndarray, np.ndarray]:
    """(x, z) in mm of each polar sample, both [samples, beams]."""
    radius = np.linspace(0, depth_mm, probe.samples)[:, None]
    angle = np.linspace(-half_angle, half_angle, probe.beams)[None, :]
    return radius * np.sin(angle), radius * np.cos(angle)


def echo_envelope(probe: Probe, amplitude: np.ndarray, depth_mm: float, half_angle: float, rng) -> np.ndarray:
    """Envelope of the received echo for scatterers of mean strength `amplitude` [samples, beams], same shape, float32.

    For an amplitude of 1 everywhere the mean square of a single look is 1.
    """
    step_mm = depth_mm / (probe.samples - 1)
    reach = int(np.ceil(3 * probe.pulse_mm / step_mm))
    along_mm = np.arange(-reach, reach + 1) * step_mm
    pulse = np.exp(-0.5 * (along_mm / probe.pulse_mm) ** 2) * np.exp(2j * np.pi * along_mm / probe.wavelength_mm)
    step = 2 * half_angle / (probe.beams - 1)
    reach = int(np.ceil(3 * probe.beam_width / step))
    across = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / probe.beam_width) ** 2)
    pulse /= np.linalg.norm(pulse)
    across /= np.linalg.norm(across)
    kernels = [np.ascontiguousarray(part) for part in (pulse.real, pulse.imag)]
    amplitude = amplitude.astype(np.float32)
    envelope = np.zeros_like(amplitude)
    for _ in range(probe.looks):
        scatterers = rng.standard_normal(amplitude.shape, dtype=np.float32) * amplitude
        parts = [cv2.sepFilter2D(scatterers, cv2.CV_32F, across, kernel) for kernel in kernels]
        envelope += cv2.magnitude(*parts) / probe.looks
    return envelope


def log_compress(envelope: np.ndarray, dynamic_range_db: float) -> np.ndarray:
    """Grey levels, float32: 0 dB is 255, -`dynamic_range_db` is 0, clipped."""
    level_db = 20 * np.log10(np.maximum(envelope, 1e-6))
    return np.clip(255 * (1 + level_db / dynamic_range_db), 0, 255).astype(np.float32)


def scan_convert(polar: np.ndarray, depth_mm: float, half_angle: float, shape: tuple[int, int]) -> np.ndarray:
    """Polar grey levels -> uint8 image of `shape` (rows = depth, columns = lateral), 0 exactly outside the cone."""
    radius, angle = cone_coordinates(depth_mm, half_angle, shape)
    samples, beams = polar.shape
    row = radius / depth_mm * (samples - 1)
    column = (angle / half_angle + 1) / 2 * (beams - 1)
    image = cv2.remap(
        polar, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inside = (radius <= depth_mm) & (np.abs(angle) <= half_angle)
    return np.where(inside, np.clip(np.rint(image), 1, 255), 0).astype(np.uint8)


def cone_coordinates(depth_mm: float, half_angle: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the tip in mm and angle in radians of each pixel's centre, both `shape`."""
    rows, columns = shape
    z = (np.arange(rows) + 0.5)[:, None] / rows * depth_mm
    x = ((np.arange(columns) + 0.5)[None, :] / columns - 0.5) * 2 * depth_mm * np.sin(half_angle)
    return np.hypot(x, z), np.arctan2(x, z)

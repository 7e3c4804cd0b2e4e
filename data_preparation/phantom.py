"""One phantom frame: the tissues of a drawn heart, what lies between it and the probe, and the simulated image.

Everything that belongs to a patient's chest (echo of the tissues, textures, shadows, gain) is drawn once and stays
between the phases; the scatterers are new in each frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from anatomy import VIEWS, LeftHeart
from raster import Raster, label_map
from tissue import Echo, draw_echo, smooth_noise, tissue_db
from ultrasound import Probe, echo_envelope, log_compress, polar_grid, scan_convert

QUALITIES = ("Good", "Medium", "Poor")


@dataclass(frozen=True)
class Chest:
    """What surrounds the heart and how the scanner is set, the same in all frames of a patient."""

    quality: str
    seed: int  # of the textures: others in each view, the same in both phases
    echo: Echo
    probe: Probe
    gain_db: float
    haze_db: float  # clutter near the probe
    haze_mm: float  # depth over which it falls by 10 dB


def draw_chest(rng: np.random.Generator) -> Chest:
    """Levels, speckle and image quality vary about as in CAMUS (benchmarks/results/camus_frames.csv)."""
    quality = QUALITIES[rng.choice(3, p=[0.5, 0.35, 0.15])]
    fine = float(np.exp(rng.normal(0, 0.2)))  # of the speckle: the transmitted frequency differs
    return Chest(
        quality=quality,
        seed=int(rng.integers(2**31)),
        echo=draw_echo(rng, washed_out=1.5 * QUALITIES.index(quality)),
        probe=Probe(pulse_mm=0.48 * fine, beam_width=0.0122 * fine),
        gain_db=rng.normal(0, 3.5),
        haze_db=rng.normal(-30, 6),
        haze_mm=rng.uniform(25, 80),
    )


def simulate(heart: LeftHeart, raster: Raster, view: str, chest: Chest, rng: np.random.Generator):
    """(image, labels), both uint8 [rows, columns]: the image is 0 exactly outside the cone."""
    probe, cone = chest.probe, raster.cone
    seed = [chest.seed, 1 + VIEWS.index(view)]
    tissue = tissue_db(heart.as_seen(rng), raster, view, chest.echo, seed)
    x, z = polar_grid(probe, cone.depth_mm, cone.half_angle)
    depth_mm, lateral_mm = raster.spacing_mm
    column = ((x + cone.half_width_mm) / lateral_mm - 0.5).astype(np.float32)
    row = (z / depth_mm - 0.5).astype(np.float32)
    polar_db = cv2.remap(tissue, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    radius_mm = np.linspace(0, cone.depth_mm, probe.samples)[:, None]
    polar_db += _mirror_db(polar_db, cone.depth_mm / (probe.samples - 1))
    polar_db += _chest_db(seed, polar_db.shape)
    power = 10 ** (polar_db / 10) + 10 ** (_clutter_db(chest, seed, radius_mm, polar_db.shape[1]) / 10)
    envelope = echo_envelope(probe, np.sqrt(power), cone.depth_mm, cone.half_angle, rng)
    envelope *= 10 ** (_gain_db(chest, seed, radius_mm / cone.depth_mm) / 20)
    grey = log_compress(envelope, probe.dynamic_range_db)
    grey = cv2.GaussianBlur(grey, (0, 0), sigmaX=0.7, sigmaY=0.7)  # the scanner's own smoothing
    return scan_convert(grey, cone.depth_mm, cone.half_angle, raster.shape), label_map(heart, raster)


def _mirror_db(polar_db: np.ndarray, step_mm: float) -> np.ndarray:
    """Interfaces square to the beam reflect like mirrors: more echo where the tissue changes along the beam."""
    change = np.abs(np.gradient(cv2.GaussianBlur(polar_db, (0, 0), 1.0), step_mm, axis=0))
    return np.clip(0.9 * change, 0, 7).astype(np.float32)


def _chest_db(seed: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Shadows of ribs and lung, and what lies in the depth. float32 [samples, beams]"""
    rng = np.random.default_rng([*seed, 1])
    depth = np.linspace(0, 1, shape[0])[:, None]
    angle = np.linspace(-1, 1, shape[1])[None, :]
    shadows = 2.5 * smooth_noise(rng, (1, shape[1]), 6)
    for side in (-1, 1):
        strength = rng.choice([0, rng.uniform(3, 18)], p=[0.4, 0.6])
        shadows = shadows - strength / (1 + np.exp(-(side * angle - rng.uniform(0.4, 0.95)) / 0.1))
    far = 9 * np.exp(-(((depth - rng.uniform(0.85, 1.03)) / 0.08) ** 2)) * rng.uniform(0, 1)
    return (shadows * np.clip(depth * 4, 0, 1) + far).astype(np.float32)


def _clutter_db(chest: Chest, seed: list[int], radius_mm: np.ndarray, beams: int) -> np.ndarray:
    """Echo over everything: haze and reverberations near the probe, electronic noise. [samples, beams]"""
    rng = np.random.default_rng([*seed, 2])
    haze = chest.haze_db - 10 * radius_mm / chest.haze_mm + 1.5 * smooth_noise(rng, (len(radius_mm), beams), 4)
    rings = np.full_like(radius_mm, -60.0)
    first, rest = rng.uniform(4, 7), rng.uniform(-22, -4)
    for number in range(1, 4):  # between the probe and the chest wall, to and fro
        peak = rest - 5 * number - ((radius_mm - first * number) / 1.0) ** 2
        rings = np.maximum(rings, peak)
    noise = -52 + 4 * radius_mm / radius_mm[-1]
    return 10 * np.log10(10 ** (haze / 10) + 10 ** (rings / 10) + 10 ** (noise / 10))


def _gain_db(chest: Chest, seed: list[int], depth: np.ndarray) -> np.ndarray:
    """The scanner's gain by depth (0 to 1), as set at its sliders. [samples, 1]"""
    rng = np.random.default_rng([*seed, 3])
    sliders = np.interp(depth, np.linspace(0, 1, 5), rng.normal(0, 2.8, 5))
    return chest.gain_db + sliders - 12 * np.exp(-((depth / 0.02) ** 2))

"""One phantom frame: the tissues of a drawn heart, their mean echo in decibels, and the simulated image of them.

The drawing's "colours" are decibels against the brightest grey level. Everything that belongs to a patient's chest
(textures, chest layers, shadows, gain) is drawn from one generator per view, so that it stays between the phases; the
scatterers are new in each frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from anatomy import Cone, Contour, LeftHeart
from ultrasound import Probe, echo_envelope, log_compress, polar_grid, scan_convert

BACKGROUND, CAVITY, MYOCARDIUM, ATRIUM = range(4)
SUBPIXEL_BITS = 4
QUALITIES = ("Good", "Medium", "Poor")


@dataclass(frozen=True)
class Raster:
    """Pixels over the cone's bounding box: `shape` is (rows = depth, columns = lateral), pixels are square."""

    cone: Cone
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, round(self.rows * 2 * self.cone.half_width_mm / self.cone.depth_mm)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(depth, lateral) size of a pixel."""
        return self.cone.depth_mm / self.shape[0], 2 * self.cone.half_width_mm / self.shape[1]

    def to_pixels(self, contour: Contour) -> np.ndarray:
        """(x, z) in mm -> OpenCV's fixed-point (column, row)."""
        depth_mm, lateral_mm = self.spacing_mm
        column = (contour[:, 0] + self.cone.half_width_mm) / lateral_mm - 0.5
        row = contour[:, 1] / depth_mm - 0.5
        return np.rint(np.stack([column, row], axis=1) * 2**SUBPIXEL_BITS).astype(np.int32)

    def fill(self, canvas: np.ndarray, contour: Contour, value: float) -> None:
        cv2.fillPoly(canvas, [self.to_pixels(contour)], value, shift=SUBPIXEL_BITS)

    def stroke(self, canvas: np.ndarray, contour: Contour, value: float, width_mm: float) -> None:
        width = max(1, round(width_mm / self.spacing_mm[0]))
        cv2.polylines(canvas, [self.to_pixels(contour)], False, value, width, cv2.LINE_8, SUBPIXEL_BITS)


def label_map(heart: LeftHeart, raster: Raster) -> np.ndarray:
    """CAMUS labels of `heart`, uint8 [rows, columns]."""
    labels = np.zeros(raster.shape, np.uint8)
    raster.fill(labels, heart.atrium(), ATRIUM)
    raster.fill(labels, heart.wall(), MYOCARDIUM)
    raster.fill(labels, heart.cavity(), CAVITY)
    return labels


@dataclass(frozen=True)
class Chest:
    """What surrounds the heart and how the scanner is set, the same in all frames of a view."""

    quality: str
    seed: int  # of the textures, drawn anew in the same way for each phase
    level_db: dict[int, float]  # mean echo of each label
    gain_db: float
    slope_db: float  # gain from the top to the bottom of the image
    haze_db: float  # clutter near the probe


def draw_chest(rng: np.random.Generator) -> Chest:
    quality = QUALITIES[rng.choice(3, p=[0.5, 0.35, 0.15])]
    washed_out = QUALITIES.index(quality) * 1.5  # a poor image: less contrast between blood and wall
    return Chest(
        quality=quality,
        seed=int(rng.integers(2**31)),
        level_db={
            BACKGROUND: -35.5 + rng.normal(0, 1.5),
            CAVITY: -42 + washed_out + rng.normal(0, 1.5),
            MYOCARDIUM: -27 - 0.5 * washed_out + rng.normal(0, 1.2),
            ATRIUM: -39 + washed_out + rng.normal(0, 1.5),
        },
        gain_db=rng.normal(0, 3.0),
        slope_db=rng.normal(1.0, 3.0),
        haze_db=rng.uniform(-40, -32),
    )


def simulate(heart: LeftHeart, raster: Raster, view: str, chest: Chest, rng: np.random.Generator, probe=None):
    """(image, labels), both uint8 [rows, columns]: the image is 0 exactly outside the cone."""
    probe = probe or Probe()
    cone = raster.cone
    labels = label_map(heart, raster)
    tissue_db = _tissue_db(heart, raster, view, chest, labels)
    x, z = polar_grid(probe, cone.depth_mm, cone.half_angle)
    depth_mm, lateral_mm = raster.spacing_mm
    column = ((x + cone.half_width_mm) / lateral_mm - 0.5).astype(np.float32)
    row = (z / depth_mm - 0.5).astype(np.float32)
    polar_db = cv2.remap(tissue_db, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    polar_db += _mirror_db(polar_db, cone.depth_mm / (probe.samples - 1))
    polar_db += _chest_db(chest, polar_db.shape)
    power = 10 ** (polar_db / 10) + 10 ** (_clutter_db(chest, polar_db.shape) / 10)
    envelope = echo_envelope(probe, np.sqrt(power), cone.depth_mm, cone.half_angle, rng)
    grey = log_compress(envelope, probe.dynamic_range_db)
    grey = cv2.GaussianBlur(grey, (0, 0), sigmaX=0.7, sigmaY=0.7)  # the scanner's own smoothing
    return scan_convert(grey, cone.depth_mm, cone.half_angle, raster.shape), labels


def _tissue_db(heart: LeftHeart, raster: Raster, view: str, chest: Chest, labels: np.ndarray) -> np.ndarray:
    """Mean echo of each pixel, float32 [rows, columns]."""
    rng = np.random.default_rng(chest.seed)
    canvas = np.full(raster.shape, chest.level_db[BACKGROUND], np.float32)
    canvas += 7.0 * _smooth_noise(rng, raster.shape, 6)
    canvas += _far_reflectors_db(raster, rng)
    epicardium, atrium = heart.epicardium(), heart.atrium()
    if view == "4CH":
        _right_heart(canvas, heart, raster, chest, rng)
    half = len(epicardium) // 2
    wall = epicardium[half + rng.integers(4, 18) :]  # pericardium outside the free wall
    raster.stroke(
        canvas, wall + [rng.uniform(2, 5), 1], chest.level_db[MYOCARDIUM] + rng.uniform(3, 9), rng.uniform(4, 9)
    )
    raster.stroke(canvas, epicardium[:half] - [1, 0], chest.level_db[MYOCARDIUM] + rng.uniform(0, 4), 3)
    raster.stroke(canvas, atrium, chest.level_db[MYOCARDIUM] + rng.uniform(2, 7), rng.uniform(3, 6))
    canvas = cv2.GaussianBlur(canvas, (0, 0), 1.2 / raster.spacing_mm[0])
    muscle = chest.level_db[MYOCARDIUM] + 5.0 * _smooth_noise(rng, raster.shape, 10)
    muscle += 3.0 * _smooth_noise(rng, raster.shape, 45)
    beside = cv2.GaussianBlur((labels == MYOCARDIUM).astype(np.float32), (0, 0), 4.0 / raster.spacing_mm[0])
    canvas += beside * np.maximum(muscle - canvas, 0)  # the outer border of the wall is seldom sharp
    blood = 3.0 * _smooth_noise(rng, raster.shape, 9)
    canvas = np.where(labels == MYOCARDIUM, muscle, canvas)
    for label in (CAVITY, ATRIUM):
        canvas = np.where(labels == label, chest.level_db[label] + blood, canvas)
    canvas = np.ascontiguousarray(canvas, np.float32)
    _inner_structures(canvas, heart, raster, chest, rng)
    return cv2.GaussianBlur(canvas, (0, 0), 0.8 / raster.spacing_mm[0])


def _far_reflectors_db(raster: Raster, rng: np.random.Generator) -> np.ndarray:
    """Bright streaks across the beams at the sides and in the depth: pericardium, fat, lung. [rows, columns]"""
    cone = raster.cone
    canvas = np.zeros(raster.shape, np.float32)
    for _ in range(rng.integers(12, 30)):
        radius = cone.depth_mm * rng.beta(2.5, 1.2)
        angles = cone.half_angle * rng.uniform(-1, 1) + np.linspace(-0.5, 0.5, 8) * rng.uniform(0.05, 0.3)
        radii = radius + rng.uniform(-6, 6) * np.linspace(-0.5, 0.5, 8)
        streak = np.stack([radii * np.sin(angles), radii * np.cos(angles)], axis=1)
        raster.stroke(canvas, streak, rng.uniform(6, 20), rng.uniform(2, 8))
    fine, coarse = (cv2.GaussianBlur(canvas, (0, 0), width / raster.spacing_mm[0]) for width in (1.2, 4.0))
    return fine + 0.6 * coarse


def _right_heart(canvas, heart: LeftHeart, raster: Raster, chest: Chest, rng) -> None:
    """The right ventricle and atrium, dark, on the left of a four-chamber view."""
    epicardium = heart.epicardium()
    septum = epicardium[6 : len(epicardium) // 2 - 14]
    blood = chest.level_db[CAVITY] + rng.uniform(2, 6)
    reach = rng.uniform(20, 34)
    bulge = np.sin(np.linspace(0.25 * np.pi, np.pi, len(septum)))[:, None]
    raster.fill(canvas, np.concatenate([septum - [2.5, 0], (septum - [2.5, 0] - bulge * [reach, -3])[::-1]]), blood)
    ring = epicardium[0]
    t = np.linspace(0, 2 * np.pi, 40)
    size = rng.uniform(14, 20)
    centre = ring + [-size * 0.95, size * 1.15]
    raster.fill(canvas, centre + size * np.stack([np.cos(t), 1.1 * np.sin(t)], axis=1), blood)
    valve = np.linspace(ring, ring + [-reach, -3], 12)
    raster.stroke(canvas, valve, chest.level_db[MYOCARDIUM] + rng.uniform(0, 6), 2)


def _inner_structures(canvas, heart: LeftHeart, raster: Raster, chest: Chest, rng) -> None:
    """Mitral leaflets, the bright ring they hang on, and trabeculae along the endocardium."""
    cavity = heart.cavity()
    left, right = cavity[0], cavity[-1]
    down = (left + right) / 2 - heart.apex_mm
    down = down / np.linalg.norm(down)
    meeting = left + (right - left) * rng.uniform(0.4, 0.6) - down * rng.uniform(-2, 8)
    t = np.linspace(0, 1, 12)[:, None]
    bright = chest.level_db[MYOCARDIUM] + rng.uniform(3, 8)
    for end in (left, right):
        sag = np.sin(np.pi * t) * down * rng.uniform(1, 4)
        raster.stroke(canvas, end + (meeting - end) * t + sag, bright, rng.uniform(1.4, 2.4))
        blob = end + 3.0 * np.stack([np.cos(2 * np.pi * t[:, 0]), np.sin(2 * np.pi * t[:, 0])], axis=1)
        raster.fill(canvas, blob, bright + 2)
    for point in cavity[rng.integers(10, len(cavity) - 10, 14)]:
        inward = heart.apex_mm + down * heart.length_mm * 0.5 - point
        start = point + inward * rng.uniform(-0.12, 0.14)
        raster.stroke(canvas, np.stack([start, start + rng.normal(0, 1.8, 2)]), bright - rng.uniform(0, 8), 1.6)


def _mirror_db(polar_db: np.ndarray, step_mm: float) -> np.ndarray:
    """Interfaces square to the beam reflect like mirrors: more echo where the tissue changes along the beam."""
    change = np.abs(np.gradient(cv2.GaussianBlur(polar_db, (0, 0), 1.0), step_mm, axis=0))
    return np.clip(1.1 * change, 0, 8).astype(np.float32)


def _chest_db(chest: Chest, shape: tuple[int, int]) -> np.ndarray:
    """Gain over depth and angle: attenuation, chest wall, shadows of ribs and lung. float32 [samples, beams]"""
    rng = np.random.default_rng([chest.seed, 1])
    depth = np.linspace(0, 1, shape[0])[:, None]
    angle = np.linspace(-1, 1, shape[1])[None, :]
    gain = chest.gain_db + chest.slope_db * (depth - 0.5)
    layers = 7 * np.exp(-(((depth - rng.uniform(0.06, 0.1)) / 0.022) ** 2))
    tip = -14 * np.exp(-((depth / 0.03) ** 2))
    shadows = 3.0 * _smooth_noise(rng, (1, shape[1]), 6)
    for side in (-1, 1):
        strength = rng.choice([0, rng.uniform(2, 12)], p=[0.45, 0.55])
        shadows = shadows - strength / (1 + np.exp(-(side * angle - rng.uniform(0.55, 0.9)) / 0.08))
    far = 9 * np.exp(-(((depth - rng.uniform(0.93, 1.03)) / 0.07) ** 2)) * rng.uniform(0, 1)
    return (gain + layers + tip + shadows * np.clip(depth * 4, 0, 1) + far).astype(np.float32)


def _clutter_db(chest: Chest, shape: tuple[int, int]) -> np.ndarray:
    """Echo that lies over everything: reverberation near the probe, and electronic noise. [samples, 1]"""
    depth = np.linspace(0, 1, shape[0])[:, None]
    haze = chest.haze_db - 16 * np.clip((depth - 0.1) / 0.35, 0, 1)
    noise = -50 + 5 * depth + chest.gain_db
    return 10 * np.log10(10 ** (haze / 10) + 10 ** (noise / 10)) - 30 * np.exp(-((depth / 0.04) ** 2))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """A smooth random field with about `cells` bumps along each axis and standard deviation near 1, float32."""
    coarse = rng.standard_normal((min(cells, shape[0]), cells), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)

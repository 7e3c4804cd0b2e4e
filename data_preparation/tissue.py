"""The tissues of an apical frame: the mean echo of each pixel, in decibels against the brightest grey level.

What a drawing cannot show by outlines alone is here: the septum is bright, the lateral wall and the apex, whose fibres
run along the beam, hardly brighter than blood; the pericardium, the mitral ring and the leaflets are mirrors.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from anatomy import LeftHeart
from raster import ATRIUM, CAVITY, MYOCARDIUM, Raster, label_map

ANGLE = np.linspace(0, 2 * np.pi, 32)
CIRCLE = np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1)


@dataclass(frozen=True)
class Echo:
    """Mean echo of the tissues of a patient, in dB; walls and structures against blood."""

    blood: float
    atrium: float  # its blood, with the clutter there
    surroundings: float
    septum: float  # left wall
    lateral: float  # right wall at the endocardium
    lateral_rise: float  # from its endocardium to its epicardium
    apex: float
    apex_rise: float
    bright: float  # pericardium, mitral ring, valves


def draw_echo(rng: np.random.Generator, washed_out: float) -> Echo:
    """`washed_out`: 0 for a good image, more for less contrast between blood and wall."""
    blood = -41.5 + washed_out + rng.normal(0, 1.5)
    return Echo(
        blood=blood,
        atrium=blood + rng.normal(3.5, 3.0),
        surroundings=blood + rng.normal(5.5, 2.0),
        septum=rng.normal(19.0, 3.0) - washed_out,
        lateral=rng.normal(5.0, 1.5) - 0.5 * washed_out,
        lateral_rise=rng.uniform(4, 14),
        apex=rng.normal(4.5, 2.0) - 0.5 * washed_out,
        apex_rise=rng.uniform(0, 9),
        bright=rng.normal(25.0, 3.0) - washed_out,
    )


def tissue_db(heart: LeftHeart, raster: Raster, view: str, echo: Echo, seed: list[int]) -> np.ndarray:
    """Mean echo of each pixel, float32 [rows, columns]; the same `seed` gives the same chest around another phase."""
    rng = np.random.default_rng(seed)
    labels = label_map(heart, raster)
    canvas = np.full(raster.shape, echo.surroundings, np.float32) + 6.5 * smooth_noise(rng, raster.shape, 5)
    canvas += _far_reflectors_db(raster, rng)
    if view == "4CH":
        draw_right_heart(canvas, heart, raster, echo, rng)
    else:
        _bright_side(canvas, heart, raster, echo, rng)
    _pericardium(canvas, heart, raster, echo, rng)
    canvas = raster.blur(canvas, 1.2)
    muscle = _muscle_db(heart, raster, labels, echo, rng)
    beside = raster.blur((labels == MYOCARDIUM).astype(np.float32), 3.0)
    canvas += beside * np.maximum(muscle - canvas, 0)  # the outer border of the wall is seldom sharp
    canvas = np.where(labels == MYOCARDIUM, muscle, canvas)
    uneven = smooth_noise(rng, raster.shape, 9)
    for label, level, clutter_db, edge_mm in ((ATRIUM, echo.atrium, 6.0, 1.8), (CAVITY, echo.blood, 1.5, 0.8)):
        within = raster.blur((labels == label).astype(np.float32), edge_mm)
        canvas += within * (level + clutter_db * uneven - canvas)
    canvas = np.ascontiguousarray(canvas, np.float32)
    _inner_structures(canvas, heart, raster, echo, rng)
    canvas = raster.blur(canvas, 0.6)
    return canvas + 0.3 * np.clip(canvas - echo.blood, 0, 15) * smooth_noise(rng, raster.shape, 70)  # nothing is even


def _muscle_db(heart: LeftHeart, raster: Raster, labels: np.ndarray, echo: Echo, rng) -> np.ndarray:
    """Echo that the wall would have at each pixel: by side, by depth in the wall, with stretches that drop out."""
    s, offset = heart.coordinates(*raster.centres_mm)
    depth_mm = cv2.distanceTransform((labels != CAVITY).astype(np.uint8), cv2.DIST_L2, 5) * raster.spacing_mm[0]
    right = 1 / (1 + np.exp(-offset / 4.0))
    apex = np.clip(1.3 - s / 0.22, 0, 1)
    nodes = np.linspace(-0.2, 1.2, 9)
    stretches = [np.interp(s, nodes, rng.standard_normal(9)) for _ in range(2)]
    left_db = echo.septum + 3.5 * stretches[0]
    inward = np.clip(depth_mm / heart.wall_mm[1], 0, 1)
    right_db = echo.lateral + echo.lateral_rise * inward + 3.0 * stretches[1]
    apex_db = echo.apex + echo.apex_rise * inward
    sides = left_db + right * (right_db - left_db)
    texture = 3.5 * smooth_noise(rng, raster.shape, 12)
    return (echo.blood + sides + apex * (apex_db - sides) + texture).astype(np.float32)


def _far_reflectors_db(raster: Raster, rng: np.random.Generator) -> np.ndarray:
    """Bright streaks across the beams at the sides and in the depth: pericardium, fat, lung. [rows, columns]"""
    cone = raster.cone
    canvas = np.zeros(raster.shape, np.float32)
    for _ in range(rng.integers(12, 30)):
        radius = cone.depth_mm * rng.beta(2.5, 1.2)
        angles = cone.half_angle * rng.uniform(-1, 1) + np.linspace(-0.5, 0.5, 8) * rng.uniform(0.05, 0.3)
        radii = radius + rng.uniform(-6, 6) * np.linspace(-0.5, 0.5, 8)
        streak = np.stack([radii * np.sin(angles), radii * np.cos(angles)], axis=1)
        raster.stroke(canvas, streak, rng.uniform(6, 22), rng.uniform(1, 6))
    return raster.blur(canvas, 1.4) + 0.8 * raster.blur(canvas, 5.0)


def draw_right_heart(canvas: np.ndarray, heart: LeftHeart, raster: Raster, echo: Echo, rng) -> None:
    """Right ventricle with its wall, right atrium and tricuspid valve, on the left of a four-chamber view."""
    epicardium = heart.epicardium()
    ring = epicardium[0]
    septum = epicardium[4 : len(epicardium) // 2 - rng.integers(12, 22)] - [1.0, 0]
    reach = rng.uniform(22, 36)
    bulge = np.sin(np.linspace(0.25 * np.pi, np.pi, len(septum)))[:, None] * [reach, -3]
    free_wall = septum - bulge
    blood = echo.blood + rng.uniform(-1, 5)
    raster.fill(canvas, np.concatenate([septum, free_wall[::-1]]), blood)
    raster.stroke(canvas, free_wall - [2, 0], echo.blood + rng.uniform(6, 15), rng.uniform(3, 5))
    size = rng.uniform(13, 22, 2)
    atrium = ring + [-1.1, 1.1] * size + size * CIRCLE * (1 + 0.12 * np.sin(2 * ANGLE + rng.uniform(0, 6)))[:, None]
    raster.fill(canvas, atrium, blood)
    raster.stroke(canvas, atrium, echo.blood + rng.uniform(8, 16), rng.uniform(2, 4))
    valve = np.linspace(ring, ring + [-0.8 * reach, rng.uniform(-6, 2)], 12)
    raster.stroke(canvas, valve, echo.blood + echo.bright - rng.uniform(2, 8), 1.8)


def _bright_side(canvas: np.ndarray, heart: LeftHeart, raster: Raster, echo: Echo, rng) -> None:
    """Tissue beside the inferior wall of a two-chamber view: diaphragm and liver, brighter towards the base."""
    s, offset = heart.coordinates(*raster.centres_mm)
    near = np.exp(-np.clip(-offset - heart.half_width_mm, 0, None) / rng.uniform(15, 40)) * (offset < 0)
    canvas += rng.uniform(0, 9) * near * np.clip(0.4 + 0.8 * s, 0, 1.2)


def _pericardium(canvas: np.ndarray, heart: LeftHeart, raster: Raster, echo: Echo, rng) -> None:
    """Bright line outside the free wall, over some of its length, and the far wall of the atrium."""
    epicardium = heart.epicardium()
    half = len(epicardium) // 2
    start = half + rng.integers(4, 30)
    wall = epicardium[start : start + rng.integers(25, 60)] + [rng.uniform(0, 4), 0]
    raster.stroke(canvas, wall, echo.blood + echo.bright - rng.uniform(0, 10), rng.uniform(2, 7))
    atrium = heart.atrium()
    raster.stroke(canvas, atrium, echo.blood + rng.uniform(6, 15), rng.uniform(2, 6))
    third = len(atrium) // 3
    raster.stroke(canvas, atrium[third:-third] + [0, 2], echo.blood + echo.bright - rng.uniform(0, 12), 3)


def _inner_structures(canvas: np.ndarray, heart: LeftHeart, raster: Raster, echo: Echo, rng) -> None:
    """Mitral leaflets, the bright ring they hang on, papillary muscles, and trabeculae along the endocardium."""
    bright = echo.blood + echo.bright
    for leaflet in heart.mitral_leaflets():
        raster.stroke(canvas, leaflet, bright - rng.uniform(1, 9), rng.uniform(0.8, 1.6))
        blob = leaflet[0] + rng.normal(0, 1.5, 2) + rng.uniform(1.5, 3.5, 2) * CIRCLE
        raster.fill(canvas, blob, bright - rng.uniform(-1, 5))
    cavity = heart.cavity()
    centre = (cavity[0] + cavity[-1]) / 2 + 0.5 * (heart.apex_mm - (cavity[0] + cavity[-1]) / 2)
    for point in cavity[rng.integers(10, len(cavity) - 10, 16)]:
        start = point + (centre - point) * rng.uniform(-0.12, 0.2)
        end = start + rng.normal(0, 1.8, 2)
        raster.stroke(canvas, np.stack([start, end]), echo.blood + rng.uniform(4, 16), 1.4)
    for point in cavity[rng.choice([25, 30, -26, -31], rng.integers(0, 3), replace=False)]:
        start = point + (centre - point) * rng.uniform(0.1, 0.4)
        end = start + (centre - heart.apex_mm) * rng.uniform(0.15, 0.4)
        raster.stroke(canvas, np.stack([start, end]), echo.blood + rng.uniform(3, 10), rng.uniform(2, 5))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """A smooth random field with about `cells` bumps along each axis and standard deviation near 1, float32."""
    coarse = rng.standard_normal((min(cells, shape[0]), cells), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)

"""Drawn hearts: the left heart of one imaginary patient in the two apical views at end diastole and end systole.

Lengths in mm. A view has the axes (lateral x, depth z) with the tip of the cone, where the probe touches the chest, at
(0, 0). A second system follows the long axis of the ventricle: s, 0 at the ventricle's apex and 1 at the mitral plane,
and the offset from the axis.
Both sides of the cavity and of the wall are functions of s, so areas and volumes are exact.
"""

from dataclasses import dataclass, replace

import numpy as np

VIEWS = ("2CH", "4CH")
PHASES = ("ED", "ES")
DISCS = 20
CONTOUR_POINTS = 60

Contour = np.ndarray  # [points, 2] of (x, z) in mm


@dataclass(frozen=True)
class Cone:
    """The field of view: a circular sector with its tip at the probe."""

    depth_mm: float
    half_angle: float  # radians

    @property
    def half_width_mm(self) -> float:
        return self.depth_mm * np.sin(self.half_angle)


@dataclass(frozen=True)
class LeftHeart:
    """One view at one phase."""

    apex_mm: np.ndarray  # (x, z) of the inner end of the cavity
    tilt: float  # radians, of the long axis against the beam in the middle; positive: the base points right
    length_mm: float  # from apex to mitral plane
    half_width_mm: float  # of the cavity at its widest
    widest: float  # s of the widest place
    taper: float  # half width at the mitral plane over the largest
    bend_mm: float  # how far the axis curves sideways half way down
    waves: np.ndarray  # [2 sides, 3] amplitudes of the unevenness of the two sides, relative to the half width
    wall_mm: np.ndarray  # [2] thickness of the left and the right wall
    apex_wall_mm: float
    atrium_length_mm: float
    atrium_width_mm: float
    atrium_tilt: float  # radians, against the long axis

    def half_widths(self, s: np.ndarray) -> np.ndarray:
        """Distances of the left and the right side of the cavity from the axis at `s`, [2, len(s)] in mm."""
        below = np.sqrt(np.clip(1 - ((s - self.widest) / self.widest) ** 2, 0, None))
        above = np.sqrt(np.clip(1 - (1 - self.taper**2) * ((s - self.widest) / (1 - self.widest)) ** 2, 0, None))
        profile = np.where(s < self.widest, below, above)
        wave = np.stack([np.sin(np.pi * k * s) for k in (1, 2, 3)])
        return self.half_width_mm * profile * (1 + self.waves @ wave)

    def diameters(self, n: int = DISCS) -> np.ndarray:
        """Widths of the cavity in the middle of `n` equal slices of the axis, in mm."""
        return self.half_widths((np.arange(n) + 0.5) / n).sum(axis=0)

    def cavity(self) -> Contour:
        s = np.sin(np.linspace(0, np.pi / 2, CONTOUR_POINTS)) ** 2
        left, right = self.half_widths(s)
        return self._place(np.concatenate([s[::-1], s[1:]]), np.concatenate([-left[::-1], right[1:]]))

    def epicardium(self) -> Contour:
        """Outline of cavity and wall together, open (a straight line) at the mitral plane."""
        s = np.sin(np.linspace(0, np.pi / 2, CONTOUR_POINTS)) ** 2
        widths = self.half_widths(s)
        rim = 1 - 0.12 * s**6  # the wall thins towards the mitral ring
        inner = np.stack([np.concatenate([-widths[0][::-1], widths[1][1:]]), np.concatenate([s[::-1], s[1:]])])
        inner[1] *= self.length_mm
        thickness = np.concatenate([(self._wall(0, s) * rim)[::-1], (self._wall(1, s) * rim)[1:]])
        along = np.gradient(inner, axis=1)
        along[:, [0, -1]] = [[0, 0], [-1, 1]]  # the wall ends square to the mitral plane
        normal = np.stack([along[1], -along[0]]) / np.linalg.norm(along, axis=0)
        offset, height = inner + thickness * normal
        return self._place(np.minimum(height / self.length_mm, 1.0), offset)

    def wall(self) -> Contour:
        """The horseshoe between cavity and epicardium."""
        return np.concatenate([self.epicardium(), self.cavity()[::-1]])

    def atrium(self) -> Contour:
        """Below the mitral plane: an egg that begins with nearly the width of the mitral ring."""
        u = np.sin(np.linspace(0, np.pi / 2, CONTOUR_POINTS))  # 0 at the mitral plane, 1 at the bottom
        ring = 0.88 * self.half_widths(np.array([1.0]))
        belly = np.sin(np.pi / 2 * np.clip(u / 0.55, 0, 1))
        left, right = (ring + (self.atrium_width_mm / 2 - ring) * belly) * np.sqrt(1 - u**3.5)
        offset = np.concatenate([-left, right[::-1]])
        u = np.concatenate([u, u[::-1]])
        offset += np.tan(self.atrium_tilt) * self.atrium_length_mm * u
        return self._place(1 + self.atrium_length_mm / self.length_mm * u, offset)

    def _wall(self, side: int, s: np.ndarray) -> np.ndarray:
        """Thickness in mm, from the apex's to the side's own."""
        return self.apex_wall_mm + (self.wall_mm[side] - self.apex_wall_mm) * np.clip(s / 0.35, 0, 1)

    def _place(self, s: np.ndarray, offset: np.ndarray) -> Contour:
        """(s, offset in mm) -> (x, z) in mm."""
        offset = offset + self.bend_mm * np.sin(np.pi * np.clip(s, 0, 1.5))
        along = s * self.length_mm
        x = self.apex_mm[0] + np.cos(self.tilt) * offset + np.sin(self.tilt) * along
        z = self.apex_mm[1] - np.sin(self.tilt) * offset + np.cos(self.tilt) * along
        return np.stack([x, z], axis=1)


def biplane_volume_ml(two_chamber: LeftHeart, four_chamber: LeftHeart) -> float:
    """Volume of the cavity by Simpson's discs on both views (the longer axis counts), in ml."""
    length = max(two_chamber.length_mm, four_chamber.length_mm)
    return float(np.pi / 4 * np.sum(two_chamber.diameters() * four_chamber.diameters()) * length / DISCS / 1000)


@dataclass(frozen=True)
class Patient:
    """What is drawn once: geometry of each (view, phase), and the ejection fraction that follows from it."""

    hearts: dict[tuple[str, str], LeftHeart]
    cones: dict[str, Cone]
    edv_ml: float
    esv_ml: float
    ef: float  # percent


def draw_patient(rng: np.random.Generator) -> Patient:
    """An imaginary patient; sizes and angles vary about as they do in CAMUS."""
    ejection = float(np.clip(rng.normal(0.52, 0.12), 0.2, 0.75))
    size = float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.25))
    dilation = float(np.clip(rng.normal(1.0, 0.16), 0.72, 1.4)) + 0.25 * max(0.0, 0.45 - ejection)
    wall = float(np.clip(rng.normal(12.0, 2.0), 8.0, 17.0))
    depth = float(np.clip(rng.normal(152, 12) * (0.5 + 0.5 * size), 120, 200))
    hearts, cones = {}, {}
    for view in VIEWS:
        cones[view] = Cone(depth * rng.uniform(0.97, 1.03), np.radians(rng.choice([37.5, 45.0], p=[0.75, 0.25])))
        diastole = _draw_heart(rng, cones[view], size, dilation, wall)
        hearts[view, "ED"] = diastole
        hearts[view, "ES"] = _contract(rng, diastole, ejection)
    edv, esv = (biplane_volume_ml(*(hearts[view, phase] for view in VIEWS)) for phase in PHASES)
    return Patient(hearts, cones, edv, esv, 100 * (edv - esv) / edv)


def _draw_heart(rng: np.random.Generator, cone: Cone, size: float, dilation: float, wall: float) -> LeftHeart:
    """One view at end diastole."""
    length = 83 * size * rng.uniform(0.96, 1.04)
    tilt = np.radians(np.clip(rng.normal(5, 5), -7, 15))
    return LeftHeart(
        apex_mm=np.array([rng.normal(0, 4), max(22.0, 0.18 * cone.depth_mm * rng.uniform(0.85, 1.15))]),
        tilt=tilt,
        length_mm=length,
        half_width_mm=23.5 * size * dilation * rng.uniform(0.93, 1.07),
        widest=rng.uniform(0.52, 0.72),
        taper=rng.uniform(0.62, 0.86),
        bend_mm=rng.normal(0, 2.0),
        waves=rng.normal(0, 1, (2, 3)) * [0.07, 0.06, 0.035],
        wall_mm=wall * rng.uniform(0.9, 1.12, 2),
        apex_wall_mm=wall * rng.uniform(0.75, 1.0),
        atrium_length_mm=rng.uniform(32, 48) * size,
        atrium_width_mm=rng.uniform(34, 46) * size,
        atrium_tilt=np.radians(rng.normal(0, 8)),
    )


def _contract(rng: np.random.Generator, heart: LeftHeart, ejection: float) -> LeftHeart:
    """The same view at end systole: shorter and narrower by the ejection fraction, thicker wall, fuller atrium."""
    shorter = (1 - ejection) ** 0.22
    narrower = np.sqrt((1 - ejection) / shorter) * rng.uniform(0.98, 1.02)
    gain = 0.55 * (1 - narrower) * heart.half_width_mm  # most of what the cavity loses in width the wall gains
    return replace(
        heart,
        apex_mm=heart.apex_mm + [rng.normal(0, 0.7), rng.uniform(1, 4)],
        length_mm=heart.length_mm * shorter,
        half_width_mm=heart.half_width_mm * narrower,
        waves=heart.waves + rng.normal(0, 0.015, (2, 3)),
        wall_mm=np.minimum(heart.wall_mm + gain, heart.wall_mm * 1.6),
        apex_wall_mm=heart.apex_wall_mm + 0.4 * gain,
        atrium_length_mm=heart.atrium_length_mm * rng.uniform(1.05, 1.2),
        atrium_width_mm=heart.atrium_width_mm * rng.uniform(1.02, 1.12),
    )

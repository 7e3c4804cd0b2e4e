"""Drawn hearts: the left heart of one imaginary patient in the two apical views at end diastole and end systole.

What is drawn is what an annotator would mark; what shows in the image lies a little beside it (LeftHeart.as_seen).

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
HALF_ANGLES = {
    37.3: 0.84,
    29.8: 0.02,
    32.3: 0.03,
    34.8: 0.03,
    39.8: 0.04,
    44.8: 0.04,
}  # degrees of CAMUS' cones, and how often
VIEW_GEOMETRY = {  # means: tilt and its deviation in degrees, left, right and apical wall in mm, at end diastole
    "2CH": (15.3, 8.5, 16.4, 14.8, 13.0),
    "4CH": (11.7, 7.0, 12.4, 12.3, 11.2),
}

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
    wall_tips_mm: np.ndarray  # [2] how far the ends of the left and the right wall reach below the mitral plane
    leaflets: float  # radians, of the mitral leaflets against the mitral plane, towards the apex
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
        """Outer border of the wall, from the left end of the mitral plane over the apex to the right end."""
        s = np.sin(np.linspace(0, np.pi / 2, CONTOUR_POINTS)) ** 2
        widths = self.half_widths(s)
        inner = np.stack([np.concatenate([-widths[0][::-1], widths[1][1:]]), np.concatenate([s[::-1], s[1:]])])
        inner[1] *= self.length_mm
        thickness = np.concatenate([self._wall(0, s)[::-1], self._wall(1, s)[1:]])
        along = np.gradient(inner, axis=1)
        along[:, [0, -1]] = [[0, 0], [-1, 1]]  # square to the mitral plane
        normal = np.stack([along[1], -along[0]]) / np.linalg.norm(along, axis=0)
        offset, height = inner + thickness * normal
        return self._place(np.minimum(height / self.length_mm, 1.0), offset)

    def wall(self) -> Contour:
        """The horseshoe between cavity and epicardium; each end is a point beside the mitral ring."""
        ends = np.array([-1, 1]) * (self.half_widths(np.array([1.0]))[:, 0] + 0.6 * self.wall_mm)
        left, right = self._place(1 + self.wall_tips_mm / self.length_mm, ends)
        return np.concatenate([[left], self.epicardium(), [right], self.cavity()[::-1]])

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

    def mitral_leaflets(self) -> tuple[Contour, Contour]:
        """The left and the right leaflet from the ring to the tip; closed, they meet between apex and plane."""
        cavity = self.cavity()
        ring = cavity[-1] - cavity[0]
        across, up = ring / np.linalg.norm(ring), -self._axis
        leaflets = []
        for start, inward, share in ((cavity[0], across, 0.56), (cavity[-1], -across, 0.44)):
            tip = np.linalg.norm(ring) * share * (np.cos(self.leaflets) * inward + np.sin(self.leaflets) * up)
            t = np.linspace(0, 1, 12)[:, None]
            leaflets.append(start + t * tip + np.sin(np.pi * t) * 1.5 * inward)
        return leaflets[0], leaflets[1]

    def coordinates(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, offset from the straight long axis in mm) of the points (x, z), the shape of `x`."""
        sine, cosine = self._axis
        x, z = x - self.apex_mm[0], z - self.apex_mm[1]
        return (sine * x + cosine * z) / self.length_mm, cosine * x - sine * z

    def as_seen(self, rng: np.random.Generator) -> "LeftHeart":
        """The heart that shows where this one was annotated: its borders run some mm beside, and the wall within."""
        return replace(
            self,
            apex_mm=self.apex_mm + [rng.normal(0, 0.8), rng.normal(-1.0, 1.5)],
            length_mm=self.length_mm + rng.normal(1.0, 1.5),
            half_width_mm=self.half_width_mm + rng.normal(1.0, 1.2),
            waves=self.waves + rng.normal(0, 1, (2, 3)) * 0.08,
            wall_mm=self.wall_mm * rng.uniform(0.75, 1.0, 2),
            apex_wall_mm=self.apex_wall_mm * rng.uniform(0.75, 1.1),
            atrium_length_mm=self.atrium_length_mm * rng.uniform(0.95, 1.1),
            atrium_width_mm=self.atrium_width_mm * rng.uniform(0.95, 1.1),
        )

    @property
    def _axis(self) -> np.ndarray:
        """Unit vector (x, z) from the apex to the mitral plane."""
        return np.array([np.sin(self.tilt), np.cos(self.tilt)])

    def _wall(self, side: int, s: np.ndarray) -> np.ndarray:
        """Thickness in mm, from the apex's to the side's own."""
        return self.apex_wall_mm + (self.wall_mm[side] - self.apex_wall_mm) * np.clip(s / 0.35, 0, 1)

    def _place(self, s: np.ndarray, offset: np.ndarray) -> Contour:
        """(s, offset in mm) -> (x, z) in mm."""
        offset = offset + self.bend_mm * np.sin(np.pi * np.clip(s, 0, 1.5))
        sine, cosine = self._axis
        x = self.apex_mm[0] + cosine * offset + sine * s * self.length_mm
        z = self.apex_mm[1] - sine * offset + cosine * s * self.length_mm
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
    """An imaginary patient; sizes and angles vary about as in CAMUS (benchmarks/results/camus_frames.csv)."""
    ejection = float(np.clip(rng.normal(0.545, 0.13), 0.18, 0.78))
    size = float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.3))
    dilation = float(np.clip(rng.normal(1.0, 0.11), 0.75, 1.3)) + 0.3 * max(0.0, 0.45 - ejection)
    wall = float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.4))
    atrium = float(np.clip(rng.normal(1.08, 0.24), 0.5, 1.7))
    depth = float(np.clip(rng.normal(152, 20) * (0.2 + 0.8 * size), 105, 205))
    half_angle = np.radians(rng.choice(list(HALF_ANGLES), p=list(HALF_ANGLES.values())))
    apex_mm = np.array([-5.0, 32.0 + 0.12 * (depth - 152)]) + rng.normal(0, 1, 2) * [3.5, 4.5]
    hearts, cones = {}, {}
    for view in VIEWS:
        diastole = _draw_heart(rng, view, apex_mm, size, dilation, wall, atrium)
        base_mm = diastole.apex_mm[1] + diastole.length_mm
        cones[view] = Cone(max(depth * rng.choice([0.94, 1.0, 1.06], p=[0.1, 0.8, 0.1]), 1.12 * base_mm), half_angle)
        hearts[view, "ED"] = diastole
        hearts[view, "ES"] = _contract(rng, diastole, ejection)
    edv, esv = (biplane_volume_ml(*(hearts[view, phase] for view in VIEWS)) for phase in PHASES)
    return Patient(hearts, cones, edv, esv, 100 * (edv - esv) / edv)


def _draw_heart(rng, view: str, apex_mm: np.ndarray, size: float, dilation: float, wall: float, atrium: float):
    """One view at end diastole, with the mitral valve closing: shut already, or not yet."""
    tilt, tilt_spread, left_wall, right_wall, apex_wall = VIEW_GEOMETRY[view]
    return LeftHeart(
        apex_mm=np.maximum(apex_mm + rng.normal(0, 1, 2) * [3.5, 2.5], [-25.0, 21.0]),
        tilt=np.radians(np.clip(rng.normal(tilt, tilt_spread), -6, 32)),
        length_mm=77 * size * rng.normal(1, 0.045),
        half_width_mm=22.2 * size * dilation * np.clip(rng.normal(1, 0.08), 0.8, 1.2),
        widest=rng.uniform(0.6, 0.8),
        taper=rng.uniform(0.66, 0.9),
        bend_mm=rng.normal(0, 2.0),
        waves=rng.normal(0, 1, (2, 3)) * [0.07, 0.06, 0.035],
        wall_mm=wall * np.array([left_wall, right_wall]) * np.clip(rng.normal(1, 0.11, 2), 0.75, 1.3),
        apex_wall_mm=wall * apex_wall * rng.uniform(0.8, 1.2),
        wall_tips_mm=np.maximum(rng.normal([4, 5.5], [2.5, 3]), 0.5),
        leaflets=np.radians(rng.uniform(30, 75) if rng.random() < 0.5 else rng.uniform(5, 25)),
        atrium_length_mm=38 * size * atrium * rng.uniform(0.75, 1.25),
        atrium_width_mm=40 * size * np.sqrt(atrium) * rng.uniform(0.8, 1.2),
        atrium_tilt=np.radians(np.clip(rng.normal(-7, 10), -28, 18)),
    )


def _contract(rng: np.random.Generator, heart: LeftHeart, ejection: float) -> LeftHeart:
    """The same view at end systole: shorter and narrower by the ejection fraction, thicker wall, fuller atrium,
    mitral valve shut."""
    shorter = (1 - ejection) ** 0.22
    narrower = np.sqrt((1 - ejection) / shorter) * rng.uniform(0.96, 1.04)
    gain = 0.35 * (1 - narrower) * heart.half_width_mm  # a part of what the cavity loses in width the wall gains
    return replace(
        heart,
        apex_mm=heart.apex_mm + [rng.normal(0.5, 0.7), rng.uniform(1, 4)],
        tilt=heart.tilt - np.radians(rng.normal(3, 2)),
        length_mm=heart.length_mm * shorter,
        half_width_mm=heart.half_width_mm * narrower,
        waves=heart.waves + rng.normal(0, 0.015, (2, 3)),
        wall_mm=heart.wall_mm + gain,
        apex_wall_mm=heart.apex_wall_mm + 1.4 * gain,
        leaflets=np.radians(rng.uniform(2, 20)),
        atrium_length_mm=heart.atrium_length_mm * rng.uniform(1.1, 1.3),
        atrium_width_mm=heart.atrium_width_mm * rng.uniform(1.03, 1.15),
    )

"""What can be measured on an apical frame with its label map, the same for real frames and phantoms.

Frames are uint8 [rows = depth, columns = lateral] with the tip of the cone at the top, label maps CAMUS' (0 background,
1 cavity, 2 myocardium, 3 left atrium), `spacing_mm` the (depth, lateral) size of a pixel. Points are (x, z) in mm.

Contrast of the border: along each outward normal of the endocardium, where it touches the wall, the mean grey level
0.5 to 4 mm outside the annotated border less that 0.5 to 4 mm inside it. The border is faint where this is below 10.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

CAVITY, MYOCARDIUM, ATRIUM = 1, 2, 3
DISCS = 20
BAND_MM = np.linspace(0.5, 4.0, 8)  # distances from the border over which grey levels are averaged
FAINT = 10.0  # grey levels of contrast below which a stretch of border can hardly be seen
EDGE_SEARCH_MM = np.arange(-6.0, 6.1, 0.5)
EDGE_STRETCH = 12  # points of the border whose profiles are averaged before an edge is looked for
BORDER_POINTS = 120
SIZE = 224
NOTHING = (np.nan, np.nan)


@dataclass(frozen=True)
class MeasuredFrame:
    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float]

    def points(self, mask: np.ndarray) -> np.ndarray:
        """Centres of the pixels in `mask`, [n, 2]."""
        rows, columns = np.nonzero(mask)
        return np.stack([(columns + 0.5) * self.spacing_mm[1], (rows + 0.5) * self.spacing_mm[0]], axis=1)

    def sample(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """`field` at `points` [..., 2], linear between pixels, the nearest one outside."""
        at = np.stack([points[..., 1] / self.spacing_mm[0] - 0.5, points[..., 0] / self.spacing_mm[1] - 0.5])
        return map_coordinates(field.astype(np.float32), at, order=1, mode="nearest")

    @cached_property
    def inside(self) -> np.ndarray:
        """The cone: what is not 0, holes filled along the rows."""
        seen = self.image > 0
        return (np.cumsum(seen, axis=1) > 0) & (np.cumsum(seen[:, ::-1], axis=1)[:, ::-1] > 0)

    @cached_property
    def base_and_apex(self) -> tuple[np.ndarray, np.ndarray]:
        """Middle of the mitral plane, and the point of the cavity farthest from it."""
        other = (self.labels != CAVITY) & (self.labels != MYOCARDIUM)
        cavity = self.labels == CAVITY
        base = self.points(cavity & cv2.dilate(other.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool))
        across = base - base.mean(axis=0)
        ends = base[[np.argmin(across[:, 0]), np.argmax(across[:, 0])]]
        middle = ends.mean(axis=0)
        points = self.points(cavity)
        return middle, points[np.argmax(np.linalg.norm(points - middle, axis=1))]

    @cached_property
    def length_mm(self) -> float:
        base, apex = self.base_and_apex
        return float(np.linalg.norm(base - apex))

    def diameters_mm(self) -> np.ndarray:
        """Widths of the cavity in `DISCS` equal slices of the long axis, from the apex."""
        base, apex = self.base_and_apex
        s = (self.points(self.labels == CAVITY) - apex) @ (base - apex) / self.length_mm**2
        counts = np.bincount(np.clip((s * DISCS).astype(int), 0, DISCS - 1), minlength=DISCS)
        return counts * np.prod(self.spacing_mm) / (self.length_mm / DISCS)

    @cached_property
    def border(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The endocardium from the left of the mitral plane over the apex to its right: points and outward normals
        [n, 2], equally spaced, and s [n], 0 at the apex and 1 at the mitral plane."""
        cavity = self.labels == CAVITY
        outward = distance_transform_edt(~cavity, self.spacing_mm) - distance_transform_edt(cavity, self.spacing_mm)
        outward = gaussian_filter(outward, [1.5 / mm for mm in self.spacing_mm])
        contours, _ = cv2.findContours(cavity.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        contour = max(contours, key=len)[:, 0]
        points = (contour + 0.5) * self.spacing_mm[::-1]
        points = np.roll(points, -np.argmax((points - points.mean(0)) @ np.subtract(*self.base_and_apex)), axis=0)
        if np.sum(points[:-1, 0] * points[1:, 1] - points[1:, 0] * points[:-1, 1]) < 0:
            points = points[::-1]  # with z downwards: from the base to the left, up, and down on the right
        way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        even = np.linspace(0, way[-1], BORDER_POINTS)
        points = np.stack([np.interp(even, way, points[:, axis]) for axis in (0, 1)], axis=1)
        slope_z, slope_x = np.gradient(outward, *self.spacing_mm)
        normals = np.stack([self.sample(slope_x, points), self.sample(slope_z, points)], axis=1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
        base, apex = self.base_and_apex
        s = (points - apex) @ (base - apex) / self.length_mm**2
        wall = self.sample(self.labels == MYOCARDIUM, points + 2.0 * normals) > 0.5
        seen = self.sample(self.inside, points + BAND_MM[-1] * normals) > 0.99
        keep = (s < 0.92) & wall & seen
        return points[keep], normals[keep], s[keep]

    def profiles(self, offsets_mm: np.ndarray) -> np.ndarray:
        """Grey levels along the normals of the border, [n, offsets]."""
        points, normals, _ = self.border
        return self.sample(self.image, points[:, None] + offsets_mm[None, :, None] * normals[:, None])

    def contrast(self) -> np.ndarray:
        """Mean grey level in the band outside the border less that inside it, [n]."""
        return self.profiles(BAND_MM).mean(axis=1) - self.profiles(-BAND_MM).mean(axis=1)

    def edge_offset_mm(self) -> np.ndarray:
        """How far outside the annotated border the strongest edge lies, for each stretch of it that shows one."""
        reach = np.arange(EDGE_SEARCH_MM[0] - BAND_MM[-1], EDGE_SEARCH_MM[-1] + BAND_MM[-1] + 0.1, 0.5)
        profiles = self.profiles(reach)
        whole = len(profiles) // EDGE_STRETCH * EDGE_STRETCH
        profiles = profiles[:whole].reshape(-1, EDGE_STRETCH, len(reach)).mean(axis=1)
        summed = np.cumsum(np.pad(profiles, ((0, 0), (1, 0))), axis=1)
        band = len(BAND_MM)
        means = (summed[:, band:] - summed[:, :-band]) / band
        steps = (means[:, band:] - means[:, :-band])[:, : len(EDGE_SEARCH_MM)]
        return EDGE_SEARCH_MM[steps.argmax(axis=1)][steps.max(axis=1) > FAINT]

    def cone_mm(self) -> tuple[float, int]:
        """(depth in mm, opening angle in whole degrees), by lines through the sides from 20 to 60 % of the depth."""
        rows = np.arange(round(0.2 * len(self.inside)), round(0.6 * len(self.inside)))
        left = self.inside[rows].argmax(axis=1)
        right = self.inside.shape[1] - 1 - self.inside[rows, ::-1].argmax(axis=1)
        slopes = [np.polyfit(rows, side, 1)[0] * self.spacing_mm[1] / self.spacing_mm[0] for side in (left, right)]
        return len(self.inside) * self.spacing_mm[0], round(
            float(np.degrees(np.arctan(slopes[1]) - np.arctan(slopes[0])))
        )

    def grain_mm(self) -> tuple[float, float]:
        """(depth, lateral) distance at which the autocorrelation of the cavity's speckle falls to one half."""
        fine = self.image.astype(np.float32)
        within = distance_transform_edt(self.labels == CAVITY, self.spacing_mm) > 4
        fine -= gaussian_filter(fine, [3.0 / mm for mm in self.spacing_mm])
        lengths = []
        for axis in (0, 1):
            values = []
            for lag in range(8):
                first, second = (np.roll(part, -lag, axis) if lag else part for part in (fine, within))
                both = within & second
                values.append(np.mean(fine[both] * first[both]) if both.any() else 0.0)
            values = np.array(values) / max(values[0], 1e-6)
            below = int(np.argmax(values < 0.5))
            part = (values[below - 1] - 0.5) / (values[below - 1] - values[below]) if below else np.nan
            lengths.append((below - 1 + part) * self.spacing_mm[axis])
        return lengths[0], lengths[1]


def at_common_size(image: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float]) -> MeasuredFrame:
    """The frame with SIZE x SIZE pixels, so that grain and contrast do not depend on the size of the files."""
    spacing = tuple(mm * count / SIZE for mm, count in zip(spacing_mm, image.shape, strict=True))
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return MeasuredFrame(image, cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT), spacing)


def measure_frame(frame: MeasuredFrame) -> dict[str, float]:
    """Every number of one frame, by name; the unit is the last word of the name (grey: levels of 0 to 255).

    What a frame does not show (an atrium, a stretch of border) is NaN.
    """
    image, labels, spacing_mm = frame.image, frame.labels, frame.spacing_mm
    area = np.prod(spacing_mm) / 100
    base, apex = frame.base_and_apex
    points, _, s = frame.border
    contrast, offsets = frame.contrast(), frame.edge_offset_mm()
    left = np.arange(len(s)) < s.argmin()
    sides = {"left": left & (s > 0.35), "right": ~left & (s > 0.35), "apex": s <= 0.2}
    depth, opening = frame.cone_mm()
    thickness = frame.sample(distance_transform_edt((labels == CAVITY) | (labels == MYOCARDIUM), spacing_mm), points)
    found = {
        "cone_depth_mm": depth,
        "cone_opening_deg": opening,
        "lv_length_mm": frame.length_mm,
        "lv_width_mm": frame.diameters_mm().max(),
        "lv_tilt_deg": np.degrees(np.arctan2(base[0] - apex[0], base[1] - apex[1])),
        "apex_depth_mm": apex[1],
        "base_depth_mm": base[1],
        "cavity_area_cm2": np.sum(labels == CAVITY) * area,
        "atrium_area_cm2": np.sum(labels == ATRIUM) * area,
        "wall_left_mm": _median(thickness[sides["left"] & (s < 0.8)]),
        "wall_right_mm": _median(thickness[sides["right"] & (s < 0.8)]),
        "wall_apex_mm": _median(thickness[sides["apex"]]),
        "wall_outside_cone_pct": 100 * np.mean(~frame.inside[labels == MYOCARDIUM]),
        "contrast_grey": _median(contrast),
        **{f"contrast_{name}_grey": _median(contrast[side]) for name, side in sides.items()},
        "faint_border_pct": 100 * np.mean(contrast < FAINT),
        "edge_offset_mm": _median(offsets),
        "edge_spread_mm": offsets.std() if len(offsets) > 2 else np.nan,
    }
    for name, value in (("background", 0), ("cavity", CAVITY), ("myocardium", MYOCARDIUM), ("atrium", ATRIUM)):
        pixels = image[(labels == value) & frame.inside]
        found[f"{name}_mean_grey"], found[f"{name}_sd_grey"] = (pixels.mean(), pixels.std()) if pixels.size else NOTHING
    along = (frame.points(labels == CAVITY) - apex) @ (base - apex) / frame.length_mm**2
    cavity = image[labels == CAVITY].astype(np.float32)
    found["haze_grey"] = cavity[along < 1 / 3].mean() - cavity[along > 2 / 3].mean()
    found["grain_depth_mm"], found["grain_lateral_mm"] = frame.grain_mm()
    return {name: float(value) for name, value in found.items()}


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan


def measure_patient(frames: dict[tuple[str, str], MeasuredFrame]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The numbers of each frame, and of the patient: volumes by Simpson's discs on the label maps of both views (the
    longer axis counts). `frames` are known by (view, phase)."""
    volumes = []
    for phase in ("ED", "ES"):
        two, four = frames["2CH", phase], frames["4CH", phase]
        discs = two.diameters_mm() * four.diameters_mm() * max(two.length_mm, four.length_mm) / DISCS
        volumes.append(float(np.pi / 4 * discs.sum() / 1000))
    edv, esv = volumes
    patient = {"edv_ml": edv, "esv_ml": esv, "ef_pct": 100 * (1 - esv / edv)}
    return [measure_frame(frame) for frame in frames.values()], patient


def collect(patients: list[tuple[list[dict[str, float]], dict[str, float]]]) -> dict[str, np.ndarray]:
    """Everything measured, by name; what was not there is left out."""
    frames = [row for rows, _ in patients for row in rows]
    columns = {name: [row[name] for row in frames] for name in frames[0]}
    columns |= {name: [row[name] for _, row in patients] for name in patients[0][1]}
    return {name: np.array(values)[~np.isnan(values)] for name, values in columns.items()}


def largest_gap(values: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of `values` from a distribution known by its `quantiles` at `levels` (0 to 1).

    At each quantile, how far the share of `values` below it lies from its level; a level between the shares below and
    up to it (many equal values) is no distance.
    """
    up_to = np.mean(values[:, None] <= quantiles, axis=0)
    below = np.mean(values[:, None] < quantiles, axis=0)
    return float(np.maximum(below - levels, levels - up_to).clip(0).max())

"""Phantoms against the distributions of real frames (camus_frames.csv in benchmarks/results), and the measures."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatomy import PHASES, VIEWS, Cone, LeftHeart, biplane_volume_ml, draw_patient
from make_phantom_camus import draw_frames
from raster import CAVITY, MYOCARDIUM, Raster, label_map
from ultrasound import cone_coordinates

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from frame_statistics import MeasuredFrame, at_common_size, collect, largest_gap, measure_frame, measure_patient
from phantom_realism import read_table

PATIENTS = 30
GAP = 0.25  # 120 frames of 30 patients: chance alone gives up to 0.15
LEVELS, REAL = read_table()

HEART = LeftHeart(
    apex_mm=np.array([0.0, 30.0]),
    tilt=0.1,
    length_mm=80.0,
    half_width_mm=22.0,
    widest=0.7,
    taper=0.8,
    bend_mm=0.0,
    waves=np.zeros((2, 3)),
    wall_mm=np.array([10.0, 13.0]),
    apex_wall_mm=11.0,
    wall_tips_mm=np.array([3.0, 6.0]),
    leaflets=0.0,
    atrium_length_mm=30.0,
    atrium_width_mm=38.0,
    atrium_tilt=0.0,
)


def flat_frame(seen: LeftHeart, annotated: LeftHeart = HEART, lateral: int = 60) -> MeasuredFrame:
    """Grey levels without noise: blood 60, left wall 100, right wall `lateral`, all else 80."""
    raster = Raster(Cone(150.0, np.radians(45)), 300)
    inside = np.abs(cone_coordinates(150.0, np.radians(45), raster.shape)[1]) <= np.radians(45)
    shown = label_map(seen, raster)
    _, offset = seen.coordinates(*raster.centres_mm)
    image = np.where(shown == CAVITY, 60, 80)
    image = np.where(shown == MYOCARDIUM, np.where(offset < 0, 100, lateral), image) * inside
    return MeasuredFrame(image.astype(np.uint8), label_map(annotated, raster), raster.spacing_mm)


def test_measured_geometry_is_the_drawn_one():
    found = measure_frame(flat_frame(HEART))
    assert found["cone_depth_mm"] == pytest.approx(150)
    assert found["cone_opening_deg"] == 90
    assert found["lv_length_mm"] == pytest.approx(80, abs=1)
    assert found["lv_width_mm"] == pytest.approx(44, abs=0.6)
    assert found["lv_tilt_deg"] == pytest.approx(np.degrees(0.1), abs=1)
    assert found["apex_depth_mm"] == pytest.approx(30, abs=0.6)
    assert found["wall_left_mm"] == pytest.approx(10, abs=0.7)
    assert found["wall_right_mm"] == pytest.approx(13, abs=0.7)
    assert found["cavity_area_cm2"] == pytest.approx(HEART.diameters(400).mean() * 80 / 100, rel=0.01)


def test_measured_contrast_is_the_drawn_one():
    found = measure_frame(flat_frame(HEART))
    assert found["contrast_left_grey"] == pytest.approx(40, abs=4)
    assert found["contrast_right_grey"] == pytest.approx(0, abs=1)
    bright = measure_frame(flat_frame(HEART, lateral=90))
    assert bright["contrast_right_grey"] == pytest.approx(30, abs=3)
    assert bright["faint_border_pct"] < 5 < 35 < found["faint_border_pct"] < 65
    assert found["cavity_mean_grey"] == 60 and found["cavity_sd_grey"] == 0 and found["haze_grey"] == 0


@pytest.mark.parametrize("beside_mm", [-2.0, 0.0, 3.0])
def test_measured_offset_of_the_edge_is_the_drawn_one(beside_mm):
    seen = replace(HEART, half_width_mm=22.0 + beside_mm, apex_mm=HEART.apex_mm - [0, beside_mm])
    assert measure_frame(flat_frame(seen, lateral=100))["edge_offset_mm"] == pytest.approx(beside_mm, abs=0.8)


def test_measured_grain_is_the_width_of_the_noise():
    """White noise after a Gaussian of deviation sigma: its autocorrelation falls to one half at 2 sigma sqrt(ln 2)."""
    frame = flat_frame(HEART)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(frame.image.shape), (1.2, 2.0))
    noisy = replace(frame, image=(128 + 30 * noise / noise.std()).clip(1, 255).astype(np.uint8))
    depth, lateral = noisy.grain_mm()
    assert depth == pytest.approx(2 * 1.2 * np.sqrt(np.log(2)) * frame.spacing_mm[0], rel=0.12)
    assert lateral == pytest.approx(2 * 2.0 * np.sqrt(np.log(2)) * frame.spacing_mm[1], rel=0.2)


def test_gap_of_two_distributions():
    levels, values = np.linspace(0.05, 0.95, 19), np.arange(1000.0)
    quantiles = np.quantile(values, levels)
    assert largest_gap(values, levels, quantiles) < 2e-3
    assert largest_gap(values + 200, levels, quantiles) == pytest.approx(0.2, abs=0.01)
    equal = np.full(100, 75.0)
    assert largest_gap(equal, levels, np.full(19, 75.0)) == 0


@pytest.fixture(scope="module")
def phantoms() -> tuple[list, dict[str, np.ndarray]]:
    """Drawn patients, and everything measured on their frames."""
    drawn, measured = [], []
    for index in range(PATIENTS):
        patient, _, frames = draw_frames(0, index, rows=400)
        measured.append(measure_patient({key: at_common_size(*frame) for key, frame in frames.items()}))
        drawn.append((patient, measured[-1][1]))
    return drawn, collect(measured)


@pytest.mark.parametrize("measure", REAL)
def test_phantoms_are_distributed_like_real_frames(phantoms, measure):
    values = phantoms[1][measure]
    assert largest_gap(values, LEVELS, REAL[measure]) < GAP, np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])


@pytest.mark.parametrize("measure", [name for name in REAL if name != "cone_opening_deg"])
def test_phantoms_differ_as_much_as_real_frames(phantoms, measure):
    """From the 5 % to the 95 % quantile; the cone, which nearly always is the same, has its own test."""
    drawn = np.quantile(phantoms[1][measure], [0.05, 0.95])
    ratio = np.ptp(drawn) / np.ptp(REAL[measure][[0, -1]])
    assert 0.6 < ratio < 1.6, (measure, drawn)


def test_wide_and_narrow_cones_are_as_rare_as_real_ones():
    openings = np.degrees([2 * draw_patient(np.random.default_rng([5, n])).cones["4CH"].half_angle for n in range(400)])
    for limit in (72, 81):
        real = np.interp(limit, REAL["cone_opening_deg"], LEVELS)
        assert np.mean(openings < limit) == pytest.approx(real, abs=0.06), limit


def test_volumes_told_are_those_of_the_labels(phantoms):
    """Simpson's discs counted on the label maps against those of the drawn outlines, which Info_*.cfg holds."""
    for name in ("edv_ml", "esv_ml"):
        ratios = np.array([measured[name] / getattr(patient, name) for patient, measured in phantoms[0]])
        assert ratios.mean() == pytest.approx(1, abs=0.015) and np.abs(ratios - 1).max() < 0.05, name
    for patient, measured in phantoms[0]:
        edv, esv = (biplane_volume_ml(*(patient.hearts[view, phase] for view in VIEWS)) for phase in PHASES)
        assert (patient.edv_ml, patient.esv_ml) == (edv, esv)
        assert measured["ef_pct"] == pytest.approx(patient.ef, abs=2)


def test_the_table_is_that_of_the_real_frames(camus):
    """Every twelfth training patient, measured again."""
    packed = np.load(camus / "camus_224.npz")
    with open(camus / "index.csv", newline="") as file:
        columns = "mm_per_px_axis1_at224", "mm_per_px_axis0_at224"
        spacing = {row["name"]: tuple(float(row[name]) for name in columns) for row in csv.DictReader(file)}
    rows = {name: row for row, name in enumerate(packed["names"].tolist())}
    patients = sorted({name[:11] for name, row in rows.items() if packed["split"][row] == "train"})
    images, labels = packed["images"], packed["labels"]

    def frame(name: str) -> MeasuredFrame:
        image, label = (np.ascontiguousarray(part[rows[name]].T) for part in (images, labels))
        return at_common_size(image, label, spacing[name])

    assert len(patients) == 400
    keys = [(view, phase) for view in VIEWS for phase in PHASES]
    some = [{key: frame(f"{patient}_{key[0]}_{key[1]}") for key in keys} for patient in patients[::12]]
    measured = collect([measure_patient(frames) for frames in some])
    assert measured.keys() == REAL.keys()
    for name, values in measured.items():
        assert largest_gap(values, LEVELS, REAL[name]) < 0.2, name

"""Drawn hearts, their label maps and simulated ultrasound, against closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from anatomy import PHASES, VIEWS, Cone, LeftHeart, biplane_volume_ml, draw_patient
from deformation import pieces
from make_phantom_camus import draw_frames
from raster import ATRIUM, CAVITY, MYOCARDIUM, Raster, label_map
from tissue import draw_echo, draw_right_heart
from ultrasound import Probe, cone_coordinates, echo_envelope, log_compress, scan_convert

PLAIN = LeftHeart(
    apex_mm=np.array([0.0, 25.0]),
    tilt=0.0,
    length_mm=80.0,
    half_width_mm=22.0,
    widest=0.5,
    taper=0.0,
    bend_mm=0.0,
    waves=np.zeros((2, 3)),
    wall_mm=np.array([10.0, 10.0]),
    apex_wall_mm=10.0,
    wall_tips_mm=np.array([3.0, 6.0]),
    leaflets=0.0,
    atrium_length_mm=40.0,
    atrium_width_mm=38.0,
    atrium_tilt=0.0,
)


def patients(n: int):
    return [draw_patient(np.random.default_rng([5, index])) for index in range(n)]


def polygon_area(contour: np.ndarray) -> float:
    """The shoelace formula."""
    x, z = contour.T
    return abs(np.sum(x * np.roll(z, -1) - z * np.roll(x, -1))) / 2


def test_volume_of_an_ellipsoid():
    wide = replace(PLAIN, half_width_mm=25.0)
    expected = np.pi / 6 * 80 * 44 * 50 / 1000
    assert biplane_volume_ml(PLAIN, wide) == pytest.approx(expected, rel=2e-3)


def test_the_longer_axis_counts():
    assert biplane_volume_ml(replace(PLAIN, length_mm=88), PLAIN) == pytest.approx(
        1.1 * biplane_volume_ml(PLAIN, PLAIN)
    )


@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_drawn_area_is_that_of_the_discs(tilt):
    heart = replace(PLAIN, tilt=tilt, taper=0.7, widest=0.6, waves=np.full((2, 3), 0.03), bend_mm=2.0)
    raster = Raster(Cone(150.0, np.radians(45)), 900)
    area = np.sum(label_map(heart, raster) == CAVITY) * np.prod(raster.spacing_mm)
    assert area == pytest.approx(heart.diameters(200).mean() * heart.length_mm, rel=0.01)


@pytest.mark.parametrize("rows", [160, 400])
def test_labels_are_neither_too_large_nor_too_small(rows):
    """Pixels whose centre lies in the outline: over many places the areas are those of the outlines."""
    ratios = []
    for shift in np.random.default_rng(0).uniform(0, 1, (10, 2)):
        heart = replace(PLAIN, apex_mm=PLAIN.apex_mm + shift, taper=0.7, widest=0.6)
        raster = Raster(Cone(150.0, np.radians(45)), rows)
        shapes = heart.cavity(), heart.wall(), heart.atrium()
        canvas = [np.zeros(raster.shape, np.uint8) for _ in shapes]
        for mask, shape in zip(canvas, shapes, strict=True):
            raster.fill(mask, shape, 1)
        pixel = np.prod(raster.spacing_mm)
        ratios.append([mask.sum() * pixel / polygon_area(shape) for mask, shape in zip(canvas, shapes, strict=True)])
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=2e-3)
    np.testing.assert_allclose(ratios, 1, atol=2e-2)


def test_a_contour_beyond_the_image_is_cut_at_its_edge():
    raster = Raster(Cone(100.0, np.radians(30)), 100)  # 100 x 100 pixels of 1 mm
    canvas = np.zeros(raster.shape, np.uint8)
    raster.fill(canvas, np.array([[-80.0, 40.0], [20.0, 40.0], [20.0, 300.0], [-80.0, 300.0]]), 1)
    expected = np.zeros(raster.shape, np.uint8)
    expected[40:, :70] = 1
    assert np.array_equal(canvas, expected)
    raster.fill(canvas, np.array([[200.0, 40.0], [220.0, 40.0], [220.0, 300.0]]), 2)
    assert np.array_equal(canvas, expected)


def test_coordinates_of_the_long_axis():
    heart = replace(PLAIN, tilt=0.3)
    points = np.array([heart.apex_mm, heart.apex_mm + 80 * np.array([np.sin(0.3), np.cos(0.3)]), heart.cavity()[-1]])
    s, offset = heart.coordinates(*points.T)
    np.testing.assert_allclose(s, [0, 1, 1], atol=1e-9)
    np.testing.assert_allclose(offset, [0, 0, PLAIN.half_widths(np.array([1.0]))[1, 0]], atol=1e-9)


def test_the_wall_ends_in_a_point_beside_the_ring():
    heart = replace(PLAIN, taper=0.7)
    labels = label_map(heart, raster := Raster(Cone(150.0, np.radians(45)), 900))
    x, z = raster.centres_mm
    for side, reach in ((-1, 3.0), (1, 6.0)):
        rows = np.nonzero((labels == MYOCARDIUM) & (side * x > 0))[0]
        assert z[rows.max(), 0] - (25 + 80) == pytest.approx(reach, abs=0.4)
        columns = np.nonzero(labels[rows.max()] == MYOCARDIUM)[0]
        beside = side * x[0, columns[side * x[0, columns] > 0]].mean()
        assert beside == pytest.approx(0.7 * 22 + 6, abs=0.6)  # 0.6 of the thickness from the cavity


def test_mitral_leaflets_turn_about_the_ring():
    for angle in (0.1, 0.6, 1.2):
        heart = replace(PLAIN, taper=0.7, leaflets=angle)
        ring = 2 * 0.7 * 22
        for leaflet, share, inward in zip(heart.mitral_leaflets(), (0.56, 0.44), (1, -1), strict=True):
            swing = leaflet[-1] - leaflet[0]
            np.testing.assert_allclose(swing, ring * share * np.array([inward * np.cos(angle), -np.sin(angle)]))


def test_the_valve_is_shut_at_end_systole_and_often_not_yet_at_end_diastole():
    """Gap between the tips over the width of the ring: the leaflets add up to the ring, so shut means near 0."""
    gaps = {phase: [] for phase in PHASES}
    for patient in patients(40):
        for (_, phase), heart in patient.hearts.items():
            left, right = heart.mitral_leaflets()
            gaps[phase].append(np.linalg.norm(left[-1] - right[-1]) / np.linalg.norm(left[0] - right[0]))
    assert max(gaps["ES"]) < 0.15
    assert 0.3 < np.mean(np.array(gaps["ED"]) > 0.2) < 0.7


def test_right_ventricle_has_blood_and_a_wall():
    """From the septum to the left: dark blood, a brighter wall, and what lies beyond."""
    raster = Raster(Cone(150.0, np.radians(45)), 300)
    walls = []
    for seed in range(10):
        echo = draw_echo(np.random.default_rng(seed), washed_out=0.0)
        canvas = np.full(raster.shape, np.nan, np.float32)
        draw_right_heart(canvas, PLAIN, raster, echo, np.random.default_rng(seed))
        row = canvas[round((25 + 45) / raster.spacing_mm[0])]
        drawn = np.nonzero(np.isfinite(row))[0]
        wall, lumen = row[drawn[0]], row[drawn[-1]]
        assert lumen < wall - 0.9, seed
        walls.append(np.sum(row == wall) * raster.spacing_mm[1])
        assert 8 < np.sum(row == lumen) * raster.spacing_mm[1] < 40
    assert 2.5 < np.mean(walls) < 6.5


def test_wall_has_the_drawn_thickness():
    labels = label_map(PLAIN, raster := Raster(Cone(150.0, np.radians(45)), 900))
    row = round((25 + 40) / raster.spacing_mm[0])  # half way down, where the sides run straight
    left, right = np.array_split(labels[row], 2)
    for side in (left, right):
        assert np.sum(side == MYOCARDIUM) * raster.spacing_mm[1] == pytest.approx(10, abs=0.4)
    above = np.sum(labels[: round(45 / raster.spacing_mm[0]), labels.shape[1] // 2] == MYOCARDIUM)
    assert above * raster.spacing_mm[0] == pytest.approx(10, abs=0.4)


def test_ejection_fraction_follows_from_the_volumes():
    for patient in patients(30):
        edv, esv = (biplane_volume_ml(*(patient.hearts[view, phase] for view in VIEWS)) for phase in PHASES)
        assert patient.edv_ml == edv and patient.esv_ml == esv and esv < edv
        assert patient.ef == pytest.approx(100 * (1 - esv / edv))
        assert 15 < patient.ef < 80 and 30 < edv < 350


def test_every_drawn_heart_has_each_structure_in_one_piece_and_in_its_place():
    for patient in patients(30):
        for (view, phase), heart in patient.hearts.items():
            labels = label_map(heart, Raster(patient.cones[view], 200))
            assert pieces(labels) == {CAVITY: 1, MYOCARDIUM: 1, ATRIUM: 1}, (view, phase)
            depth = {value: np.nonzero(labels == value)[0] for value in (CAVITY, MYOCARDIUM, ATRIUM)}
            assert depth[MYOCARDIUM].min() < depth[CAVITY].min() < depth[ATRIUM].min()  # apex up, atrium below
            assert depth[ATRIUM].mean() > depth[CAVITY].max() - 12
            below = labels[np.minimum(np.nonzero(labels == CAVITY)[0] + 1, 199), np.nonzero(labels == CAVITY)[1]]
            assert np.sum(below == ATRIUM) > 8, "the cavity opens into the atrium at the mitral plane"


def test_envelope_is_rayleigh_distributed_and_linear_in_the_amplitude():
    probe = Probe(looks=1)
    ones = np.ones((720, 224), np.float32)
    envelope = echo_envelope(probe, ones, 150.0, 0.7, np.random.default_rng(0))[40:-40, 20:-20]
    assert np.mean(envelope**2) == pytest.approx(1, rel=0.03)
    assert envelope.mean() / envelope.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)  # 1.913
    twice = echo_envelope(probe, 2 * ones, 150.0, 0.7, np.random.default_rng(0))[40:-40, 20:-20]
    np.testing.assert_allclose(twice, 2 * envelope, rtol=1e-4)


def test_compounding_averages_speckle():
    ones = np.ones((720, 224), np.float32)
    ratio = {}
    for looks in (1, 4):
        envelope = echo_envelope(Probe(looks=looks), ones, 150.0, 0.7, np.random.default_rng(0))
        ratio[looks] = envelope.std() / envelope.mean()
    assert ratio[4] == pytest.approx(ratio[1] / 2, rel=0.05)


def test_speckle_width_follows_the_beam():
    """Correlation of the envelope across the beams grows with the beam's width, along the beam it does not."""

    def correlation(width, axis):
        ones = np.ones((720, 224), np.float32)
        envelope = echo_envelope(Probe(beam_width=width), ones, 150.0, 0.7, np.random.default_rng(0))
        first, second = envelope.take(range(100, 200), axis), envelope.take(range(104, 204), axis)
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]

    assert correlation(0.02, 1) > correlation(0.0095, 1) + 0.2
    assert correlation(0.02, 0) == pytest.approx(correlation(0.0095, 0), abs=0.05)


def test_log_compression():
    decibels = np.array([10.0, 0.0, -30.0, -60.0, -90.0])
    grey = log_compress(10 ** (decibels / 20), dynamic_range_db=60)
    np.testing.assert_allclose(grey, [255, 255, 127.5, 0, 0], atol=1e-3)


@pytest.mark.parametrize("half_angle", [37.5, 45.0])
def test_scan_conversion_puts_each_sample_at_its_place(half_angle):
    angle, shape = np.radians(half_angle), (300, round(600 * np.sin(np.radians(half_angle))))
    by_depth = np.repeat(np.linspace(0, 200, 500, dtype=np.float32)[:, None], 100, axis=1)
    image = scan_convert(by_depth, 150.0, angle, shape)
    radius, direction = cone_coordinates(150.0, angle, shape)
    inside = (radius <= 150) & (np.abs(direction) <= angle)
    assert np.array_equal(image == 0, ~inside) and 0.3 < inside.mean() < 0.8
    assert np.abs(image[inside] - np.maximum(radius[inside] / 150 * 200, 1)).max() <= 0.51
    by_angle = np.repeat(np.linspace(0, 200, 100, dtype=np.float32)[None, :], 500, axis=0)
    image = scan_convert(by_angle, 150.0, angle, shape)
    assert np.abs(image[inside] - np.maximum((direction[inside] / angle + 1) * 100, 1)).max() <= 0.51


def test_image_is_zero_exactly_outside_the_cone():
    for index in range(3):
        patient, _, frames = draw_frames(5, index, rows=160)
        for (view, _), (image, _, _) in frames.items():
            cone = patient.cones[view]
            radius, direction = cone_coordinates(cone.depth_mm, cone.half_angle, image.shape)
            assert np.array_equal(image > 0, (radius <= cone.depth_mm) & (np.abs(direction) <= cone.half_angle))


def test_labels_are_the_annotated_heart_and_the_chest_stays_between_the_phases():
    patient, _, frames = draw_frames(5, 0, rows=160)
    for key, (_, labels, _) in frames.items():
        assert np.array_equal(labels, label_map(patient.hearts[key], Raster(patient.cones[key[0]], 160)))
    far = slice(130, 150), slice(60, 110)  # deep, beside the heart's motion

    def similarity(first, second):
        smooth = [
            frames[key][0][far].astype(float).reshape(5, 4, 10, 5).mean((1, 3)).ravel() for key in (first, second)
        ]
        return np.corrcoef(*smooth)[0, 1]

    assert similarity(("4CH", "ED"), ("4CH", "ES")) > similarity(("4CH", "ED"), ("2CH", "ED"))

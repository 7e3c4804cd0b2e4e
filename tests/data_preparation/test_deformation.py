"""The warp: closed forms, statistics, rejection."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline

import deformation
from deformation import MESH, Deformation, deform, draw_deformation, pieces, sampling_map, spline_basis, warp

STILL = Deformation(0.0, 1.0, 0.0, 0.0, np.zeros((10, 4, 2)))


@pytest.fixture
def blob() -> np.ndarray:
    """A label map [100, 100] without symmetry."""
    label = np.zeros((100, 100), np.uint8)
    label[20:60, 30:50] = 2
    label[25:60, 35:45] = 1
    label[60:75, 30:70] = 3
    return label


def displacement(drawn: Deformation, size: int) -> np.ndarray:
    """(x, y) moved by the B-spline alone, [2, size, size] in pixels."""
    x, y = sampling_map(replace(drawn, rotation=0, scale=1, shear=0, shift=0), (size, size))
    return np.stack([x - np.arange(size)[None, :], y - np.arange(size)[:, None]])


def test_nothing_drawn_changes_nothing(blob):
    assert np.array_equal(warp(blob, STILL), blob)


def test_shift_moves_the_content_down(blob):
    assert np.array_equal(warp(blob, replace(STILL, shift=0.05)), np.roll(blob, 5, axis=0))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_is_counter_clockwise(blob, quarters):
    assert np.array_equal(warp(blob, replace(STILL, rotation=quarters * np.pi / 2)), np.rot90(blob, quarters))


def test_scale_shrinks_about_the_centre():
    label = np.zeros((200, 200), np.uint8)
    label[50:150, 60:140] = 1
    rows, columns = np.nonzero(warp(label, replace(STILL, scale=0.8)))
    assert abs(np.ptp(rows) + 1 - 80) <= 1 and abs(np.ptp(columns) + 1 - 64) <= 1
    assert abs(rows.mean() - 99.5) <= 0.5 and abs(columns.mean() - 99.5) <= 0.5


def test_shear_is_along_x():
    label = np.zeros((101, 101), np.uint8)
    label[:, 50] = 1
    rows, columns = np.nonzero(warp(label, replace(STILL, shear=np.arctan(0.2))))
    assert np.abs(columns - (50 + 0.2 * (rows - 50))).max() <= 0.51


@pytest.mark.parametrize("cells", MESH)
def test_spline_weights_sum_to_one_and_keep_straight_lines(cells):
    weights, points = spline_basis(256, cells)
    assert weights.shape == (256, cells + 3) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights @ points, np.arange(256), atol=1e-3)


def test_one_map_is_the_affine_map_of_the_displaced_grid():
    """Against the two steps one after the other: SciPy's own evaluation of the B-spline, then a matrix."""
    drawn, (height, width) = draw_deformation(np.random.default_rng(3)), (120, 80)
    y, x = np.mgrid[:height, :width].astype(float)
    moved = []
    for axis, size in ((1, width), (0, height)):
        rows = BSpline(np.arange(-3.0, 11), drawn.coefficients[..., axis], 3)((np.arange(height) + 0.5) / height * 7)
        moved.append(BSpline(np.arange(-3.0, 5), rows.T, 3)((np.arange(width) + 0.5) / width).T * size / 256)
    found = deformation.affine_matrix(drawn, (height, width)) @ np.stack(
        [(x + moved[0]).ravel(), (y + moved[1]).ravel(), np.ones(x.size)]
    )
    np.testing.assert_allclose(np.stack(sampling_map(drawn, (height, width))).reshape(2, -1), found[:2], atol=1e-3)


def test_displacement_has_the_published_size():
    fields = np.stack([displacement(draw_deformation(np.random.default_rng(seed)), 256) for seed in range(300)])
    rms = np.sqrt(np.mean(fields**2, axis=(0, 2, 3)))
    assert (rms > 5.0).all() and (rms < 5.6).all()
    assert 14 < np.abs(fields).max() <= 19


def test_displacement_scales_with_the_image():
    drawn = draw_deformation(np.random.default_rng(1))
    large, small = displacement(drawn, 256), displacement(drawn, 128)
    np.testing.assert_allclose(small, large.reshape(2, 128, 2, 128, 2).mean(axis=(2, 4)) / 2, atol=0.02)


def test_drawn_values_fill_their_ranges():
    drawn = [draw_deformation(np.random.default_rng(seed)) for seed in range(500)]
    for name, low, high in (
        ("rotation", -np.radians(5), np.radians(5)),
        ("shear", -np.radians(5), np.radians(5)),
        ("shift", -0.05, 0.05),
        ("scale", 0.8, 1.05),
    ):
        values = np.array([getattr(one, name) for one in drawn])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    assert all((one.coefficients[[0, -1]] == 0).all() and (one.coefficients[1:-1] != 0).all() for one in drawn)


def test_pieces_counts_each_structure():
    label = np.zeros((9, 9), np.uint8)
    label[0, 0] = label[1, 1] = 1  # joined at a corner: one piece
    label[4, 4] = label[4, 6] = 3
    assert pieces(label) == {1: 1, 3: 2}


def test_same_address_same_deformation(blob):
    first, _ = deform(blob, "patient0001_2CH_ED_training", 0, seed=0)
    assert np.array_equal(first, deform(blob, "patient0001_2CH_ED_training", 0, seed=0)[0])
    for other in (("patient0001_2CH_ED_training", 1, 0), ("patient0002_2CH_ED_training", 0, 0)):
        assert not np.array_equal(first, deform(blob, *other)[0])
    assert not np.array_equal(first, deform(blob, "patient0001_2CH_ED_training", 0, seed=1)[0])


@pytest.mark.parametrize("damage", ["lost", "split"])
@pytest.mark.parametrize(("bad_draws", "rejected"), [(0, 0), (3, 3), (9, 9), (10, 10), (1000, 10)])
def test_lost_and_split_structures_are_drawn_again(blob, monkeypatch, damage, bad_draws, rejected):
    calls = []
    good, bad = np.roll(blob, 1, axis=1), blob.copy()
    if damage == "lost":
        bad[bad == 3] = 0
    else:
        bad[:, 45:55][bad[:, 45:55] == 3] = 0

    def warp_(label, drawn):
        calls.append(drawn)
        return bad if len(calls) <= bad_draws else good

    monkeypatch.setattr(deformation, "warp", warp_)
    deformed, count = deform(blob, "patient0001_2CH_ED_training", 0, seed=0)
    assert count == rejected
    assert np.array_equal(deformed, blob if rejected == 10 else good)
    assert len({drawn.rotation for drawn in calls}) == len(calls), "each try must draw anew"

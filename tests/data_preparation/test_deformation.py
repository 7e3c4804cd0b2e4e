"""The warp: closed forms, statistics, rejection."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline

import deformation
from deformation import (
    MESH,
    Deformation,
    deform,
    draw_deformation,
    pieces,
    rows_below,
    sampling_map,
    spline_basis,
    warp,
)

STILL = Deformation(0.0, 1.0, 0.0, 0.0, np.zeros((10, 4, 2)))
STEM = "patient0001_2CH_ED_training"


def everywhere(label: np.ndarray) -> np.ndarray:
    """A cone that fills the image."""
    return np.ones(label.shape, bool)


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
    assert np.array_equal(warp(blob, everywhere(blob), STILL), blob)


def test_shift_moves_the_content_down(blob):
    assert np.array_equal(warp(blob, everywhere(blob), replace(STILL, shift=0.05)), np.roll(blob, 5, axis=0))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_is_counter_clockwise(blob, quarters):
    assert np.array_equal(
        warp(blob, everywhere(blob), replace(STILL, rotation=quarters * np.pi / 2)), np.rot90(blob, quarters)
    )


def test_scale_shrinks_about_the_centre():
    label = np.zeros((200, 200), np.uint8)
    label[50:150, 60:140] = 1
    rows, columns = np.nonzero(warp(label, ~everywhere(label), replace(STILL, scale=0.8)))
    assert abs(np.ptp(rows) + 1 - 80) <= 1 and abs(np.ptp(columns) + 1 - 64) <= 1
    assert abs(rows.mean() - 99.5) <= 0.5 and abs(columns.mean() - 99.5) <= 0.5


def test_shear_is_along_x():
    label = np.zeros((101, 101), np.uint8)
    label[:, 50] = 1
    rows, columns = np.nonzero(warp(label, ~everywhere(label), replace(STILL, shear=np.arctan(0.2))))
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


@pytest.fixture
def open_atrium() -> tuple[np.ndarray, np.ndarray]:
    """A label map [100, 100] whose atrium, 40 columns wide, reaches the last row, and a cone of 90 rows."""
    label = np.zeros((100, 100), np.uint8)
    label[70:, 30:70] = 3
    label[20:70, 40:60] = 1
    cone = everywhere(label)
    cone[90:] = False
    return label, cone


def test_an_atrium_cut_by_the_image_has_no_floor_within_the_cone(open_atrium):
    """Moved up by twenty rows, the last annotated row comes to lie on row 79; the cone ends with row 89."""
    label, cone = open_atrium
    moved = warp(label, cone, replace(STILL, shift=-0.2))
    assert np.array_equal(moved[:80], label[20:])
    assert np.array_equal(moved[80:90], np.broadcast_to(label[-1], (10, 100))), "it goes on to the end of the cone"
    assert not moved[90:].any(), "and no further"


def test_beyond_the_other_sides_the_border_is_replicated(open_atrium):
    """A quarter turn lays the open end at the right, so that the deformed map shows what lies beyond it."""
    label, cone = (np.rot90(part) for part in open_atrium)
    narrow = replace(STILL, scale=0.8)
    height, width = np.nonzero(warp(label, everywhere(label), narrow) == 3)
    assert width.max() == 99 and abs(np.ptp(height[width == 99]) + 1 - 32) <= 1
    assert np.nonzero(warp(label, cone, narrow) == 3)[1].max() == 89


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0.4, -0.4), (1, -1), (2, -2), (0, -0.2), (0.2, 0.2), (-0.4, 0.4)])
def test_outlines_go_straight_on(left, right):
    """A trapezium between straight sides, which move by `left` and `right` columns a row, in a taller image and cut."""
    rows, columns = np.mgrid[:240, :200]
    inside = (columns > 59.6 + left * (rows - 159)) & (columns < 139.4 + right * (rows - 159)) & (rows >= 130)
    below = rows_below(np.where(inside[:160], 2, 0).astype(np.uint8), 80)
    assert set(np.unique(below)) <= {0, 2}
    assert ((below == 2) ^ inside[160:]).sum(axis=1).max() <= 2


def test_an_outline_opens_slowly():
    """A disc whose upper cap alone is in the image: at most half a pixel a row on either side."""
    rows, columns = np.mgrid[:100, :200]
    cap = ((rows - 140) ** 2 + (columns - 99.5) ** 2 < 50**2).astype(np.uint8)
    width = np.concatenate([cap[-1:], rows_below(cap, 60)]).sum(axis=1).astype(int)
    assert width[0] > 50 and (np.diff(width) >= 0).all() and 56 <= width[-1] - width[0] <= 60


def test_what_closes_stays_closed_and_neighbours_do_not_overlap():
    """A cavity that closes by a pixel a row within a wall: it ends, and the wall goes on."""
    rows, columns = np.mgrid[:160, :200]
    half = 40 - (rows - 159)
    label = np.where(np.abs(columns - 99.5) < half, 1, np.where(np.abs(columns - 99.5) < 90, 2, 0)).astype(np.uint8)
    below = rows_below(label, 80)
    assert not (below[45:] == 1).any() and (below[:35, 99] == 1).all()
    assert (below[:, 15] == 2).all() and (below[:, 5] == 0).all()


@pytest.mark.filterwarnings("error")
def test_what_filled_a_row_yields_slowly_to_what_comes_in():
    """The wall fills the width until, in the last rows, an atrium comes in from the lower right corner."""
    label = np.ones((256, 256), np.uint8)
    for row in range(250, 256):
        label[row, 128 + (255 - row) * 20 :] = 2
    below = rows_below(label, 100)
    assert (below == 0).sum(axis=1).max() <= 1, "a pixel on the outline itself"
    assert 128 - 51 <= (below[-1] == 1).sum() <= 128 - 49


@pytest.mark.filterwarnings("error")
def test_what_has_come_in_and_fills_the_last_row_goes_on():
    label = np.zeros((64, 64), np.uint8)
    label[-1] = 3
    assert (rows_below(label, 32) == 3).all()
    assert (rows_below(label[-1:], 2) == 3).all(), "a map of one row knows no direction"


def test_nothing_at_the_edge_nothing_beyond_it(blob):
    assert not rows_below(blob, 50).any()


def test_what_is_annotated_outside_the_cone_stays(blob):
    moved = warp(blob, ~everywhere(blob), replace(STILL, shift=0.05))
    assert np.array_equal(moved, np.roll(blob, 5, axis=0))


def test_pieces_counts_each_structure():
    label = np.zeros((9, 9), np.uint8)
    label[0, 0] = label[1, 1] = 1  # joined at a corner: one piece
    label[4, 4] = label[4, 6] = 3
    assert pieces(label) == {1: 1, 3: 2}
    label[4, 5] = 2  # another structure does not join them
    assert pieces(label) == {1: 1, 2: 1, 3: 2}
    assert pieces(label[5:]) == {}


def test_same_address_same_deformation(blob):
    cone = everywhere(blob)
    first, _ = deform(blob, cone, STEM, 0, seed=0)
    assert np.array_equal(first, deform(blob, cone, STEM, 0, seed=0)[0])
    for other in ((STEM, 1, 0), ("patient0002_2CH_ED_training", 0, 0), (STEM, 0, 1)):
        assert not np.array_equal(first, deform(blob, cone, *other)[0])


@pytest.mark.parametrize("damage", ["lost", "split", "lost by the cone", "split by the cone"])
@pytest.mark.parametrize(("bad_draws", "rejected"), [(0, 0), (3, 3), (9, 9), (10, 10), (1000, 10)])
def test_lost_and_split_structures_are_drawn_again(blob, monkeypatch, damage, bad_draws, rejected):
    """Above row 76 the cone is open; the atrium ends with row 74."""
    calls = []
    good, bad, cone = np.roll(blob, 1, axis=1), blob.copy(), everywhere(blob)
    if damage == "lost":
        bad[bad == 3] = 0
    elif damage == "split":
        bad[:, 45:55][bad[:, 45:55] == 3] = 0
    else:
        bad = np.roll(blob, 16, axis=0)
        cone[76:, slice(None) if damage == "lost by the cone" else slice(49, 51)] = False

    def warp_(label, cone, drawn):
        calls.append(drawn)
        return bad if len(calls) <= bad_draws else good

    monkeypatch.setattr(deformation, "warp", warp_)
    deformed, count = deform(blob, cone, STEM, 0, seed=0)
    assert count == rejected
    assert np.array_equal(deformed, blob if rejected == 10 else good)
    assert len({drawn.rotation for drawn in calls}) == len(calls), "each try must draw anew"


def test_a_frame_may_keep_the_pieces_that_its_own_cone_makes(blob, monkeypatch):
    cone = everywhere(blob)
    cone[:, 49:51] = False
    monkeypatch.setattr(deformation, "warp", lambda label, cone, drawn: np.roll(label, 1, axis=0))
    assert deform(blob, cone, STEM, 0, seed=0)[1] == 0

"""Areas, volumes, ED, ES and the ejection fraction over time, against ellipsoids in closed form."""

import math

import numpy as np
import pytest

from cycles import collect_cycles, measure_ventricle, summary_row, time_rows

SPACING = (0.25, 0.4)  # mm, depth and lateral
LENGTH = 80.0  # mm, from base to apex: half of an ellipsoid


def half_ellipse(radius: float, length: float = LENGTH) -> np.ndarray:
    """Label map of a cavity that is half an ellipse (apex up) in its wall, on an atrium as wide as its base."""
    rows, columns = np.mgrid[:560, :300]
    depth, lateral = (rows + 0.5) * SPACING[0], (columns + 0.5 - 150) * SPACING[1]
    height = 110 - depth  # above the base
    label = np.zeros(rows.shape, np.uint8)
    label[(np.hypot(height / (length + 8), lateral / (radius + 8)) < 1) & (height > 0)] = 2
    label[(np.hypot(height / length, lateral / radius) < 1) & (height > 0)] = 1
    label[(height < 0) & (height > -20) & (abs(lateral) < radius)] = 3
    return label


def ventricles(*radii: float, length: float = LENGTH) -> list:
    return [measure_ventricle(half_ellipse(radius, length), SPACING) for radius in radii]


def volume(two: float, four: float) -> float:
    """ml of half an ellipsoid with these radii."""
    return 2 / 3 * math.pi * two * four * LENGTH / 1000


def test_the_area_is_that_of_the_largest_cavity():
    label = half_ellipse(22)
    area = math.pi / 2 * 22 * LENGTH / 100
    assert measure_ventricle(label, SPACING).area_cm2 == pytest.approx(area, rel=0.005)
    label[:10, :10] = 1
    assert measure_ventricle(label, SPACING).area_cm2 == pytest.approx(area, rel=0.005)
    empty = measure_ventricle(np.zeros((20, 20), np.uint8), SPACING)
    assert (empty.area_cm2, empty.axis) == (0, None)


def test_each_view_has_its_own_ed_and_es_and_the_volumes_are_those_of_ellipsoids():
    two, four = (20, 24, 18, 15, 17), (23, 19, 16)
    measured = [("a", "2CH", "", ventricles(*two)), ("a", "4CH", "", ventricles(*four))]
    (cycle,) = collect_cycles(measured)
    assert (cycle.ed, cycle.es) == ({"2CH": 1, "4CH": 0}, {"2CH": 3, "4CH": 2})
    assert cycle.edv_ml == pytest.approx(volume(24, 23), rel=0.01)
    assert cycle.esv_ml == pytest.approx(volume(15, 16), rel=0.01)
    assert cycle.ejection_fraction == pytest.approx(100 * (1 - 15 * 16 / (24 * 23)), abs=0.5)
    rows = time_rows(cycle)
    assert [(row["frame_2ch"], row["frame_4ch"]) for row in rows] == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2)]
    expected = [volume(two[row["frame_2ch"]], four[row["frame_4ch"]]) for row in rows]
    assert [row["volume_ml"] for row in rows] == pytest.approx(expected, rel=0.01)


def test_frames_of_known_phase_make_an_ejection_fraction_too_whatever_their_size():
    """The phases come from the names: an ES larger than ED gives a negative fraction, which is to be seen."""
    sizes = {("2CH", "ED"): 20, ("2CH", "ES"): 21, ("4CH", "ED"): 22, ("4CH", "ES"): 23}
    measured = [("b", view, phase, ventricles(radius)) for (view, phase), radius in sizes.items()]
    (cycle,) = collect_cycles(measured)
    assert cycle.source == "frames"
    assert cycle.ejection_fraction == pytest.approx(100 * (1 - 21 * 23 / (20 * 22)), abs=0.5)
    assert collect_cycles(measured[:1]) == []


def test_one_view_gives_areas_alone_and_frames_without_a_ventricle_are_no_es():
    found = ventricles(20, 15) + [measure_ventricle(np.zeros((9, 9), np.uint8), SPACING)]
    (cycle,) = collect_cycles([("c", "4CH", "", found)])
    assert (cycle.ed, cycle.es) == ({"4CH": 0}, {"4CH": 1})
    row = summary_row(cycle)
    assert all(math.isnan(row[name]) for name in ("edv_ml", "esv_ml", "ef"))
    assert row["es_frame_4ch"] == 1
    assert row["es_frame_2ch"] == ""
    (nothing,) = collect_cycles([("d", "4CH", "", found[2:] * 3)])
    assert (nothing.ed, nothing.es) == ({}, {})

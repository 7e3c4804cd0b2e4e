"""Simpson's method on bodies of known volume and on real labels; agreement statistics by hand."""

import re

import numpy as np
import pytest
import SimpleITK as sitk

from ejection_fraction import agreement, biplane_volume_ml, ejection_fraction, measure_long_axis
from geometry import native_step, nearest_indices


def volume_ml(labels: dict[str, np.ndarray], spacings: dict[str, tuple[float, float]]) -> float:
    return biplane_volume_ml(*(measure_long_axis(labels[view], spacings[view]) for view in ("2CH", "4CH")))


def half_ellipse(length: float, radius: float, spacing: tuple[float, float], degrees: float = 0) -> np.ndarray:
    """Cavity (1) in its wall (2) over an atrium (3), sizes in mm; the apex points up, turned by `degrees`."""
    shape = (round(160 / spacing[0]), round(160 / spacing[1]))
    rows, columns = (np.mgrid[: shape[0], : shape[1]].T * spacing).T - 80
    angle = np.deg2rad(degrees)
    up = -(rows * np.cos(angle) + columns * np.sin(angle)) + 10
    across = columns * np.cos(angle) - rows * np.sin(angle)
    labels = np.zeros(shape, np.uint8)
    labels[(up > 0) & (np.hypot(up / (length + 8), across / (radius + 8)) < 1)] = 2
    labels[(up > 0) & (np.hypot(up / length, across / radius) < 1)] = 1
    labels[(up <= 0) & (up > -30) & (abs(across) < radius)] = 3
    return labels


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.154, 0.308), (0.8, 0.4)])
@pytest.mark.parametrize("degrees", [0, 15])
def test_half_ellipsoid(spacing, degrees):
    length, first, second = 80.0, 22.0, 28.0
    labels = {"2CH": half_ellipse(length, first, spacing, degrees), "4CH": half_ellipse(length, second, spacing)}
    assert measure_long_axis(labels["4CH"], spacing).length == pytest.approx(length, rel=0.02)
    expected = 2 / 3 * np.pi * first * second * length / 1000
    assert volume_ml(labels, dict.fromkeys(labels, spacing)) == pytest.approx(expected, rel=0.02)


def test_the_longer_axis_counts():
    """Discs of equal number in both views: the shorter view's are stretched to the longer axis."""
    spacing = (0.5, 0.5)
    labels = {"2CH": half_ellipse(60, 20, spacing), "4CH": half_ellipse(80, 20, spacing)}
    expected = 2 / 3 * np.pi * 20 * 20 * 80 / 1000
    assert volume_ml(labels, dict.fromkeys(labels, spacing)) == pytest.approx(expected, rel=0.02)


def test_a_stray_pixel_does_not_move_the_apex():
    labels = half_ellipse(80, 20, (0.5, 0.5))
    stray = labels.copy()
    stray[2, 2] = 1
    assert measure_long_axis(stray, (0.5, 0.5)).length == measure_long_axis(labels, (0.5, 0.5)).length


def test_a_stray_pixel_of_the_atrium_does_not_move_the_base():
    labels = half_ellipse(80, 20, (0.5, 0.5))
    stray = labels.copy()
    row, column = np.argwhere(labels == 1)[0]  # at the apex
    stray[row - 1, column] = 3
    assert measure_long_axis(stray, (0.5, 0.5)).length == measure_long_axis(labels, (0.5, 0.5)).length


def test_without_an_atrium_the_base_is_where_the_wall_is_open():
    labels = half_ellipse(80, 20, (0.5, 0.5))
    length = measure_long_axis(labels, (0.5, 0.5)).length
    labels[labels == 3] = 0
    assert measure_long_axis(labels, (0.5, 0.5)).length == pytest.approx(length, rel=0.01)


@pytest.mark.parametrize("mitral", [5, 12, 20])
def test_without_a_wall_the_base_is_where_the_atrium_is_met(mitral):
    """Half of the valve's width may be all that the two share; with neither of them nothing tells the base."""
    labels = half_ellipse(80, 20, (0.5, 0.5))
    length = measure_long_axis(labels, (0.5, 0.5)).length
    columns = np.arange(labels.shape[1])
    labels[(labels == 2) | ((labels == 3) & (abs(columns * 0.5 - 80) > mitral))] = 0
    assert measure_long_axis(labels, (0.5, 0.5)).length == pytest.approx(length, rel=0.01)
    labels[labels == 3] = 0
    assert measure_long_axis(labels, (0.5, 0.5)) is None


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.154, 0.308), (0.8, 0.4)])
@pytest.mark.parametrize("across", [7, 1])
@pytest.mark.parametrize("depth", [0.3, 0.6])
def test_a_hole_in_the_wall_is_no_base(spacing, across, depth):
    """Without an atrium, and 7 or 1 pixels of the wall missing on one side: the axis stays as long as it is drawn."""
    labels = half_ellipse(80, 20, spacing)
    labels[labels == 3] = 0
    row = int(np.argwhere(labels == 1)[:, 0].min() + depth * 80 / spacing[0])
    left = np.flatnonzero(labels[row] == 1)[0]
    labels[row - across // 2 : row - across // 2 + across, :left] = 0
    assert (labels[row, :left] == 0).all()
    assert measure_long_axis(labels, spacing).length == pytest.approx(80, rel=0.015)


def test_an_atrium_that_touches_by_a_pixel_is_not_where_the_ventricle_ends():
    labels = half_ellipse(80, 20, (0.5, 0.5))
    rows, columns = np.nonzero(labels == 3)
    labels[labels == 3] = 0
    corner = rows == rows.min()
    labels[rows[corner][0], columns[corner][:2]] = 3
    labels[rows.min() + 1 :, : columns.min() + 2] = 3
    assert measure_long_axis(labels, (0.5, 0.5)).length == pytest.approx(80, rel=0.015)


def test_the_base_is_the_mitral_valve_where_a_piece_of_the_wall_is_missing_beside_it():
    """A third of the wall of one side is gone, next to the valve: what the cavity meets of the atrium still counts."""
    labels = half_ellipse(80, 20, (0.5, 0.5))
    length = measure_long_axis(labels, (0.5, 0.5)).length
    base = np.argwhere(labels == 1)[:, 0].max()
    piece = labels[base - 50 : base + 1, : labels.shape[1] // 2]
    piece[piece == 2] = 0
    assert measure_long_axis(labels, (0.5, 0.5)).length == pytest.approx(length, rel=0.01)


def test_no_cavity_no_volume():
    labels = half_ellipse(80, 20, (0.5, 0.5))
    empty = np.zeros_like(labels)
    assert measure_long_axis(empty, (1, 1)) is None
    assert np.isnan(volume_ml({"2CH": empty, "4CH": labels}, {"2CH": (1, 1), "4CH": (1, 1)}))
    closed = np.full((9, 9), 2, np.uint8)
    closed[3:6, 3:6] = 1
    assert measure_long_axis(closed, (1, 1)) is None


@pytest.mark.parametrize("size", [None, 256])
@pytest.mark.parametrize("number", range(1, 6))
def test_reference_labels_agree_with_reported_volumes(camus, number, size):
    """Of patients 1 to 5, at native resolution and at the 256 x 256 of the extracted data, by the published rule."""
    folder = camus / "mhd" / "training" / f"patient{number:04d}"
    info = dict(re.findall(r"(\w+): (.*)", (folder / "Info_4CH.cfg").read_text()))
    volumes = {}
    for phase in ("ED", "ES"):
        labels, spacings = {}, {}
        for view in ("2CH", "4CH"):
            image = sitk.ReadImage(str(folder / f"{folder.name}_{view}_{phase}_gt.mhd"))
            labels[view] = sitk.GetArrayFromImage(image)[0].astype(np.uint8)
            spacings[view] = np.array(image.GetSpacing()[1::-1])
            if size:
                shape = labels[view].shape
                spacings[view] *= [native_step(native, size, "nearest") for native in shape]
                labels[view] = labels[view][np.ix_(*(nearest_indices(native, size) for native in shape))]
        volumes[phase] = volume_ml(labels, spacings)
    assert volumes["ED"] == pytest.approx(float(info["LVedv"]), rel=0.03)
    assert volumes["ES"] == pytest.approx(float(info["LVesv"]), rel=0.03)
    assert ejection_fraction(volumes["ED"], volumes["ES"]) == pytest.approx(float(info["LVef"]), abs=1)


def test_ejection_fraction_by_hand():
    assert ejection_fraction(120, 48) == 60
    assert np.isnan([ejection_fraction(0, 1), ejection_fraction(np.nan, 1), ejection_fraction(1, np.nan)]).all()


def test_agreement_by_hand():
    found = agreement([52, 61, 73, np.nan], [50, 60, 70, 55])
    assert found["n"] == 3
    assert found["bias"] == pytest.approx(2)
    assert found["sd"] == pytest.approx(1)
    assert (found["lower"], found["upper"]) == (pytest.approx(0.04), pytest.approx(3.96))
    assert found["correlation"] == pytest.approx(210 / 44400**0.5)
    assert found["mean_absolute"] == pytest.approx(2)


def test_agreement_of_too_few_is_not_a_number():
    assert agreement([], [])["n"] == 0
    assert np.isnan([agreement([50], [51])["sd"], agreement([50], [51])["correlation"]]).all()

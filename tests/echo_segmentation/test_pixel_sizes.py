"""The size of a pixel: measured, unknown, not believed, given."""

import shutil

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from drawn_release import NATIVE, SPACING

from cases import find_cases
from dataset import load_cases
from frames import NativeFrames, NetworkFrames, with_spacing
from geometry import nearest_indices


def test_frames_of_unknown_pixel_size_are_compared_in_pixels_until_it_is_given(release, tmp_path, capsys):
    """Nothing is measured in mm that nobody measured: 1 x 1 mm is what is written where the size was not known."""
    shutil.copytree(release / "camus", tmp_path / "camus")
    shutil.copytree(release / "area", tmp_path / "area")
    table, size = tmp_path / "area" / "metadata.csv", ",".join(map(str, SPACING))
    text = table.read_text()
    table.write_text(text.replace(size, ","))
    cases = find_cases(str(tmp_path / "area"), "testing")
    known = NativeFrames(cases, tmp_path / "camus", 4)
    assert known.in_mm and known.unit == "mm" and known.spacing_mm(0) == pytest.approx(SPACING)
    path = tmp_path / "camus" / cases[0].source
    image = sitk.ReadImage(str(path))
    image.SetSpacing((1.0, 1.0))
    sitk.WriteImage(image, str(path))
    unknown, given = (NativeFrames(cases, tmp_path / "camus", 4, spacing) for spacing in ((), (0.5,)))
    assert not unknown.in_mm and unknown.unit == "px" and unknown.spacing_mm(0) is None
    assert f"{path}: pixels of 1 x 1 mm" in capsys.readouterr().err
    assert given.in_mm and given.spacing_mm(0) == (0.5, 0.5)

    table.write_text(text.replace(size, "1.0,1.0", 1).replace(size, "0.01,0.01", 1))
    cases = find_cases(str(tmp_path / "area"), "testing")
    assert [case.extent_mm is None for case in cases] == [True, True, *[False] * 6]
    assert "the size of the pixels of 2 frames is not believed" in capsys.readouterr().err
    assert with_spacing(cases[0], (0.5, 0.4)).extent_mm == (NATIVE[0] * 0.5, NATIVE[1] * 0.4)


@pytest.mark.parametrize("rule", ["nearest", "area"])
def test_pixels_of_the_network_are_as_far_apart_as_what_they_show(release, rule):
    """A ramp of native coordinates, extracted to 64 pixels by the rule and resized to 32: mean distance in mm of what
    neighbouring pixels show. The frame's length by the number of pixels is 1 % less with `nearest`.
    """
    case_set = load_cases(find_cases(str(release / rule), "testing"), 32, 4, 1)
    found = NetworkFrames(case_set).spacing_mm(0)
    for axis, (native, spacing) in enumerate(zip(NATIVE, SPACING, strict=True)):
        ramp = np.arange(native, dtype=np.float32)[None]
        copied = ramp[:, nearest_indices(native, 64)]
        small = copied if rule == "nearest" else cv2.resize(ramp, (64, 1), interpolation=cv2.INTER_AREA)
        seen = cv2.resize(small, (32, 1), interpolation=cv2.INTER_AREA)[0]
        assert found[axis] == pytest.approx(spacing * np.diff(seen).mean(), rel=5e-3)
        step = (native - 1) / 63 if rule == "nearest" else native / 64
        assert found[axis] == pytest.approx(2 * spacing * step, rel=1e-9)
    twice = NetworkFrames(case_set, (0.5, 0.4)).spacing_mm(0)
    assert twice == pytest.approx([mm * given / own for mm, given, own in zip(found, (0.5, 0.4), SPACING, strict=True)])


def test_a_pixel_size_given_at_the_extraction_holds(release, tmp_path, capsys):
    """extract_camus_data.py --spacing_mm writes it into metadata.csv; the files go on to say another."""
    shutil.copytree(release / "area", tmp_path / "area")
    table = tmp_path / "area" / "metadata.csv"
    table.write_text(table.read_text().replace(",".join(map(str, SPACING)), "0.5,0.4"))
    cases = find_cases(str(tmp_path / "area"), "testing")
    assert NativeFrames(cases, release / "camus", 4).spacing_mm(7) == pytest.approx((0.5, 0.4))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "of metadata.csv is taken for 8 frames whose files say another" in said
    assert "0.5 x 0.4 mm, not 0.6 x 0.7 mm" in said
    assert NativeFrames(cases, release / "camus", 4, (0.3,)).spacing_mm(7) == (0.3, 0.3)
    assert not capsys.readouterr().err


def test_a_pixel_size_of_frames_of_unknown_size_is_refused(judge, release, tmp_path, capsys):
    shutil.copytree(release / "area", tmp_path / "area")
    (tmp_path / "area" / "metadata.csv").unlink()
    maps = tmp_path / "area" / "annotations" / "testing"
    flags = ("--data-dir", tmp_path / "area", "--predictions", maps, "--output-dir", tmp_path / "o")
    assert judge(*flags, "--spacing-mm", 0.3) == 2
    said = capsys.readouterr().err
    assert "--spacing-mm is of a pixel of the frames as recorded" in said and "of 8 cases, patient0001_2CH_ED" in said

"""A label map lies as its image does, and frames lie alike, or it is told."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from extracting import extract, one

from alignment import check_same_place, in_plane, lie_otherwise
from command import UserError
from medical_images import read_medical_image
from medical_writing import write_medical_image


def flip(path: Path, lateral: bool) -> None:
    """Store the file the other way round along one axis: every pixel stays where it is in the patient."""
    image = sitk.ReadImage(str(path))
    axes = [lateral, not lateral, False][: image.GetDimension()]
    sitk.WriteImage(sitk.Flip(image, axes), str(path))


@pytest.mark.parametrize("kind", ["nifti", "mhd"])
@pytest.mark.parametrize("lateral", [True, False])
def test_a_label_stored_the_other_way_round_is_refused(run, release, tmp_path, kind, lateral):
    source = release(kind)
    label = one(source, "*_2CH_ED_gt.*h[da]" if kind == "mhd" else "*_2CH_ED_gt.nii.gz")
    before = read_medical_image(label).frames[0]
    flip(label, lateral)
    assert np.array_equal(read_medical_image(label).frames[0], before[:, ::-1] if lateral else before[::-1])
    refused = extract(run, source, tmp_path / "out")
    assert refused.code == 2 and f"and its label {label.name} lie otherwise" in refused.err
    assert ("(-1, 0) (0, 1)" if lateral else "(1, 0) (0, -1)") in refused.err
    without = extract(run, source, tmp_path / "out", "--skip_incomplete", "True")
    assert without.code == 0 and "1 patients left out" in without.out


def test_frames_that_lie_otherwise_than_the_rest_are_warned_of(run, release, tmp_path):
    source = release("nifti")
    image = one(source, "*_4CH_ES.nii.gz")
    for path in (image, image.with_name(image.name.replace("_ES", "_ES_gt"))):
        flip(path, lateral=False)
    outcome = extract(run, source, tmp_path / "out")
    assert outcome.code == 0 and outcome.err.count("lie otherwise") == 1
    told = f"1 frames lie otherwise than the other 39, as {image} ((1, 0) (0, -1) instead of (1, 0) (0, 1)"
    assert told in outcome.err


def written(path: Path, spacing_mm: tuple[float, float], **geometry):
    write_medical_image(path, np.zeros((400, 300), np.uint8), spacing_mm)
    image = sitk.ReadImage(str(path))
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    sitk.WriteImage(image, str(path))
    return read_medical_image(path)


def test_sizes_of_pixels_that_disagree_are_told_and_rounding_is_not(tmp_path):
    image = written(tmp_path / "a.nii.gz", (0.3, 0.4))
    assert check_same_place(image, written(tmp_path / "b.nii.gz", (0.3001, 0.4))) is None
    told = check_same_place(image, written(tmp_path / "c.nii.gz", (0.5, 0.4)))
    assert "has pixels of 0.3 x 0.4 mm, its label c.nii.gz of 0.5 x 0.4: the image's are taken" in told
    assert check_same_place(image, written(tmp_path / "d.nii.gz", (1, 1))) is None  # of those that do not say
    assert check_same_place(image, None) is None and in_plane(None) is None


def test_a_single_slice_counts_by_its_plane_and_small_angles_do_not(tmp_path):
    flat = written(tmp_path / "flat.mha", (0.3, 0.4))
    slice_path = tmp_path / "slice.mha"
    sitk.WriteImage(sitk.JoinSeries(sitk.ReadImage(str(tmp_path / "flat.mha"))), str(slice_path))
    assert in_plane(read_medical_image(slice_path)) == in_plane(flat) == (1, 0, 0, 1)
    cosine, sine = np.cos(1e-5), np.sin(1e-5)
    turned = written(tmp_path / "turned.mha", (0.3, 0.4), Direction=(cosine, -sine, sine, cosine))
    assert in_plane(turned) == (1, 0, 0, 1)
    quarter = written(tmp_path / "quarter.mha", (0.3, 0.4), Direction=(0, -1, 1, 0))
    with pytest.raises(UserError, match=r"lateral and depth axis \(1, 0\) \(0, 1\) and \(0, 1\) \(-1, 0\)"):
        check_same_place(flat, quarter)
    frames = [(Path("a"), in_plane(flat)), (Path("b"), in_plane(turned)), (Path("c"), None)]
    assert lie_otherwise(frames) == [] and len(lie_otherwise([*frames, (Path("d"), in_plane(quarter))])) == 1

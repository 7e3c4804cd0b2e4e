"""MHD and NIfTI files: axis order, geometry there and back, and files that are not whole."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from command import UserError
from label_writing import write_like
from medical_images import is_medical_image, read_frame, read_medical_image, without_suffix


def write(path, array, spacing):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin([3.0, -7.0, 2.0][: image.GetDimension()])
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mhd", ".mha"])
@pytest.mark.parametrize(("shape", "spacing"), [((40, 30), (3.0, 1.5)), ((5, 40, 30), (3.0, 1.5, 20.0))])
def test_labels_come_back_in_the_geometry_of_their_frame(tmp_path, suffix, shape, spacing):
    rng = np.random.default_rng(0)
    write(tmp_path / f"a{suffix}", rng.integers(0, 256, shape).astype(np.uint8), spacing)
    image = read_medical_image(tmp_path / f"a{suffix}")
    assert image.pixels.shape == shape
    assert image.frames.shape[-2:] == (40, 30)
    assert image.spacing_mm == pytest.approx((1.5, 3.0))
    labels = rng.integers(0, 4, image.frames.shape).astype(np.uint8)
    write_like(tmp_path / "b.nii.gz", labels, image)
    back, source = (sitk.ReadImage(str(tmp_path / name)) for name in ("b.nii.gz", f"a{suffix}"))
    assert np.array_equal(sitk.GetArrayFromImage(back).reshape(labels.shape), labels)
    assert back.GetSize() == source.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(back, name)() == pytest.approx(getattr(source, name)(), rel=1e-6), name
    assert {file.name for file in tmp_path.iterdir()} <= {"b.nii.gz", f"a{suffix}", "a.raw"}


def test_rows_are_the_depth_of_real_frames(camus):
    """The same frame in both releases: the MHD file has twice the pixels in depth, and the cone's tip is on top."""
    name = "patient0001/patient0001_4CH_ED"
    mhd = read_frame(camus / "mhd" / "training" / f"{name}.mhd")
    nifti = read_frame(camus / "native_4CH" / "database_nifti" / f"{name}.nii.gz")
    assert mhd.frames[0].shape == (2 * nifti.frames[0].shape[0], nifti.frames[0].shape[1]) == (778, 549)
    assert mhd.spacing_mm == pytest.approx((0.154, 0.308))
    widths = (nifti.frames[0] > 0).sum(1)
    assert widths[:40].max() < widths[-160:-120].min()


def test_files_that_are_not_whole(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 40, 30)).astype(np.uint8)
    for name in ("a.nii", "a.nii.gz", "b.nii.gz", "a.mhd"):
        write(tmp_path / name, array, (1.0, 1.0, 1.0))
    whole = (tmp_path / "a.nii").read_bytes()
    for name in ("a.nii", "a.nii.gz", "a.raw"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:3000]))
    for name, told in {"a.mhd": "a.raw"}.items() | {(n, n) for n in ("a.nii", "a.nii.gz", "b.nii.gz", "none.nii")}:
        with pytest.raises(UserError, match=told):
            read_medical_image(tmp_path / name)


def test_what_is_no_frame(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 3), np.uint8), isVector=True), str(tmp_path / "rgb.nii.gz"))
    write(tmp_path / "half.nii.gz", np.full((8, 8), 0.5, np.float32), (1.0, 1.0))
    write(tmp_path / "minus.nii.gz", np.full((8, 8), -1, np.int16), (1.0, 1.0))
    write(tmp_path / "two.nii.gz", np.zeros((2, 8, 8), np.uint8), (1.0, 1.0, 1.0))
    for name, message in (("rgb", "neither a grey"), ("half", "no whole numbers"), ("minus", "no whole numbers")):
        with pytest.raises(UserError, match=message):
            read_medical_image(tmp_path / f"{name}.nii.gz")
    with pytest.raises(UserError, match="holds 2 frames; expected is a single one"):
        read_frame(tmp_path / "two.nii.gz")


def test_names(tmp_path):
    assert [without_suffix(tmp_path / name) for name in ("a.b.nii.gz", "a.mhd", "a.png")] == ["a.b", "a", "a"]
    assert is_medical_image(tmp_path / "A.NII.GZ") and not is_medical_image(tmp_path / "a.png")

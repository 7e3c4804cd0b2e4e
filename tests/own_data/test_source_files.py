"""Files of people's own: each kind gives the same pixels and spacing, and what is no picture of one is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from made_up_sets import draw_head

from command import UserError
from medical_writing import write_medical_image
from source_files import read_dicom, read_source_image, read_source_label
from view_folders import read_metadata


def write(path: Path, pixels: np.ndarray, compressor: str = "", **keys: str) -> Path:
    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3 and pixels.shape[-1] == 3)
    if image.GetDimension() == 2:
        image.SetSpacing((0.5, 0.25))
    for key, value in keys.items():
        image.SetMetaData(key.replace("_", "|")[1:], value)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(bool(compressor))
    if compressor:
        writer.SetCompressor(compressor)
    writer.Execute(image)
    return path


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    return draw_head(160, np.random.default_rng(3))


@pytest.mark.parametrize("ending", [".png", ".nii.gz", ".nii", ".mhd", ".mha", ".dcm", ".DICOM"])
def test_each_kind_of_file_gives_the_same_pixels(head, tmp_path, ending):
    path = tmp_path / f"x{ending}"
    for pixels, read in ((head[0], read_source_image), (head[1], read_source_label)):
        if ending == ".png":
            cv2.imwrite(str(path), pixels)
        else:
            write(path.with_suffix(".dcm") if ending == ".DICOM" else path, pixels)
        if ending == ".DICOM":
            path.with_suffix(".dcm").rename(path)
        assert np.array_equal(read(path).pixels, pixels)
    assert read_source_image(path).spacing_mm == (None if ending == ".png" else (0.25, 0.5))


def test_dicom_of_equal_channels_and_compressed_without_loss(head, tmp_path):
    image, label = head
    three = write(tmp_path / "rgb.dcm", np.repeat(image[..., None], 3, axis=2))
    assert np.array_equal(read_source_image(three).pixels, image)
    for compressor in ("JPEG", "JPEG2000"):
        path = write(tmp_path / f"{compressor}.dcm", label, compressor)
        assert np.array_equal(read_source_label(path).pixels, label)


def test_dicom_that_is_refused(head, tmp_path):
    image, label = head
    colour = np.repeat(image[..., None], 3, axis=2)
    colour[..., 0] //= 2
    wrong = {
        "colour": write(tmp_path / "colour.dcm", colour),
        "no whole numbers from 0 to 255": write(tmp_path / "deep.dcm", image.astype(np.uint16) * 100),
        "holds 3 frames": write(tmp_path / "frames.dcm", np.stack([image] * 3)),
        "DICM": tmp_path / "text.dcm",
        "MONOCHROME1": tmp_path / "negative.dcm",
    }
    wrong["DICM"].write_bytes(b"no dicom" * 100)
    whole = write(tmp_path / "whole.dcm", label).read_bytes()
    wrong["MONOCHROME1"].write_bytes(whole.replace(b"MONOCHROME2", b"MONOCHROME1"))
    for part in (len(whole) - 1, len(whole) // 2, 300, 140):
        cut = tmp_path / f"cut{part}.dcm"
        cut.write_bytes(whole[:part])
        with pytest.raises(UserError) as caught:
            read_dicom(cut)
        assert str(cut) in str(caught.value) and "\n" not in str(caught.value)
    for message, path in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            read_source_image(path)
        assert "\n" not in str(caught.value)
    lossy = write(tmp_path / "lossy.dcm", label, _0028_2110="01")
    assert read_source_image(lossy).pixels.shape == label.shape
    with pytest.raises(UserError, match="compressed with loss"):
        read_source_label(lossy)


def test_spacing_comes_from_the_file_else_from_the_description(heads, extract_heads, tmp_path):
    image, label = draw_head(200, np.random.default_rng(1))
    for kind, pixels in (("pictures", image), ("maps", label)):
        (heads / kind / "HC_0040 (left).png").unlink()
        write(heads / kind / "HC_0040 (left).nii.gz", pixels)
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace("HC_0040 (left).png", "HC_0040 (left)"))
    assert extract_heads().code == 0
    rows = read_metadata(tmp_path / "views" / "all_views")
    spacing = {stem: (row["spacing_depth_mm"], row["spacing_lateral_mm"]) for stem, row in rows.items()}
    assert spacing.pop("HC_0040 (left)") == ("0.25", "0.5") and set(spacing.values()) == {("1.5", "1.5")}


@pytest.mark.parametrize(("size", "told"), [((0.1, 0.1), True), ((1, 1), False)])
def test_a_size_that_is_not_believed_is_told_where_the_description_stands_in(
    heads, extract_heads, tmp_path, size, told
):
    """Of 0.1 mm these pictures would be 2 cm wide; 1 x 1 is what a file has that does not say."""
    image, label = draw_head(200, np.random.default_rng(1))
    for kind, pixels in (("pictures", image), ("maps", label)):
        (heads / kind / "HC_0040 (left).png").unlink()
        write_medical_image(heads / kind / "HC_0040 (left).nii.gz", pixels, size)
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace("HC_0040 (left).png", "HC_0040 (left)"))
    outcome = extract_heads()
    assert outcome.code == 0
    assert read_metadata(tmp_path / "views/all_views")["HC_0040 (left)"]["spacing_depth_mm"] == "1.5"
    assert ("pixels of 0.1 x 0.1 mm" in outcome.err) == told
    assert ("and 1.5 x 1.5 mm of the description taken instead" in outcome.err) == told

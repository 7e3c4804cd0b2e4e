"""extract_camus_data: both releases, at every size, as they are and as other tools save them."""

import gzip
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from extracting import extract, one

from camus import METADATA_COLUMNS, PHANTOMS, VIEW_NAMES, find_release
from medical_images import read_medical_image
from medical_writing import write_medical_image
from names import ALL_VIEWS
from resizing import nearest_indices, resize_image_area, resize_label_area
from view_folders import read_image, read_metadata


@pytest.mark.parametrize(("size", "new"), [(549, 256), (778, 256), (224, 256), (256, 256), (100, 7)])
def test_nearest_rule(size, new):
    expected = [int(k * ((size - 1) / (new - 1))) for k in range(new)]
    assert nearest_indices(size, new).tolist() == expected


def test_layout_and_metadata(releases, extracted):
    splits = {split: set() for split in ("training", "validation", "testing")}
    for split, patient in find_release(releases["nifti"]).people:
        splits[split].add(patient)
    everything = {}
    for view in VIEW_NAMES:
        for split, people in splits.items():
            names = {f"{patient}_{view}_{split}.png" for patient in people}
            for kind in ("images", "annotations"):
                files = {path.name: path.read_bytes() for path in (extracted / view / kind / split).iterdir()}
                assert set(files) == names
                everything |= {(kind, split, name): data for name, data in files.items()}
        rows = read_metadata(extracted / view)
        assert {row["view"] for row in rows.values()} == {view} and len(rows) == 10
    found = {path.parts[-3:]: path.read_bytes() for path in (extracted / ALL_VIEWS).rglob("*.png")}
    assert found == everything
    row = read_metadata(extracted / ALL_VIEWS)[one(extracted / ALL_VIEWS, "*4CH_ES_testing.png").stem]
    assert tuple(row) == METADATA_COLUMNS
    native = read_medical_image(releases["nifti"] / row["source"])
    assert (int(row["native_height"]), int(row["native_width"])) == native.pixels.shape
    assert float(row["spacing_depth_mm"]) == pytest.approx(native.spacing_mm[0], abs=1e-5)
    assert float(row["spacing_lateral_mm"]) == pytest.approx(native.spacing_mm[1], abs=1e-5)
    assert row["image_interpolation"] == "nearest"
    assert row["phase"] == "ES" and row["image_quality"] in ("Good", "Medium", "Poor")
    assert float(row["ef"]) == pytest.approx(100 * (1 - float(row["esv_ml"]) / float(row["edv_ml"])), abs=0.3)


def test_pixels_are_the_nearest_ones(releases, extracted):
    row = next(iter(read_metadata(extracted / "2CH_ED").values()))
    source = releases["nifti"] / row["source"]
    for kind, path in (("images", source), ("annotations", source.with_name(source.name.replace(".nii", "_gt.nii")))):
        native = read_medical_image(path).pixels
        small = read_image(extracted / "2CH_ED" / kind / row["split"] / f"{row['stem']}.png")
        height, width = native.shape
        for k in (0, 17, 40, 63):
            for m in (0, 5, 33, 63):
                assert small[k, m] == native[int(k * ((height - 1) / 63)), int(m * ((width - 1) / 63))]


def test_both_releases_give_the_same_frames(run, releases, extracted, tmp_path):
    """The phantoms are the same people; the MHD release numbers them anew, by split."""
    outcome = extract(run, releases["mhd"], tmp_path / "out", "--save_img_size", 64)
    assert (
        outcome.code == 0
        and "mhd release: 40 frames of 10 patients (8 training, 1 validation, 1 testing)" in outcome.out
    )
    for split in ("training", "validation", "testing"):
        content = [
            {path.read_bytes() for path in (root / ALL_VIEWS / "images" / split).iterdir()}
            for root in (extracted, tmp_path / "out")
        ]
        assert content[0] == content[1] and content[0]
    people = {
        row["patient"] for row in read_metadata(tmp_path / "out" / "2CH_ED").values() if row["split"] != "training"
    }
    assert people == {"patient0001"}, "training/patient0001 and testing/patient0001 are two people"
    assert (tmp_path / "out/2CH_ED/images/testing/patient0001_2CH_ED_testing.png").exists()
    assert (tmp_path / "out/2CH_ED/images/validation/patient0001_2CH_ED_validation.png").exists()


def test_workers_change_nothing(run, releases, extracted, tmp_path, tree):
    out = tmp_path / "out"
    assert extract(run, releases["nifti"], out, "--save_img_size", 64, 64, "--num_workers", 2).code == 0
    assert tree(out) == tree(extracted)


def test_some_views_and_a_rectangular_size(run, releases, tmp_path):
    flags = ("--view_names", "4CH_ES", "2CH_ED", "--save_img_size", 48, 80)
    assert extract(run, releases["nifti"], tmp_path / "out", *flags).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2CH_ED", "4CH_ES", ALL_VIEWS]
    assert read_image(one(tmp_path / "out", "*.png")).shape == (48, 80)


def test_area_interpolation_averages(run, release, tmp_path):
    source = release("nifti")
    path = one(source, "patient0001_2CH_ED.nii.gz")
    stripes = np.zeros_like(read_medical_image(path).pixels)
    stripes[::2] = 200
    write_medical_image(path, stripes, (0.4, 0.4))
    flags = ("--image_interpolation", "area", "--view_names", "2CH_ED", "--save_img_size", 48, 64)
    assert extract(run, source, tmp_path / "out", *flags).code == 0
    image = read_image(one(tmp_path / "out/2CH_ED/images", "patient0001*.png"))
    assert (image == 100).all(), "96 rows to 48: every pixel is the mean of a bright and a dark row"
    native = read_medical_image(path.with_name("patient0001_2CH_ED_gt.nii.gz")).pixels
    label = read_image(one(tmp_path / "out/2CH_ED/annotations", "patient0001*.png"))
    assert np.array_equal(label, resize_label_area(native, 48, 64)), "the commonest class, as in the tests below"
    rows = read_metadata(tmp_path / "out/2CH_ED")
    assert {row["image_interpolation"] for row in rows.values()} == {"area"}


def test_no_class_grows_where_half_the_size_leaves_equal_shares():
    """Discs between pixels in a ring in a background, at half the size: areas stay, on average over their places."""
    rng, areas = np.random.default_rng(0), []
    rows, columns = np.indices((128, 128))
    for _ in range(200):
        centre, radius = rng.uniform(50, 78, 2), rng.uniform(10, 30)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        label = np.where(distance < radius, 1, np.where(distance < radius + 8, 2, 0)).astype(np.uint8)
        half = resize_label_area(label, 64, 64)
        areas.append([4 * (half == value).sum() / (label == value).sum() for value in (1, 2)])
    assert (np.abs(np.mean(areas, axis=0) - 1) < (0.01, 0.035)).all()  # the ring has pixels that three classes share


def test_an_axis_that_shrinks_is_averaged_though_the_other_grows():
    stripes = np.zeros((96, 24), np.uint8)
    stripes[::2] = 200
    assert (resize_image_area(stripes, 48, 48) == 100).all()
    assert (resize_image_area(stripes.T.copy(), 48, 48) == 100).all()


@pytest.mark.parametrize(("size", "new"), [(549, 128), (778, 256), (224, 128), (224, 112), (256, 64), (96, 128)])
def test_area_labels_lie_where_area_images_do(size, new):
    """A border at e of `size` pixels is one at e * new / size: seen in the image to 0.01, in the label to half a pixel,
    on average over all positions to a twentieth."""
    wrong = []
    for edge in range(size // 8, size - size // 8, 1 + 2 * (size > 500)):
        for inner in (0, 2):
            label = np.full((size, size), 2 - inner, np.uint8)
            label[:edge, :edge] = inner
            image = resize_image_area(100 * label, new, new) / 200.0
            small = resize_label_area(label, new, new)
            assert set(np.unique(small)) == {0, 2}
            for axis in (0, 1):
                bright = (image if inner else 1 - image).sum(axis=axis)[0]
                assert bright == pytest.approx(edge * new / size, abs=0.01)
                wrong.append((small == inner).sum(axis=axis)[0] - edge * new / size)
    assert np.abs(wrong).max() <= 0.5 + 1e-6 and abs(np.mean(wrong)) < 0.05


def test_an_area_label_is_the_commonest_class(extracted):
    """Against counting in whole numbers: 64 x 64 to 48 x 40 on a grid that both divide, 192 x 320."""
    for path in (extracted / ALL_VIEWS / "annotations/training").iterdir():
        label = read_image(path)
        blocks = label.repeat(3, axis=0).repeat(5, axis=1).reshape(48, 4, 40, 8)
        counts = np.stack([(blocks == value).sum(axis=(1, 3)) for value in range(4)])
        chosen = np.take_along_axis(counts, resize_label_area(label, 48, 40)[None].astype(int), axis=0)[0]
        assert np.array_equal(chosen, counts.max(axis=0))


@pytest.mark.parametrize("kind", ["compressed mhd", "nifti with one slice"])
def test_other_ways_to_store_a_frame(run, releases, release, tmp_path, tree, kind):
    source = release(kind.split()[-1] if kind.endswith("mhd") else "nifti")
    reference = releases[source.name.removeprefix("camus_")]
    for path in [*source.rglob("*.mhd"), *source.rglob("*.nii.gz")]:
        image = sitk.ReadImage(str(path))
        if kind.endswith("mhd"):
            path.with_suffix(".raw").unlink()
            sitk.WriteImage(image, str(path), useCompression=True)
            assert path.with_suffix(".zraw").exists()
        else:
            sitk.WriteImage(sitk.JoinSeries(image), str(path))
    for root, out in ((source, "a"), (reference, "b")):
        assert extract(run, root, tmp_path / out, "--save_img_size", 64).code == 0
    images = [{k: v for k, v in tree(tmp_path / out).items() if k.endswith(".png")} for out in "ab"]
    assert images[0] == images[1]


def test_a_size_of_pixels_that_is_not_believed_is_left_out_told_and_can_be_given(run, release, tmp_path):
    source = release("nifti")
    frame = one(source, "patient0001_2CH_ED.nii.gz")
    write_medical_image(frame, read_medical_image(frame).pixels, (1.0, 1.0))
    flags = ("--view_names", "2CH_ED", "--save_img_size", 32)
    outcome = extract(run, source, tmp_path / "out", *flags)
    assert outcome.code == 0 and f"{frame}: pixels of 1 x 1 mm" in outcome.err and "--spacing_mm" in outcome.err
    rows = read_metadata(tmp_path / "out/2CH_ED").values()
    assert [row["patient"] for row in rows if not row["spacing_depth_mm"]] == ["patient0001"]
    outcome = extract(run, source, tmp_path / "by hand", *flags, "--spacing_mm", 0.5, 0.4)
    assert outcome.code == 0 and "not believed" not in outcome.err
    rows = read_metadata(tmp_path / "by hand/2CH_ED").values()
    assert {(row["spacing_depth_mm"], row["spacing_lateral_mm"]) for row in rows} == {("0.5", "0.4")}
    assert extract(run, source, tmp_path / "tiny", *flags, "--spacing_mm", 1e-7).code == 0
    assert {row["spacing_depth_mm"] for row in read_metadata(tmp_path / "tiny/2CH_ED").values()} == {"1e-07"}


def test_numbers_of_info_files_are_read_or_left_empty_at_extraction(run, release, tmp_path):
    source = release("nifti")
    for number, text in ((1, "EF: 53,3 %"), (2, "EF: N/A"), (3, "EF: 533\nLVedv: 100001")):
        (source / f"database_nifti/patient{number:04d}/Info_2CH.cfg").write_text(f"ImageQuality: Good\n{text}\n")
    outcome = extract(run, source, tmp_path / "out", "--view_names", "2CH_ED", "2CH_ES", "--save_img_size", 32)
    assert outcome.code == 0 and outcome.err.count("ef is 'N/A', not a number above 0 and at most 100: left empty") == 1
    known = {row["patient"]: row["ef"] for row in read_metadata(tmp_path / "out/2CH_ED").values()}
    assert (known["patient0001"], known["patient0002"], known["patient0003"]) == ("53.3", "", "")
    assert outcome.err.count("edv_ml is '100001', not a number above 0 and at most 100000: left empty") == 1


def test_what_is_extracted_from_phantoms_is_marked_as_such(run, release, extracted, tmp_path):
    assert all((extracted / name / PHANTOMS).is_file() for name in (*VIEW_NAMES, ALL_VIEWS))
    source, flags = release("mhd"), ("--view_names", "2CH_ED", "--save_img_size", 32)
    assert extract(run, source, tmp_path / "out", *flags).code == 0
    assert (tmp_path / "out" / "2CH_ED" / PHANTOMS).is_file()
    (source / "testing" / PHANTOMS).unlink()  # half of it may be real
    assert extract(run, source, tmp_path / "other", *flags).code == 0
    assert not list((tmp_path / "other").rglob(PHANTOMS))


def test_releases_as_other_tools_save_them(run, releases, extracted, tmp_path, tree):
    """Plain .nii, plain files named .nii.gz, suffixes in capitals, lists from a spreadsheet, the folder above."""
    source = shutil.copytree(releases["nifti"], tmp_path / "above" / "camus")
    for number, path in enumerate(sorted(source.rglob("*.nii.gz"))):
        content = path.read_bytes()
        path.unlink()
        name = path.name.removesuffix(".nii.gz")
        if number % 3 == 0:
            (path.parent / f"{name}.nii").write_bytes(gzip.decompress(content))
        elif number % 3 == 1:
            (path.parent / f"{name}.nii.gz").write_bytes(gzip.decompress(content))
        else:
            (path.parent / f"{name}.NII.GZ").write_bytes(content)
    for path in (source / "database_split").iterdir():
        path.write_bytes(path.read_text().replace("\n", ";\r\n").encode("utf-16"))
    outcome = extract(run, source.parent, tmp_path / "out", "--save_img_size", 64)
    assert outcome.code == 0 and f"{source} is taken" in outcome.err
    made, expected = tree(tmp_path / "out"), tree(extracted)
    assert {k: v for k, v in made.items() if k.endswith(".png")} == {k: v for k, v in expected.items() if ".png" in k}

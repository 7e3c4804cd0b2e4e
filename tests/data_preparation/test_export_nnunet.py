"""export_nnunet: what nnU-Net's own checks say of the data set, geometry, splits, and unusable input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from dataset_description import parse_description
from export_nnunet import label_names, spacing_of
from medical_images import read_medical_image
from names import parse_stem
from view_folders import METADATA, encode_png, read_image, read_metadata

NAME = "Dataset501_Echo"


def export(run, view, out, *flags):
    return run("export_nnunet", "--data_folder", view, "--save_folder", out, *flags)


def cases(folder: Path) -> set[str]:
    return {path.name.removesuffix(".nii.gz") for path in folder.iterdir()}


@pytest.fixture
def synthetic(run, extracted, augmented, tmp_path) -> Path:
    """A view folder of synthetic training and validation frames (noise) and real test frames."""
    results = tmp_path / "results"
    labels = sorted((augmented / "4CH_ED_augmented/sector_annotations").rglob("*.png"))
    for kind in ("samples", "labels"):
        (results / kind).mkdir(parents=True)
    for seed, path in enumerate(labels):
        shutil.copy(path, results / "labels" / path.name)
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
        (results / "samples" / path.name).write_bytes(encode_png(noise))
    paths = ("--testing_data_folder", extracted, "--sdm_results_folder", results, "--save_folder", tmp_path / "made")
    assert run("prepare_inference4segmentation", *paths, "--labels", "cone").code == 0
    return tmp_path / "made/4CH_ED"


@pytest.fixture
def view(extracted, tmp_path) -> Path:
    """A copy of one extracted view folder, to be damaged."""
    return Path(shutil.copytree(extracted / "2CH_ED", tmp_path / "2CH_ED"))


def test_real_frames_pass_nnunets_own_check(run, extracted, tmp_path):
    out = tmp_path / "raw" / NAME
    outcome = export(run, extracted / "all_views", out)
    assert outcome.code == 0 and "32 training, 4 validation, 4 testing frames" in outcome.out
    verify_dataset_integrity(str(out), num_processes=1)
    label = sorted((out / "labelsTr").iterdir())[0]
    wrong = sitk.ReadImage(str(label))
    wrong[5, 5] = 7
    sitk.WriteImage(wrong, str(label))
    with pytest.raises(RuntimeError, match="unexpected labels"):
        verify_dataset_integrity(str(out), num_processes=1)


def test_synthetic_frames_pass_nnunets_own_check(run, synthetic, tmp_path):
    out = tmp_path / "raw" / NAME
    outcome = export(run, synthetic, out)
    assert outcome.code == 0 and "16 training, 2 validation, 1 testing frames" in outcome.out
    verify_dataset_integrity(str(out), num_processes=1)
    assert all(case.endswith(("_0", "_1")) for case in cases(out / "labelsTr"))


@pytest.mark.parametrize("rule", ["nearest", "area"])
def test_every_frame_is_there_with_its_pixels_and_their_size(run, releases, extracted, tmp_path, rule):
    """As nnU-Net's reader sees them. By area the image is as long in mm as the native frame, along each axis; by the
    published rule its first and last pixel are copies of the first and last, and as far from one another.
    """
    out, view = tmp_path / NAME, extracted / "all_views"
    if rule == "area":
        view = tmp_path / "area" / "2CH_ED"
        flags = ("--save_folder_path", view.parent, "--view_names", "2CH_ED", "--save_img_size", 64, 48)
        camus = ("--camus_data_folder", releases["nifti"], "--image_interpolation", "area")
        assert run("extract_camus_data", *camus, *flags).code == 0
    assert export(run, view, out).code == 0
    reader = determine_reader_writer_from_dataset_json(json.loads((out / "dataset.json").read_text()), verbose=False)()
    rows = read_metadata(view)
    seen = set()
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        assert cases(out / images) == {f"{case}_0000" for case in cases(out / labels)}
        for case in cases(out / labels):
            split = parse_stem(case).split
            assert (split == "testing") == (labels == "labelsTs")
            image, read = reader.read_images([str(out / images / f"{case}_0000.nii.gz")])
            label, _ = reader.read_seg(str(out / labels / f"{case}.nii.gz"))
            assert np.array_equal(image[0, 0], read_image(view / "images" / split / f"{case}.png"))
            assert np.array_equal(label[0, 0], read_image(view / "annotations" / split / f"{case}.png"))
            native = read_medical_image(releases["nifti"] / rows[case]["source"])
            less = 1 if rule == "nearest" else 0
            length = np.multiply(np.subtract(native.pixels.shape, less), native.spacing_mm)
            found = np.multiply(read["spacing"][1:], np.subtract(image.shape[2:], less))
            np.testing.assert_allclose(found, length, rtol=1e-4)
            seen.add(case)
    assert seen == set(rows)


def test_the_size_of_a_pixel_by_hand():
    """Of 301 x 200 native pixels 61 x 50; a row from before that does not say how is of a frame copied as published."""
    row = {"native_height": "301", "native_width": "200", "spacing_depth_mm": "0.3", "spacing_lateral_mm": "0.5"}
    nearest, area = (1.5, 0.5 * 199 / 49), (0.3 * 301 / 61, 2.0)
    for told, expected in (({}, nearest), ({"image_interpolation": ""}, nearest)):
        assert spacing_of(row | told, (61, 50)) == pytest.approx(expected)
    for rule, expected in (("nearest", nearest), ("area", area)):
        assert spacing_of(row | {"image_interpolation": rule}, (61, 50)) == pytest.approx(expected)


def test_the_split_is_ours_and_by_patient(run, extracted, tmp_path):
    out = tmp_path / NAME
    assert export(run, extracted / "2CH_ES", out).code == 0
    (fold,) = json.loads((out / "splits_final.json").read_text())
    assert set(fold) == {"train", "val"} and set(fold["train"]) | set(fold["val"]) == cases(out / "labelsTr")
    assert {parse_stem(case).split for case in fold["train"]} == {"training"} and len(fold["train"]) == 8
    assert {parse_stem(case).split for case in fold["val"]} == {"validation"} and len(fold["val"]) == 1


def test_planning_takes_the_split_over(run, extracted, tmp_path, monkeypatch):
    """nnU-Net's planner copies splits_final.json from the raw data to the preprocessed, where its trainer reads it."""
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planning

    out = tmp_path / "raw" / NAME
    assert export(run, extracted / "2CH_ES", out).code == 0
    (tmp_path / "preprocessed" / NAME).mkdir(parents=True)
    (tmp_path / "preprocessed" / NAME / "dataset_fingerprint.json").write_text("{}")
    monkeypatch.setattr(planning, "nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setattr(planning, "nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    planning.ExperimentPlanner(NAME)
    copied = tmp_path / "preprocessed" / NAME / "splits_final.json"
    assert json.loads(copied.read_text()) == json.loads((out / "splits_final.json").read_text())


def test_workers_change_nothing_and_output_is_replaced_as_a_whole(run, extracted, tmp_path, tree):
    first, second = tmp_path / "a" / NAME, tmp_path / "b" / NAME
    assert export(run, extracted / "4CH_ES", first, "--num_workers", 2).code == 0
    assert export(run, extracted / "4CH_ED", second).code == 0
    before = tree(second)
    refused = export(run, extracted / "4CH_ES", second)
    assert refused.code == 2 and f"already holds {NAME}" in refused.err and tree(second) == before
    assert export(run, extracted / "4CH_ES", second, "--overwrite", "True").code == 0
    pixels = [{path.name: read_medical_image(path) for path in root.rglob("*.nii.gz")} for root in (first, second)]
    assert set(pixels[0]) == set(pixels[1])
    for name, image in pixels[0].items():
        assert np.array_equal(image.pixels, pixels[1][name].pixels) and image.spacing_mm == pixels[1][name].spacing_mm
    assert (first / "dataset.json").read_bytes() == (second / "dataset.json").read_bytes()


def test_the_first_class_is_nnunets_background_whatever_it_is_called():
    names = ("tissue", "head", "Head ", "background")
    classes = [{"name": f"c{place}", "title": title} for place, title in enumerate(names)]
    description = {"name": "heads", "names": {"pattern": "(?P<patient>.+)"}, "classes": classes}
    found = label_names(parse_description(json.dumps(description).encode(), "a test"))
    assert found == {"background": 0, "head": 1, "Head_": 2, "background_3": 3}


def test_every_problem_is_listed(run, view, tmp_path):
    images = sorted((view / "images/training").iterdir())
    labels = sorted((view / "annotations/training").iterdir())
    images[0].write_bytes(b"")
    labels[1].unlink()
    labels[2].write_bytes(encode_png(np.full((64, 64), 4, np.uint8)))
    labels[3].write_bytes(encode_png(np.zeros((64, 60), np.uint8)))
    lines = (view / METADATA).read_text().splitlines()
    native = lines[0].split(",").index("native_height")
    for number, line in enumerate(lines):
        if images[4].stem in line:
            cells = line.split(",")
            cells[native] = ""
            lines[number] = ",".join(cells)
    lines = [line for line in lines if images[5].stem not in line]
    (view / METADATA).write_text("\n".join(lines) + "\n")
    own = next((view / "images/validation").iterdir())
    twin = images[6].name.replace("training", "validation")
    for kind in ("images", "annotations"):
        shutil.copy(view / kind / "validation" / own.name, view / kind / "validation" / twin)
    outcome = export(run, view, tmp_path / "raw" / NAME)
    assert outcome.code == 2 and outcome.err.count("error:") == 1 and "has 8 problems" in outcome.err
    for message in (
        f"{images[0]} is empty (0 bytes)",
        f"{images[1]} has no label map",
        f"{labels[2]} has label values outside 0-3: 4",
        f"{images[3]} is 64 x 64 pixels, its label {labels[3].name} 64 x 60",
        f"{images[4]}: metadata.csv does not say how large its pixels are",
        f"{images[5]}: metadata.csv does not say how large its pixels are",
        f"{view / 'images/validation' / twin}: metadata.csv does not say",
        f"{parse_stem(images[6].stem).patient} has frames in both training and validation",
    ):
        assert message in outcome.err, message
    assert not any((tmp_path / "raw").iterdir())


def test_no_validation_frames(run, view, tmp_path):
    for kind in ("images", "annotations"):
        shutil.rmtree(view / kind / "validation")
    outcome = export(run, view, tmp_path / "raw" / NAME)
    assert outcome.code == 2 and "there are no validation frames" in outcome.err


@pytest.mark.parametrize("name", ["Echo", "Dataset000_Echo", "Dataset51_Echo", "Dataset501", "Dataset1501_Echo"])
def test_a_name_that_nnunet_would_not_find(run, extracted, tmp_path, name):
    outcome = export(run, extracted / "2CH_ED", tmp_path / name)
    assert outcome.code == 2 and "nnU-Net wants a name like Dataset501_Echo" in outcome.err
    assert not (tmp_path / name).exists()


def test_no_single_view_folder(run, extracted, tmp_path, tree):
    outcome = export(run, extracted, tmp_path / NAME)
    assert outcome.code == 2 and "holds several view folders: give one of 2CH_ED, " in outcome.err
    assert "absent is not a folder" in export(run, tmp_path / "absent", tmp_path / NAME).err
    inside = Path(shutil.copytree(extracted, tmp_path / "other" / NAME))
    before = tree(inside)
    outcome = export(run, inside / "2CH_ED", inside, "--overwrite", "True")
    assert outcome.code == 2 and "would be replaced" in outcome.err and tree(inside) == before

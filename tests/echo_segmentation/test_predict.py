"""predict.py on files of every kind: what it writes, and in whose geometry."""

import csv
import hashlib
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from predicting import SIZES, SPACING, run, write_medical

from dataset import read_annotation, resize_annotation, resize_image
from ejection_fraction import biplane_volume_ml, ejection_fraction, measure_long_axis
from settings import PredictSettings


@pytest.fixture(scope="module")
def output(truth, trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    flags = ("--model-path", trained / "model.pth", "--gpu", "cpu", "--batch-size", 2)
    assert run(*flags, "--input", truth["folder"][0], "--output-dir", out) == 0
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def mean_dice(found: np.ndarray, expected: np.ndarray) -> float:
    return np.mean([2 * ((found == c) & (expected == c)).sum() / ((found == c).sum() + (expected == c).sum())
                    for c in (1, 2, 3)])  # fmt: skip


def test_label_maps_show_the_hearts_in_the_geometry_of_their_files(output, truth):
    files = {path.name: path for path in truth["folder"][0].rglob("*") if path.suffix in (".gz", ".mhd")}
    names = [name for name in truth if name not in ("folder", "anything")]
    assert {path.name for path in (output / "labels").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    for name in names:
        source = sitk.ReadImage(str(files.get(f"{name}.nii.gz") or files[f"{name}.mhd"]))
        written = sitk.ReadImage(str(output / "labels" / f"{name}.nii.gz"))
        assert written.GetSize() == source.GetSize()
        assert written.GetSpacing() == pytest.approx(source.GetSpacing())
        assert written.GetOrigin() == pytest.approx(source.GetOrigin())
        assert written.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-6)
        frames = sitk.GetArrayFromImage(written).reshape(-1, *truth[name][0].shape)
        for index, (frame, expected) in enumerate(zip(frames, truth[name], strict=True)):
            assert mean_dice(frame, expected) > 0.6
            number = f"_{index}" if len(frames) > 1 else ""
            assert np.array_equal(read_annotation(output / "labels" / f"{name}{number}.png"), frame)


def test_settings_are_recorded_with_the_checkpoint(output, truth, trained):
    found = json.loads((output / "settings.json").read_text())
    assert set(found) == {field.name for field in fields(PredictSettings)} | {"checkpoint_sha256"}
    assert found["checkpoint_sha256"] == hashlib.sha256((trained / "model.pth").read_bytes()).hexdigest()
    asked = {"input": [str(truth["folder"][0])], "batch_size": 2, "gpu": "cpu", "spacing_mm": [], "mean": None}
    assert {name: found[name] for name in asked} == asked


def test_a_png_gives_classes_in_colours_and_every_frame_an_overlay(output, truth):
    labels = Image.open(output / "labels" / "anything.png")
    assert mean_dice(np.asarray(labels), truth["anything"][0]) > 0.6
    colours = np.asarray(labels.convert("RGB"))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(np.unique(np.asarray(labels))) == 4
    assert (colours[np.asarray(labels) == 0] == 0).all()
    assert not (output / "labels" / "anything.nii.gz").exists()
    assert {path.name for path in (output / "overlays").iterdir()} == {
        p.name for p in (output / "labels").glob("*.png")
    }
    overlay = np.asarray(Image.open(output / "overlays" / "patient0001_2CH_half_sequence_0.png"))
    assert overlay.shape == (90, 120, 3)  # 90 x 0.3 mm deep, 90 x 0.4 mm wide, in pixels of 0.3 mm


@pytest.mark.parametrize(("spacing", "shape"), [((0.01, 10), (1, 400)), ((10, 0.01), (400, 1)), ((1, 3), (100, 300))])
def test_an_overlay_is_not_much_larger_than_its_frame(truth, trained, tmp_path, spacing, shape):
    frame = truth["folder"][0] / "anything.png"
    command = ("--model-path", trained / "model.pth", "--gpu", "cpu", "--input", frame, "--spacing-mm", *spacing)
    assert run(*command, "--output-dir", tmp_path / "o") == 0
    assert Image.open(tmp_path / "o" / "overlays" / "anything.png").size == shape[::-1]


def test_areas_volumes_and_ejection_fraction_are_those_of_the_written_label_maps(output):
    spacing, labels = SPACING[::-1], {}
    for view in SIZES:
        image = sitk.ReadImage(str(output / "labels" / f"patient0001_{view}_half_sequence.nii.gz"))
        labels[view] = sitk.GetArrayFromImage(image)
    rows = {(row["name"], row["frame"]): row for row in read_csv(output / "frames.csv")}
    assert len(rows) == 7
    area = (labels["2CH"][1] == 1).sum() * spacing[0] * spacing[1] / 100
    assert float(rows["patient0001_2CH_half_sequence", "1"]["cavity_area_cm2"]) == pytest.approx(area, rel=0.1)
    assert rows["anything", "0"]["cavity_area_cm2"] == ""
    (row,) = read_csv(output / "ejection_fraction.csv")
    assert (row["patient"], row["source"]) == ("patient0001", "sequence")
    assert (row["es_frame_2ch"], row["es_frame_4ch"]) == ("2", "1")
    frames = [{view: int(row[f"{phase}_frame_{view.lower()}"]) for view in SIZES} for phase in ("ed", "es")]
    volumes = [biplane_volume_ml(*(measure_long_axis(labels[v][f[v]], spacing) for v in SIZES)) for f in frames]
    assert [float(row["edv_ml"]), float(row["esv_ml"])] == pytest.approx(volumes)
    assert float(row["ef"]) == pytest.approx(ejection_fraction(*volumes))
    assert float(row["ef"]) > 10
    times = read_csv(output / "volumes.csv")
    assert [(time["frame_2ch"], time["frame_4ch"]) for time in times] == [("0", "0"), ("1", "0"), ("2", "1")]
    assert float(times[2]["volume_ml"]) == pytest.approx(volumes[1])
    assert np.asarray(Image.open(output / "figures" / "patient0001_sequence.png")).std() > 0
    assert not list(output.rglob(".*"))


def test_the_options_reach_the_network(truth, trained, output, tmp_path):
    """Averaged with the mirror image's, the label map of a mirrored image is the mirrored label map."""
    image = np.asarray(Image.open(truth["folder"][0] / "anything.png").convert("L"))[:96, :96]
    for name, pixels in (("here", image), ("there", image[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{name}.png")
    command = (
        "--model-path",
        trained / "model.pth",
        "--gpu",
        "cpu",
        "--input",
        tmp_path / "here.png",
        tmp_path / "there.png",
    )
    differ = {}
    for asked in (False, True):
        assert run(*command, "--test-time-augmentation", asked, "--output-dir", tmp_path / str(asked)) == 0
        here, there = (read_annotation(tmp_path / str(asked) / "labels" / f"{n}.png") for n in ("here", "there"))
        differ[asked] = (here != there[:, ::-1]).sum()
    assert differ[True] == 0 < differ[False]


def test_label_maps_are_those_that_test_model_evaluates(truth, trained, judge, tmp_path):
    """The same frames as a data folder, extracted by area: byte for byte the same, with the options too."""
    release, data = tmp_path / "release", tmp_path / "data"
    columns = ["stem", "patient", "view", "phase", "split", "source", "native_height", "native_width"]
    rows = [[*columns, "spacing_depth_mm", "spacing_lateral_mm", "image_interpolation"]]
    for kind in ("images", "annotations"):
        (data / kind / "testing").mkdir(parents=True)
    for view, size in SIZES.items():
        name = f"patient0001_{view}_ED"
        image = sitk.GetArrayFromImage(
            sitk.ReadImage(str(truth["folder"][0] / f"patient0001_{view}_half_sequence.nii.gz"))
        )
        label = truth[f"patient0001_{view}_half_sequence"][0]
        write_medical(release / f"{name}.nii.gz", [image[0]], flat=True)
        write_medical(release / f"{name}_gt.nii.gz", [label], flat=True)
        Image.fromarray(resize_image(image[0], 32)).save(data / "images" / "testing" / f"{name}_testing.png")
        Image.fromarray(resize_annotation(label, 32)).save(data / "annotations" / "testing" / f"{name}_testing.png")
        source = f"{name}.nii.gz", size, size, *SPACING[::-1], "area"
        rows.append([f"{name}_testing", "patient0001", view, "ED", "testing", *source])
    with open(data / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    command = [
        "--model-path",
        trained / "model.pth",
        "--gpu",
        "cpu",
        "--test-time-augmentation",
        "--remove-stray-parts",
    ]
    assert run(*command, "--input", release, "--output-dir", tmp_path / "predicted") == 0
    flags = ["--data-dir", data, "--native-dir", release, "--output-dir", tmp_path / "tested"]
    assert judge(*command, *flags) == 0
    for view in SIZES:
        files = [tmp_path / "predicted" / "labels", tmp_path / "tested" / "predictions_native"]
        one, other = (sitk.ReadImage(str(folder / f"patient0001_{view}_ED.nii.gz")) for folder in files)
        assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
        assert one.GetDirection() == other.GetDirection()


def test_without_a_believable_size_of_pixels_there_are_no_areas_until_it_is_given(truth, trained, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    image = sitk.ReadImage(str(truth["folder"][0] / "patient0001_2CH_half_sequence.nii.gz"))
    image.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(image, str(folder / "patient0001_2CH_half_sequence.nii.gz"))
    areas = {}
    for name, flags in {"unknown": (), "given": ("--spacing-mm", 0.6, 0.8)}.items():
        command = ("--model-path", trained / "model.pth", "--input", folder, "--output-dir", tmp_path / name, *flags)
        assert run(*command) == 0
        assert ("pixels of 1 x 1 mm" in capsys.readouterr().err) == (name == "unknown")
        areas[name] = [row["cavity_area_cm2"] for row in read_csv(tmp_path / name / "frames.csv")]
    assert set(areas["unknown"]) == {""} and min(map(float, areas["given"])) > 0

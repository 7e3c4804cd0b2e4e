"""Evaluation on the frames' own grid: against independent formulas, and on a release made of drawn hearts."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from drawn_release import NATIVE, SPACING
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as connected_parts
from scipy.spatial.distance import cdist

import inference
import predict
import prediction
import testing
from cases import Case
from checkpoint import load_weights, read_checkpoint
from command import UserError, run_command
from geometry import nearest_indices, one_hot, to_native
from model import build_network
from predictions import find_predictions
from settings import PredictSettings


def read_metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return {row["stem"]: row for row in csv.DictReader(file)}


def read_labels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_network_is_evaluated_by_its_probabilities_on_the_native_grid(judge, trained, release, tmp_path):
    """Against the steps done by hand: probabilities by cv2's linear resize (the same pixel centres), argmax, distances
    by brute force in mm. The enlarged label map would be another one.
    """
    flags = ("--data-dir", release / "area", "--model-path", trained / "model.pth", "--gpu", "cpu")
    assert judge(*flags, "--native-dir", release / "camus", "--output-dir", tmp_path, "--test-viz-num", 2) == 0
    checkpoint = read_checkpoint(trained / "model.pth")
    network = build_network(checkpoint.architecture)
    load_weights(network, checkpoint, trained / "model.pth")
    network.eval()
    rows, differ = read_metrics(tmp_path), 0
    assert len(rows) == len(list((tmp_path / "predictions_native").iterdir())) == 8
    for stem, row in rows.items():
        image = np.asarray(Image.open(release / "area" / "images" / "testing" / f"{stem}.png"))
        image = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        with torch.inference_mode():
            grey = torch.from_numpy((image - checkpoint.description["mean"]) / checkpoint.description["std"])
            probabilities = network(grey[None, None]).softmax(1)[0].numpy()
        expected = cv2.resize(probabilities.transpose(1, 2, 0), NATIVE[::-1], interpolation=cv2.INTER_LINEAR).argmax(2)
        name = stem.removesuffix("_testing")
        written = sitk.ReadImage(str(tmp_path / "predictions_native" / f"{name}.nii.gz"))
        source = release / "camus" / "database_nifti" / name.split("_")[0] / f"{name}.nii.gz"
        assert written.GetSpacing() == pytest.approx(SPACING[::-1])
        assert written.GetOrigin() == sitk.ReadImage(str(source)).GetOrigin()
        predicted = sitk.GetArrayFromImage(written)
        assert (predicted != expected).mean() < 2e-4  # rounding, at ties
        small = np.asarray(Image.open(tmp_path / "predictions" / f"{stem}.png"))
        differ += (cv2.resize(small, NATIVE[::-1], interpolation=cv2.INTER_NEAREST) != expected).mean()
        masks = [found == 3 for found in (predicted, read_labels(str(source).replace(".nii", "_gt.nii")))]
        edges = [np.argwhere(mask & ~binary_erosion(mask)) * SPACING for mask in masks]
        distances = cdist(*edges)
        there, back = distances.min(1), distances.min(0)
        assert (row["unit"], row["grid"]) == ("mm", "200x150")
        assert float(row["la_hd"]) == pytest.approx(max(there.max(), back.max()), rel=1e-5)
        assert float(row["la_msd"]) == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
        assert float(row["la_dice"]) == pytest.approx(2 * (masks[0] & masks[1]).sum() / sum(m.sum() for m in masks))
    assert differ / 8 > 0.01
    assert {file.name for file in (tmp_path / "figures").iterdir()} >= {"dice.png", "overlays.png"}


class Patches(torch.nn.Module):
    """A network that sees patches of all classes, whatever the image shows."""

    def forward(self, grey):
        noise = torch.randn(1, 4, *grey.shape[2:], generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).mul(8).expand(len(grey), -1, -1, -1)


def most_parts(labels: np.ndarray) -> int:
    return max(connected_parts(labels == value)[1] for value in (1, 2, 3))


def test_stray_parts_are_removed_on_the_grid_that_is_written_and_measured(
    judge, trained, release, tmp_path, monkeypatch
):
    """Patches that are linked by a corner at the network's size come apart where probabilities are interpolated."""
    monkeypatch.setattr(testing, "load_network", lambda *_: Patches())
    monkeypatch.setattr(prediction, "load_network", lambda *_: Patches())
    flags = ["--model-path", trained / "model.pth", "--gpu", "cpu"]
    data = ["--data-dir", release / "nearest", "--native-dir", release / "camus", "--test-viz-num", 0]
    for name, asked in (("without", "False"), ("with", "True")):
        assert judge(*flags, *data, "--remove-stray-parts", asked, "--output-dir", tmp_path / name) == 0
        made = ["--input", str(release / "camus"), "--output-dir", str(tmp_path / f"{name}_predicted")]
        command = [*map(str, flags), *made, "--remove-stray-parts", asked]
        assert run_command(predict.main, PredictSettings, command) == 0
        folders = [tmp_path / name / "predictions_native", tmp_path / f"{name}_predicted" / "labels"]
        parts = [most_parts(read_labels(path)) for folder in folders for path in folder.glob("*.nii.gz")]
        parts += [most_parts(np.asarray(Image.open(path))) for path in (tmp_path / name / "predictions").iterdir()]
        assert len(parts) == 24
        assert max(parts) == 1 if asked == "True" else min(parts) > 1
    labels = read_labels(tmp_path / "with" / "predictions_native" / "patient0001_2CH_ED.nii.gz")
    truth = read_labels(release / "camus" / "database_nifti" / "patient0001" / "patient0001_2CH_ED_gt.nii.gz")
    dice = 2 * ((labels == 3) & (truth == 3)).sum() / ((labels == 3).sum() + (truth == 3).sum())
    assert float(read_metrics(tmp_path / "with")["patient0001_2CH_ED_testing"]["la_dice"]) == pytest.approx(dice)


@pytest.mark.parametrize("rule", ["area", "nearest"])
def test_both_alignments_give_the_heart_its_place(judge, release, tmp_path, rule):
    """The extracted annotations as predictions, brought back by the rule they were extracted by: centres of the
    structures within a fifth of a native pixel, on average; without regard to the rule, half a pixel off or more.
    """
    flags = ("--data-dir", release / rule, "--predictions", release / rule / "annotations" / "testing")
    flags += ("--native-dir", release / "camus", "--output-dir", tmp_path, "--test-viz-num", 0)
    assert judge(*flags) == 0
    offsets, regardless = [], []
    for file in (tmp_path / "predictions_native").iterdir():
        name = file.name.removesuffix(".nii.gz")
        truth = read_labels(release / "camus" / "database_nifti" / name.split("_")[0] / f"{name}_gt.nii.gz")
        small = np.asarray(Image.open(release / rule / "annotations" / "testing" / f"{name}_testing.png"))
        other = {"area": "nearest", "nearest": "area"}[rule]
        wrong = to_native(one_hot(small), NATIVE, other)
        for value in (1, 2, 3):
            centre = np.argwhere(truth == value).mean(0)
            offsets.append(np.argwhere(read_labels(file) == value).mean(0) - centre)
            regardless.append(np.argwhere(wrong == value).mean(0) - centre)
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.2
    assert np.abs(np.mean(regardless, axis=0)).max() > 0.5


@pytest.mark.parametrize("kind", ["native", "png", "foreign", "both"])
@pytest.mark.parametrize("grid", ["native", "network"])
def test_perfect_predictions_of_others_are_perfect(judge, release, tmp_path, kind, grid):
    """The reference labels themselves, as NIfTI or as PNG files: Dice 1 and no distance on their own grid; on another
    one what is lost by the way there.
    """
    folder = tmp_path / "predictions"
    folder.mkdir()
    for path in (release / "camus").rglob("*_gt.nii.gz"):
        name = path.name.removesuffix("_gt.nii.gz")
        if kind in ("native", "both"):
            shutil.copy(path, folder / f"{name}.nii.gz")
        if kind == "both":  # as predict.py writes them; here the picture is another one
            Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / f"{name}.png")
        elif kind == "png":
            shutil.copy(release / "nearest" / "annotations" / "testing" / f"{name}_testing.png", folder)
        elif kind == "foreign":  # a size of its own
            labels = Image.open(release / "nearest" / "annotations" / "testing" / f"{name}_testing.png")
            labels.resize((100, 150), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    flags = ["--data-dir", release / "nearest", "--predictions", folder, "--output-dir", tmp_path / "o"]
    flags += ["--native-dir", release / "camus"] if grid == "native" else []
    assert judge(*flags, "--test-viz-num", 0) == 0
    rows = read_metrics(tmp_path / "o")
    exact = kind in ("native", "both") or (kind, grid) == ("png", "network")
    for row in rows.values():
        assert (row["unit"], row["grid"]) == (("mm", "200x150") if grid == "native" else ("mm@64", "64x64"))
        for structure in ("lv_endo", "lv_epi", "la", "lv_myo"):
            assert float(row[f"{structure}_dice"]) == (1 if exact else pytest.approx(1, abs=0.1))
            assert float(row[f"{structure}_hd"]) == (0 if exact else pytest.approx(0, abs=4.0))
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["ejection_fraction"]["against_labels"]["ef"]["n"] == 2
    assert not (tmp_path / "o" / "predictions").exists()
    assert (tmp_path / "o" / "predictions_native").exists() == (grid == "native")


def test_a_missed_structure_is_counted_and_costs_the_diagonal_if_asked_for(judge, release, tmp_path):
    """The reference labels, but for one frame without an atrium; in a shuffled order, each with its own file."""
    shutil.copytree(release / "nearest" / "annotations" / "testing", tmp_path / "p")
    file = sorted((tmp_path / "p").iterdir())[2]
    labels = np.array(Image.open(file))
    labels[labels == 3] = 0
    Image.fromarray(labels).save(file)
    flags = ("--data-dir", release / "nearest", "--predictions", tmp_path / "p", "--test-viz-num", 0)
    for penalty, n, mean in (("none", 7, 0.0), ("diagonal", 8, np.hypot(0.6 * 199 * 64 / 63, 0.7 * 149 * 64 / 63) / 8)):
        assert judge(*flags, "--test-shuffle", "--missed-distance", penalty, "--output-dir", tmp_path / penalty) == 0
        summary = json.loads((tmp_path / penalty / "summary.json").read_text())
        found = summary["overall"]["la"]
        assert (found["missed"], found["absent"], found["hd"]["n"]) == (1, 0, n)
        assert (summary["missed_distance"], found["hd"]["mean"]) == (penalty, pytest.approx(mean))
        assert found["dice"]["mean"] == pytest.approx(7 / 8)
        assert summary["overall"]["lv_epi"]["dice"]["mean"] == 1
        assert read_metrics(tmp_path / penalty)[file.stem]["la_hd"] == ""


def test_predictions_that_cannot_be_evaluated_are_all_named(judge, release, tmp_path, capsys):
    folder = tmp_path / "predictions"
    folder.mkdir()
    flags = ("--data-dir", release / "area", "--predictions", folder, "--output-dir", tmp_path / "o")
    assert judge(*flags) == 2
    assert "8 problems, where each case has one file" in capsys.readouterr().err
    for path in (release / "area" / "annotations" / "testing").iterdir():
        shutil.copy(path, folder)
    names = sorted(file.name for file in folder.iterdir())
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(folder / names[0])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / names[1])
    (folder / names[2]).write_bytes(b"no picture")
    (folder / names[3]).rename(folder / names[3].replace("_testing.png", ".nii.gz"))
    assert judge(*flags) == 2
    said = capsys.readouterr().err
    assert "4 predictions cannot be evaluated (classes are 0 .. 3)" in said
    assert f"{names[0]}: class 7" in said
    assert all(name.removesuffix("_testing.png") in said for name in names[:4])
    assert not (tmp_path / "o" / "metrics.csv").exists()
    shutil.copy(folder / names[5], folder / names[5].replace("_testing", ""))
    assert judge(*flags) == 2
    assert f"{names[5].replace('_testing', '')}" in capsys.readouterr().err


def test_one_prediction_is_not_that_of_several_deformed_copies(tmp_path):
    frame = tmp_path / "patient0001_2CH_ED.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(frame)
    copies = [Case(f"patient0001_2CH_ED_validation_{i}", frame, frame, "patient0001", "2CH", "ED") for i in range(2)]
    assert find_predictions(tmp_path, copies[:1]) == [frame]
    with pytest.raises(UserError, match=r"patient0001_2CH_ED.png would be that of 2 cases"):
        find_predictions(tmp_path, copies)


def test_pixels_between_two_classes_do_not_all_go_to_the_lower():
    """A cavity in its wall, extracted by the published rule and brought back: of 128 pixels a third lies halfway."""
    rng, areas = np.random.default_rng(0), []
    rows, columns = np.indices((128, 128))
    copied = nearest_indices(128, 64)
    for _ in range(60):
        centre, radius = rng.uniform(50, 78, 2), rng.uniform(16, 32)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        label = np.where(distance < radius, 1, np.where(distance < radius + 12, 2, 0)).astype(np.uint8)
        back = to_native(one_hot(label[np.ix_(copied, copied)]), label.shape, "nearest")
        areas.append([(back == value).sum() / (label == value).sum() for value in (1, 2)])
    assert (np.abs(np.mean(areas, axis=0) - 1) < (0.02, 0.05)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("database_nifti/patient0001/patient0001_2CH_ED.nii.gz", ""), "metadata.csv names no source"),
        (("database_nifti/patient0001/patient0001_2CH_ED.nii.gz", "../secret.nii.gz"), "within the release"),
        (("database_nifti/patient0001/patient0001_2CH_ED.nii.gz", "other.nii.gz"), "other.nii.gz is missing"),
        (("200,150", "400,150"), "in metadata.csv \\(400, 150\\): another release?"),
        (("area", "cubic"), "image_interpolation cubic"),
    ],
)
def test_a_release_that_does_not_fit(judge, trained, release, tmp_path, capsys, change, message):
    """Told before the network is asked, and nothing is written."""
    import re

    shutil.copytree(release / "area", tmp_path / "data")
    table = tmp_path / "data" / "metadata.csv"
    table.write_text(table.read_text().replace(*change, 1))
    flags = ("--data-dir", tmp_path / "data", "--model-path", trained / "model.pth", "--gpu", "cpu")
    assert judge(*flags, "--native-dir", release / "camus", "--output-dir", tmp_path / "o") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list((tmp_path / "o").glob("*"))


@pytest.mark.parametrize("given", [".", "camus", "camus/database_nifti"])
def test_the_release_is_found_where_the_extraction_finds_it(judge, trained, release, tmp_path, given):
    flags = ("--data-dir", release / "area", "--model-path", trained / "model.pth", "--gpu", "cpu")
    assert judge(*flags, "--native-dir", release / given, "--output-dir", tmp_path, "--test-viz-num", 0) == 0
    assert len(list((tmp_path / "predictions_native").iterdir())) == 8


def test_a_training_ends_in_native_geometry_and_in_float32(train, release, make_folder, tiny, tmp_path, monkeypatch):
    """Whatever the arithmetic of the training: on a GPU bfloat16 would move borders."""
    data = make_folder(tmp_path / "data", {"training": 2, "validation": 1})
    for file in data.glob("*/*/*.png"):  # other people than those of the release
        number = "8" if file.parent.name == "training" else "9"
        file.rename(file.with_name(file.name.replace("patient0", f"patient{number}")))
    for kind in ("images", "annotations"):
        shutil.copytree(release / "area" / kind / "testing", data / kind / "testing")
    shutil.copy(release / "area" / "metadata.csv", data)
    asked, autocast = [], inference.autocast
    monkeypatch.setattr(inference, "autocast", lambda d, mixed: asked.append(mixed) or autocast(d, mixed))
    flags = ("--data-dir", data, "--output-dir", tmp_path / "o", *tiny, "--epochs", 2, "--mixed-precision", True)
    assert train(*flags, "--native-dir", release / "camus") == 0
    assert asked == [True, True, False]  # a batch in each of two validations, and one of the evaluation
    assert {row["unit"] for row in read_metrics(tmp_path / "o").values()} == {"mm"}
    assert len(list((tmp_path / "o" / "predictions_native").iterdir())) == 8


def test_only_frames_of_a_quality(judge, trained, release, tmp_path, capsys):
    flags = ("--data-dir", release / "area", "--model-path", trained / "model.pth", "--gpu", "cpu")
    flags += ("--output-dir", tmp_path / "o", "--test-viz-num", 0)
    for qualities, patients in ((["Good"], {"patient0001"}), (["Poor", "Good"], {"patient0001", "patient0002"})):
        assert judge(*flags, "--image-quality", *qualities) == 0
        assert {row["patient"] for row in read_metrics(tmp_path / "o").values()} == patients
        assert json.loads((tmp_path / "o" / "summary.json").read_text())["only_image_quality"] == qualities
    for qualities, unknown in ((["Medium"], "Medium"), (["Good", "Medium", "poor"], "Medium poor")):
        assert judge(*flags, "--image-quality", *qualities) == 2
        told = f"--image-quality {unknown}: no such case; image qualities there: Good, Poor\n"
        assert told in capsys.readouterr().err
    assert judge(*flags) == 0
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["only_image_quality"] == []

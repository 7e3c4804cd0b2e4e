"""predict.py on files of every kind: what it writes, in whose geometry, and what it refuses before it starts."""

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import predict
from command import run_command
from dataset import read_annotation, resize_annotation, resize_image
from ejection_fraction import biplane_volume_ml, ejection_fraction, measure_long_axis
from folder_lock import FolderLock
from model import build_camus_unet
from settings import PredictSettings

FOLDER = Path(__file__).resolve().parents[2] / "echo_segmentation"
SPACING = (0.8, 0.6)  # mm of SimpleITK: lateral, depth
ORIGIN, DIRECTION = (-12.5, 3.0), (0.0, 1.0, -1.0, 0.0)
SIZES = {"2CH": 90, "4CH": 100}


def write_medical(path: Path, frames: list[np.ndarray], flat: bool = False) -> None:
    """A sequence, or with `flat` one frame of two dimensions."""
    image = sitk.GetImageFromArray(frames[0] if flat else np.stack(frames))
    image.SetSpacing(SPACING if flat else (*SPACING, 0.05))
    image.SetOrigin(ORIGIN if flat else (*ORIGIN, 1.0))
    if flat:
        image.SetDirection(DIRECTION)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), not path.name.endswith(".mhd"))


@pytest.fixture(scope="module")
def truth(draw_one, tmp_path_factory) -> dict[str, list[np.ndarray]]:
    """Labels by file name; the files lie in truth["folder"][0]."""
    folder = tmp_path_factory.mktemp("input")
    known = {"folder": [folder]}

    def hearts_of(phases: list[str], view: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images and labels of one heart at several phases."""
        return tuple(zip(*(draw_one(np.random.default_rng(7), phase, SIZES[view]) for phase in phases), strict=True))

    for view, phases in {"2CH": ["ED", "ED", "ES"], "4CH": ["ED", "ES"]}.items():
        images, labels = hearts_of(phases, view)
        name = f"patient0001_{view}_half_sequence"
        write_medical(folder / f"{name}.nii.gz", images)
        write_medical(folder / f"{name}_gt.nii.gz", labels)
        known[name] = labels
    images, labels = hearts_of(["ED"], "4CH")
    write_medical(folder / "deep" / "patient0002_4CH_ED.mhd", images, flat=True)
    known["patient0002_4CH_ED"] = labels
    Image.fromarray(images[0]).convert("RGB").save(folder / "anything.png")
    known["anything"] = labels
    (folder / ".hidden.png").write_bytes(b"no image")
    return known


def run(*flags) -> int:
    return run_command(predict.main, PredictSettings, [str(flag) for flag in flags])


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


def test_every_bad_file_is_named_before_the_work_starts(truth, trained, tmp_path, capsys):
    bad = tmp_path / "bad"
    write_medical(bad / "patient0003_2CH_half_sequence.nii.gz", [np.zeros((8, 8), np.uint8)] * 2)
    write_medical(bad / "other" / "patient0003_2CH_sequence.nii.gz", [np.zeros((8, 8), np.uint8)] * 2)
    write_medical(bad / "same.nii.gz", [np.zeros((8, 8), np.uint8)])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(bad / "same.png")
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[2, 2] = 255, 0, 0
    Image.fromarray(colour).save(bad / "colour.png")
    (bad / "broken.png").write_bytes(b"no image")
    whole = (bad / "same.nii.gz").read_bytes()
    (bad / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    inputs = (bad, tmp_path / "empty", tmp_path / "none.png", tmp_path / "text.txt", truth["folder"][0])
    out = tmp_path / "out"
    assert run("--model-path", trained / "model.pth", "--input", *inputs, "--output-dir", out) == 2
    said = capsys.readouterr().err.split("error: ")[1]
    lines = said.strip().splitlines()
    assert lines[0] == "--input: 8 problems:"
    assert len(lines) == 9
    for text in ("empty: no picture", "none.png: no such file", "text.txt: neither picture",
                 "broken.png cannot be read", "colour.png is a picture in colour", "cut.nii.gz cannot be read",
                 "same: 2 files of this name",
                 "patient0003, 2CH, sequence: 2 files"):  # fmt: skip
        assert sum(text in line for line in lines) == 1, text
    assert not out.exists()


def test_a_picture_called_like_a_frame_of_a_sequence_is_refused(trained, tmp_path, capsys):
    write_medical(tmp_path / "in" / "a.nii.gz", [np.zeros((32, 32), np.uint8)] * 2)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "in" / "a_0.png")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "in" / "a.b.png")
    flags = ("--model-path", trained / "model.pth", "--input", tmp_path / "in", "--output-dir", tmp_path / "o")
    assert run(*flags) == 2
    said = capsys.readouterr().err
    assert f"a_0: the name of frames of {tmp_path}/in/a.nii.gz and of {tmp_path}/in/a_0.png" in said
    assert "--input: 1 problems" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model-path", "{tmp}/no.pth"], "no.pth: no such file"),
        (["--model-path", "{input}/anything.png"], "anything.png: not a checkpoint"),
        (["--model-path", "{tmp}/camus.pth"], "carries no mean and std of grey values: give --mean and --std"),
        (["--model-path", "{model}", "--mean", "0.1"], "go together"),
        (["--model-path", "{model}", "--batch-size", "0"], "greater than or equal to 1"),
        (["--model-path", "{model}", "--output-dir", "{input}"], "is there already and not empty"),
        (["--model-path", "{model}", "--gpu", "cuda:77"], "is not there"),
        (["--model-path", "{model}", "--input"], "--input: name at least one file or folder"),
    ],
)
def test_wrong_settings_leave_nothing_behind(truth, trained, tmp_path, capsys, flags, message):
    torch.save(build_camus_unet(4).state_dict(), tmp_path / "camus.pth")
    places = {"tmp": tmp_path, "input": truth["folder"][0], "model": trained / "model.pth"}
    filled = [flag.format(**places) for flag in flags]
    filled = ["--output-dir", tmp_path / "out", *filled] if "--output-dir" not in filled else filled
    filled += [] if "--input" in filled else ["--input", truth["folder"][0] / "anything.png"]
    assert run(*filled) == 2
    said = capsys.readouterr().err
    assert message in said.split("error: ")[1]
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_bad_input_is_answered_before_slow_imports(trained, tmp_path):
    flags = ["--model-path", str(trained / "model.pth"), "--input", "/no/such", "--output-dir", str(tmp_path / "out")]
    program = f"""
import runpy, sys
sys.path.insert(0, {str(FOLDER)!r})
sys.argv = ["predict.py", *{flags!r}]
try:
    runpy.run_path({str(FOLDER / "predict.py")!r}, run_name="__main__")
except SystemExit as exit_:
    print("exit", exit_.code, "torch" in sys.modules, "monai" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "exit 2 False False" in done.stdout
    assert "/no/such: no such file or folder" in done.stderr


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


def test_pictures_of_two_people_of_one_name_are_not_measured_together(truth, trained, tmp_path, capsys):
    """CAMUS' MHD release has a patient0001 among those of training and another among those of testing."""
    for split, phase in (("training", "ED"), ("training", "ES"), ("testing", "ED"), ("testing", "ES")):
        path = tmp_path / "in" / split / f"patient0001_2CH_{phase}_{split}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(path)
    command = ("--model-path", trained / "model.pth", "--input", tmp_path / "in", "--output-dir", tmp_path / "o")
    assert run(*command, "--spacing-mm", 0.5) == 2
    assert "patient0001, 2CH, ED: 2 files" in capsys.readouterr().err and not (tmp_path / "o").exists()
    assert run(*command) == 0  # without the size of a pixel nothing is measured


def test_a_folder_that_another_run_is_filling_is_refused(truth, trained, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    flags = ["--model-path", trained / "model.pth", "--input", truth["folder"][0] / "anything.png"]
    with FolderLock(tmp_path / "out"):
        assert run(*flags, "--output-dir", tmp_path / "out") == 2
    assert "in use by another run" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())

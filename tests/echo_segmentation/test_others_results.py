"""What others have written stays theirs, and is read where it lies: folders, label maps of another grid, odd names."""

import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from drawn_release import NATIVE
from PIL import Image


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "ejection_fraction.csv", "camus_table.md"])
def test_tables_of_other_tools_are_not_replaced(judge, train, trained, hearts, tiny, tmp_path, capsys, name):
    """nnU-Net calls its own summary.json, and predict.py writes an ejection_fraction.csv."""
    (tmp_path / name).write_text(json.dumps({"foreground_mean": {"Dice": 0.9}}))
    before = files_of(tmp_path)
    flags = ("--data-dir", hearts, "--model-path", trained / "model.pth", "--gpu", "cpu", "--output-dir", tmp_path)
    assert judge(*flags) == 2
    assert f"{name}, which is no result of ours" in capsys.readouterr().err
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--epochs", 1) == 2
    assert files_of(tmp_path) == before


def test_an_evaluation_is_not_replaced_by_that_of_a_training(judge, train, trained, hearts, tiny, tmp_path, capsys):
    flags = ("--data-dir", hearts, "--model-path", trained / "model.pth", "--gpu", "cpu", "--test-viz-num", 0)
    assert judge(*flags, "--output-dir", tmp_path / "evaluated") == 0
    before = files_of(tmp_path / "evaluated")
    assert train("--data-dir", hearts, "--output-dir", tmp_path / "evaluated", *tiny, "--epochs", 1) == 2
    assert "holds an evaluation, and no training" in capsys.readouterr().err
    assert files_of(tmp_path / "evaluated") == before


def as_nifti(folder, to, change=lambda labels: labels):
    """The label maps in `folder` as NIfTI files of the same pixels, as export_nnunet.py has nnU-Net predict them."""
    to.mkdir()
    for path in folder.glob("*.png"):
        labels = change(np.asarray(Image.open(path)))
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(labels)), str(to / f"{path.stem}.nii.gz"))
    return to


@pytest.mark.parametrize("rule", ["area", "nearest"])
def test_a_nifti_of_the_extracted_size_lies_on_its_pixels_as_a_picture_does(judge, release, tmp_path, rule):
    maps = release / rule / "annotations" / "testing"
    flags = ("--data-dir", release / rule, "--native-dir", release / "camus", "--test-viz-num", 0)
    for name, given in (("png", maps), ("nifti", as_nifti(maps, tmp_path / "nifti_maps"))):
        assert judge(*flags, "--predictions", given, "--output-dir", tmp_path / name) == 0
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("png", "nifti")]
    assert tables[0] == tables[1]


def turned(path, to, direction):
    """The medical file with other axes: the same pixels elsewhere in the world."""
    image = sitk.ReadImage(str(path))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(to))


MIRRORED, TURNED, NEARLY = (-1.0, 0.0, 0.0, 1.0), (0.0, 1.0, -1.0, 0.0), (1.0, 5e-4, -5e-4, 1.0)


@pytest.mark.parametrize(("theirs", "ours", "refused"), [
    (MIRRORED, None, True),
    (None, TURNED, True),
    (TURNED, TURNED, False),
    (NEARLY, None, False),
    (None, None, False),
])  # fmt: skip
def test_a_map_whose_axes_point_elsewhere_is_refused_and_not_mirrored(
    judge, release, tmp_path, capsys, theirs, ours, refused
):
    """The reference label of one frame with the direction `theirs`, its frame with `ours` (None: the identity)."""
    name = "patient0001_2CH_ED"
    camus, maps = shutil.copytree(release / "camus", tmp_path / "camus"), tmp_path / "maps"
    maps.mkdir()
    for path in camus.rglob("*_gt.nii.gz"):
        shutil.copy(path, maps / path.name.replace("_gt", ""))
    frame = camus / "database_nifti" / "patient0001" / f"{name}.nii.gz"
    for path, direction in ((maps / f"{name}.nii.gz", theirs), (frame, ours)):
        if direction:
            turned(path, path, direction)
    flags = ("--data-dir", release / "area", "--native-dir", camus, "--predictions", maps, "--test-viz-num", 0)
    assert judge(*flags, "--output-dir", tmp_path / "o") == (2 if refused else 0)
    said = capsys.readouterr().err
    directions = {MIRRORED: "-1 0 0 1", TURNED: "0 1 -1 0", None: "1 0 0 1"}
    if refused:
        told = f"{maps / name}.nii.gz: its axes have the direction {directions[theirs]}, those of the frame ({frame})"
        assert f"{told} {directions[ours]}" in said and "1 predictions cannot be evaluated" in said
        assert said.count("its axes have") == 1
    else:
        table = (tmp_path / "o" / "metrics.csv").read_text().splitlines()
        place = table[0].split(",").index("la_dice")
        assert [float(line.split(",")[place]) for line in table[1:]] == [1] * 8


def test_a_map_of_the_extracted_size_may_have_the_directions_of_the_export(judge, release, tmp_path, capsys):
    """export_nnunet.py writes the identity, whatever the frame's own file says; another one is still refused."""
    name, camus = "patient0001_2CH_ED", shutil.copytree(release / "camus", tmp_path / "camus")
    frame = camus / "database_nifti" / "patient0001" / f"{name}.nii.gz"
    turned(frame, frame, TURNED)
    maps = as_nifti(release / "area" / "annotations" / "testing", tmp_path / "maps")
    flags = ("--data-dir", release / "area", "--native-dir", camus, "--predictions", maps, "--test-viz-num", 0)
    assert judge(*flags, "--output-dir", tmp_path / "o") == 0
    turned(maps / f"{name}_testing.nii.gz", maps / f"{name}_testing.nii.gz", MIRRORED)
    assert judge(*flags, "--output-dir", tmp_path / "o") == 2
    assert f"the direction -1 0 0 1, those of the frame ({frame}) 0 1 -1 0" in capsys.readouterr().err


@pytest.mark.parametrize("native", [True, False])
def test_a_map_of_another_shape_is_refused_and_not_stretched(judge, release, tmp_path, capsys, native):
    """Transposed, say."""
    maps = as_nifti(
        release / "area" / "annotations" / "testing", tmp_path / "maps", lambda m: np.zeros(NATIVE[::-1], np.uint8)
    )
    flags = ("--data-dir", release / "area", *(("--native-dir", release / "camus") if native else ()))
    assert judge(*flags, "--predictions", maps, "--output-dir", tmp_path / "o") == 2
    said = capsys.readouterr().err
    assert said.count("it has 150 x 200 pixels, the frame 200 x 150, and what was extracted from it 64 x 64") == 8


def test_names_that_are_no_utf8_are_a_line(train, hearts, tiny, tmp_path, capsys):
    data = shutil.copytree(hearts, tmp_path / "data")
    for kind in ("images", "annotations"):
        path = next((data / kind / "training").iterdir())
        os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/h\xe9art.png")
    assert train("--data-dir", data, "--output-dir", tmp_path / "o", *tiny, "--epochs", 1) == 2
    said = capsys.readouterr().err
    assert "1 names are no UTF-8" in said and "h\\udce9art.png" in said and "Traceback" not in said


def test_an_encoder_of_one_image_size_is_told_before_the_first_step(train, hearts, tiny, tmp_path, capsys):
    flags = ("--encoder-name", "tu-swin_tiny_patch4_window7_224", "--img-size", 64, "--decoder-channels", 32, 16, 16, 8)
    command = ("--data-dir", hearts, "--output-dir", tmp_path / "o", *tiny, "--epochs", 1, *flags)
    assert train(*command) == 2
    said = capsys.readouterr().err
    assert "--encoder-name tu-swin_tiny_patch4_window7_224" in said and said.count("error:") == 1

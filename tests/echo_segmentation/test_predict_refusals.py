"""What predict.py refuses before it starts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predicting import run, write_medical

from command import UserError, parse_settings
from folder_lock import FolderLock
from model import build_camus_unet
from settings import PredictSettings

FOLDER = Path(__file__).resolve().parents[2] / "echo_segmentation"


@pytest.mark.parametrize("words", [["--input", "a.png", ""], ["--input", "", "a.png"], ["--output-dir", ""]])
def test_an_empty_word_is_no_path(words):
    """The second of several too."""
    with pytest.raises(UserError, match=f"^{words[0]}: expected is a path, and the word is empty"):
        parse_settings(PredictSettings, words)


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

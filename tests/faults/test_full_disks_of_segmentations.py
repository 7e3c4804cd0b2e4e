"""Full and read-only disks, and folders that vanish, under a segmentation and an extraction."""

import csv
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from disks import FULL, GONE, READ_ONLY, temporaries
from PIL import Image

import extract_camus_data
import make_phantom_camus
import runner
from command import run_command
from settings import TrainSettings


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Frames of two training patients and one for validation."""
    folder = tmp_path_factory.mktemp("frames")
    generator = np.random.default_rng(0)
    for split, count in (("training", 2), ("validation", 1)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            label = generator.integers(0, 4, (8, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            name = f"patient{i + 1:04d}_2CH_ED_{split}.png"
            Image.fromarray(label).save(folder / "annotations" / split / name)
            Image.fromarray(label * 60).save(folder / "images" / split / name)
    return folder


def segment(capfd, frames: Path, output: Path, epochs: int = 2) -> tuple[int, str]:
    flags = ["--data-dir", frames, "--output-dir", output, "--gpu", "cpu", "--img-size", 32, "--epochs", epochs]
    flags += ["--decoder-channels", 16, 8, 8, "--batch-size", 2, "--test-viz-num", 0]
    code = run_command(runner.main, TrainSettings, [str(flag) for flag in flags])
    return code, capfd.readouterr().err


def last_line(said: str) -> str:
    assert "Traceback" not in said and said.count("error:") == 1, said
    return said[said.index("error:") :]


@pytest.mark.parametrize(("size", "file"), [("16k", "settings.json"), ("4m", "model.pth"), ("24m", "last.pth")])
def test_a_segmentation(disk, frames, capfd, size, file, survived):
    survived(*FULL)
    folder = disk(size) / "out"
    code, said = segment(capfd, frames, folder)
    assert code == 2 and "No space left on device" in last_line(said) and str(folder) in last_line(said)
    assert not temporaries(folder)
    disk("300m")
    assert segment(capfd, frames, folder)[0] == 0
    with open(folder / "log.csv", newline="") as rows:
        assert [row["epoch"] for row in csv.DictReader(rows)] == ["1", "2"]


def test_a_read_only_disk_under_a_segmentation(disk, frames, capfd, survived):
    survived(*READ_ONLY)
    folder = disk("50m")
    (folder / "out").mkdir()
    disk("ro")
    code, said = segment(capfd, frames, folder / "out")
    assert code == 2 and "Read-only file system" in last_line(said) and str(folder) in last_line(said)


def test_the_folder_of_a_segmentation_vanishes(tmp_path, frames, capfd, survived):
    survived(*GONE)
    output = tmp_path / "out"
    watching = threading.Thread(target=remove_once_there, args=(output / "last.pth", output))
    watching.start()
    code, said = segment(capfd, frames, output, epochs=1000)
    watching.join()
    assert code == 2 and "No such file or directory" in last_line(said) and str(output) in said


def remove_once_there(file: Path, folder: Path) -> None:
    while not file.exists():
        pass
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def test_an_extraction(disk, tmp_path, capfd, survived):
    survived(*FULL)
    words = ["--save_folder", tmp_path / "camus", "--n_patients", 3, "--size", 64, "--num_workers", 0]
    kind = make_phantom_camus.PhantomSettings
    assert run_command(make_phantom_camus.make_phantom_camus, kind, [str(word) for word in words]) == 0
    folder = disk("100k")
    words = ["--camus_data_folder", tmp_path / "camus", "--save_folder_path", folder / "out", "--num_workers", 0]

    def extract() -> int:
        kind = extract_camus_data.ExtractSettings
        return run_command(extract_camus_data.extract_camus_data, kind, [str(word) for word in words])

    capfd.readouterr()
    assert extract() == 2
    said = last_line(capfd.readouterr().err)
    assert "No space left on device" in said and str(folder / "out") in said
    assert not temporaries(folder)
    disk("50m")
    assert extract() == 0

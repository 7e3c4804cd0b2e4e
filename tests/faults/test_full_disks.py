"""Disks that are full, folders that vanish, places that cannot be written: real mounts of a few megabytes.

Each ends in one line that names the file, keeps what was whole, leaves no temporary files, and goes on with more room.
"""

import csv
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import NETWORK
from PIL import Image

import extract_camus_data
import make_phantom_camus
import runner
from command import UserError, run_command
from config import Settings
from guided_diffusion.runs.checkpoints import plain_state_dict, write_torch
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.job import run_sampling
from guided_diffusion.training import loop
from guided_diffusion.training.resuming import newest_complete
from output_files import EventFile, save_tensors
from settings import TrainSettings

FULL = "a full disk", "one line with the file, exit 2; good files stay; it goes on with more room"
GONE = "an output folder that vanishes", "one line with the file, exit 2"
READ_ONLY = "a read-only disk", "one line with the file, exit 2; good files stay"


def mounted(folder: Path, options: str) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """disk("8m") -> a folder with so much room; disk("50m") again gives it more, disk("ro") makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: str) -> Path:
        option = "ro" if size == "ro" else f"size={size}"
        if not mounted(folder, f"remount,{option}" if os.path.ismount(folder) else option):
            pytest.skip("this machine lets nobody mount a small disk")
        return folder

    yield resize
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if ".tmp" in path.name or path.name.startswith(".unfinished")]


def told(error: pytest.ExceptionInfo, *words: str) -> None:
    text = str(error.value)
    assert isinstance(error.value, UserError) and "\n" not in text and len(text) < 500
    assert all(word in text for word in words), text


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings_of(datadir):
    torch.set_num_threads(1)

    def make(savedir: Path, **changes) -> Settings:
        common = NETWORK | {"datadir": str(datadir), "num_workers": 0, "batch_size_train": 1, "preview_steps": 0}
        return Settings(**common | {"savedir": str(savedir), "save_interval": 1, "log_interval": 1} | changes)

    return make


# A checkpoint takes 50 MB: weights 12.5, averages as much, the state 25.
@pytest.mark.parametrize(("size", "file", "left"), [("8m", "model", None), ("40m", "opt", None), ("70m", "ema", 1)])
def test_a_training(disk, settings_of, size, file, left, survived):
    survived(*FULL)
    folder = disk(size) / "out"
    with pytest.raises(UserError) as caught:
        loop.train(settings_of(folder, lr_anneal_steps=3), set())
    told(caught, f"{folder}/{file}", "No space left on device")
    assert not temporaries(folder)
    assert newest_complete(str(folder), pytest.fail) == left
    assert len(list(folder.glob("*.pt"))) == (3 if left else 0)
    disk("300m")
    loop.train(settings_of(folder, lr_anneal_steps=3), set())
    assert newest_complete(str(folder), pytest.fail) == 3
    with open(folder / "progress.csv", newline="") as rows:
        assert [row["step"] for row in csv.DictReader(rows)] == ["1", "2", "3"]


def test_the_log_of_a_training(disk, settings_of, survived):
    """Full from the start: not even the first line of the log fits."""
    survived(*FULL)
    folder = disk("1m")
    (folder / "other").write_bytes(bytes(2**20 - 4096))
    (folder / "out").mkdir()
    with pytest.raises(UserError) as caught:
        loop.train(settings_of(folder / "out", lr_anneal_steps=2), set())
    told(caught, f"{folder}/out/", "No space left on device")
    assert (folder / "other").stat().st_size == 2**20 - 4096


def at_step(monkeypatch, step: int, action: Callable[[], object]) -> None:
    """Have `action` done right after a step of the training."""
    real = loop.update

    def update(run, *rest):
        real(run, *rest)
        if run.step == step:
            run.writer.wait()
            action()

    monkeypatch.setattr(loop, "update", update)


def test_the_folder_of_a_training_vanishes(tmp_path, settings_of, monkeypatch, survived):
    survived(*GONE)
    folder = tmp_path / "out"
    at_step(monkeypatch, 2, lambda: shutil.rmtree(folder))
    with pytest.raises(UserError) as caught:
        loop.train(settings_of(folder, lr_anneal_steps=4), set())
    told(caught, str(folder), "cannot be written: No such file or directory")


def test_a_read_only_disk_under_a_training(disk, settings_of, survived):
    survived(*READ_ONLY)
    folder = disk("300m") / "out"
    loop.train(settings_of(folder, lr_anneal_steps=1), set())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    disk("ro")
    with pytest.raises(UserError) as caught:
        loop.train(settings_of(folder, lr_anneal_steps=2), set())
    told(caught, str(folder), "not writable")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["log.txt", "progress.csv", "model000001.pt", "train_test_config.json"])
def test_a_file_of_a_training_that_cannot_be_written(tmp_path, settings_of, name, survived):
    """A folder of its name is in the way."""
    survived("a file that cannot be written", "one line with the file, exit 2")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError) as caught:
        loop.train(settings_of(tmp_path, lr_anneal_steps=1), set())
    told(caught, str(tmp_path / name))
    assert (tmp_path / name).is_dir() and not list(tmp_path.glob("opt*")) and not temporaries(tmp_path)


# --- Sampling ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(datadir, tmp_path_factory):
    """sampled(results_dir) runs a sampling job of 15 images with random weights."""
    from guided_diffusion.network.from_settings import build_network

    settings = Settings(**NETWORK)
    folder = tmp_path_factory.mktemp("weights")
    write_torch(str(folder), "model000001.pt", plain_state_dict(build_network(settings).state_dict(), settings))

    def run(results: Path) -> None:
        job = Settings(datadir=str(datadir), resume_checkpoint=str(folder / "model000001.pt"), device="cpu", all=True)
        job.results_dir, job.num_steps, job.batch_size_test = str(results), 2, 2
        run_sampling(job, {"device"}, World())

    return run


def test_a_sampling(disk, sampled, survived):
    survived(*FULL)
    folder = disk("200k") / "out"
    with pytest.raises(UserError) as caught:
        sampled(folder)
    told(caught, f"{folder}/", "No space left on device")
    assert not temporaries(folder)
    disk("50m")
    sampled(folder)
    assert len(list((folder / "samples").glob("*.png"))) == 15


def test_the_folder_of_a_sampling_vanishes(tmp_path, sampled, monkeypatch, survived):
    survived(*GONE)
    from guided_diffusion.sampling.results import Results

    real = Results.add

    def add(self, rows):
        real(self, rows)
        if len(self._written) == 4:
            shutil.rmtree(self.folder)

    monkeypatch.setattr(Results, "add", add)
    with pytest.raises(UserError) as caught:
        sampled(tmp_path / "out")
    told(caught, str(tmp_path / "out"), "cannot be written: No such file or directory")


# --- Segmentation and preparation -------------------------------------------------------------------------------------


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


def test_a_read_only_disk_under_a_segmentation_and_a_sampling(disk, frames, sampled, capfd, survived):
    survived(*READ_ONLY, 2)
    folder = disk("50m")
    (folder / "out").mkdir()
    disk("ro")
    code, said = segment(capfd, frames, folder / "out")
    assert code == 2 and "Read-only file system" in last_line(said) and str(folder) in last_line(said)
    with pytest.raises(UserError) as caught:
        sampled(folder / "results")
    told(caught, str(folder), "Read-only file system")


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


# --- The pieces -------------------------------------------------------------------------------------------------------


def test_the_cause_is_told_that_torch_hides(disk):
    folder = disk("1m")
    content = {"a": torch.zeros(10**6)}
    with pytest.raises(RuntimeError), open(folder / "plain.pt", "wb") as file:
        torch.save(content, file)
    (folder / "plain.pt").unlink()
    with pytest.raises(OSError, match="No space left on device"):
        save_tensors(content, folder / "a.pt")
    disk("20m")
    save_tensors(content, folder / "a.pt")
    assert torch.equal(torch.load(folder / "a.pt", weights_only=True)["a"], content["a"])


def test_an_event_file_tells_at_once(disk):
    folder = disk("16k")
    board = EventFile(folder)
    with pytest.raises(UserError, match="tfevents.* cannot be written: No space left on device"):
        for step in range(1000):
            board.add_scalar("loss", 0.5, step)
    board.close()

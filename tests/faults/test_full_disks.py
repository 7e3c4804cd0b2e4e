"""Disks that are full, folders that vanish, places that cannot be written: real mounts of a few megabytes.

Each ends in one line that names the file, keeps what was whole, leaves no temporary files, and goes on with more room.
"""

import contextlib
import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import FULL, GONE, READ_ONLY, temporaries, told
from launching import NETWORK

from command import UserError
from config import Settings
from guided_diffusion.runs.checkpoints import plain_state_dict, write_torch
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.job import run_sampling
from guided_diffusion.training import loop
from guided_diffusion.training.resuming import newest_start
from output_files import EventFile, save_tensors

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
    start = newest_start(str(folder), pytest.fail)
    assert (start.step if start else None) == left
    assert len(list(folder.glob("*.pt"))) == (3 if left else 0)
    disk("300m")
    loop.train(settings_of(folder, lr_anneal_steps=3), set())
    assert newest_start(str(folder), pytest.fail).step == 3
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
        if len(self._written) >= 4:
            with contextlib.suppress(FileNotFoundError):  # several threads write: one of them moves it, in one step
                Path(self.folder).rename(tmp_path / "gone")

    monkeypatch.setattr(Results, "add", add)
    with pytest.raises(UserError) as caught:
        sampled(tmp_path / "out")
    told(caught, str(tmp_path / "out"), "cannot be written: No such file or directory")


def test_a_read_only_disk_under_a_sampling(disk, sampled, survived):
    survived(*READ_ONLY)
    folder = disk("50m")
    disk("ro")
    with pytest.raises(UserError) as caught:
        sampled(folder / "results")
    told(caught, str(folder), "Read-only file system")


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

"""Pipes, devices, and folders that link to themselves, where files are read: refused in a line, never waited for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launching import NETWORK

from cases import find_cases
from command import UserError
from config import Settings
from dataset import load_cases
from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.sampling.results import Results
from guided_diffusion.training.run_log import RunLog
from prepare_inference4segmentation import PrepareSettings, prepare_inference4segmentation
from view_folders import read_image

pytestmark = pytest.mark.timeout(120)  # the fault is to wait for ever
PROMISE = "refused in one line"


def make_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def make_endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


KINDS = [make_fifo, make_endless]
both = pytest.mark.parametrize("make", KINDS, ids=["pipe", "device"])


def refused(read: Callable, *arguments: object) -> None:
    with pytest.raises(UserError, match="is no regular file"):
        read(*arguments)


@both
@pytest.mark.parametrize("kind", ["images", "sector_annotations"])
def test_pictures_of_a_training(datadir, tmp_path, make, kind, survived):
    survived("a pipe or device in place of a file", PROMISE)
    shutil.copytree(datadir, tmp_path / "data")
    make(tmp_path / "data" / kind / "training" / "p2.png")
    settings = Settings(**NETWORK | {"datadir": str(tmp_path / "data")})
    examples = Examples(find_pairs(settings, ["training"]), settings)
    for look in (examples.check, lambda: examples.hold(shared=False)):
        with pytest.raises(UserError, match="1 of 10 .*") as caught:
            look()
        assert "p2.png is no regular file" in str(caught.value)


@both
def test_checkpoints_settings_and_manifests(tmp_path, make, survived):
    survived("a pipe or device in place of a file", PROMISE, 4)
    make(tmp_path / "model000001.pt")
    refused(read_checkpoint, str(tmp_path / "model000001.pt"))
    refused(read_checkpoint, str(tmp_path))
    torch.save({"input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / "some.pt")
    make(tmp_path / "train_test_config.json")
    refused(read_checkpoint, str(tmp_path / "some.pt"))
    make(tmp_path / "manifest.csv")
    refused(Results(str(tmp_path), 0).made)


@both
@pytest.mark.parametrize("name", ["progress.csv", "log.txt"])
def test_the_log_of_a_training(tmp_path, make, name, survived):
    survived("a pipe or device in place of a file", PROMISE)
    make(tmp_path / name)

    def log() -> None:
        with RunLog(str(tmp_path), 0, 1, ["loss"]) as log:
            log.row({"step": 1, "loss": 0.5})

    refused(log)


@both
def test_pictures_of_the_preparation(tmp_path, make, survived):
    survived("a pipe or device in place of a file", PROMISE, 2)
    make(tmp_path / "a.png")
    refused(read_image, tmp_path / "a.png")
    stem = "patient0001_2CH_ED_training_0"
    for folder in ("samples", "labels"):
        (tmp_path / "results" / folder).mkdir(parents=True)
        make(tmp_path / "results" / folder / f"{stem}.png")
    for kind in ("images", "annotations"):
        (tmp_path / "real" / "2CH_ED" / kind / "testing").mkdir(parents=True)
        make(tmp_path / "real" / "2CH_ED" / kind / "testing" / "patient0001_2CH_ED_testing.png")
    settings = PrepareSettings(tmp_path / "real", tmp_path / "results", tmp_path / "out", num_workers=0)
    refused(prepare_inference4segmentation, settings)


@both
def test_pictures_of_the_segmentation(tmp_path, make, survived):
    """Passed over, cases would be missing without a word."""
    survived("a pipe or device in place of a file", PROMISE)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
        (tmp_path / kind / "training" / "a.png").touch()
    cases = find_cases(str(tmp_path), "training")
    make(tmp_path / "images" / "training" / "a.png")
    refused(load_cases, cases, 32, 4, 0.0)
    refused(load_cases, find_cases(str(tmp_path), "training"), 32, 4, 0.0)


def test_each_folder_is_entered_once(tmp_path, survived):
    """Three links to the top in each of three folders: followed blindly, there are more paths than memory for them."""
    survived("folders that link to themselves", "each is entered once")
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").touch()
        for number in range(3):
            (tmp_path / name / f"loop{number}").symlink_to(tmp_path)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
    found = storage.walk_files(str(tmp_path))
    assert sorted(os.path.basename(path) for path in found) == ["a.png", "b.png", "c.png"]


def test_links_to_other_folders_are_followed(datadir, tmp_path):
    (tmp_path / "data").symlink_to(datadir / "images")
    assert len(storage.walk_files(str(tmp_path))) == 15

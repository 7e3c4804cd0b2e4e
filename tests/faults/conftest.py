"""Faults done to real runs: processes, signals, files and mounts.

A test says what it does, and what is promised, by `survived(fault, promise, count)`; the table at the end
(tests/conftest.py) adds up the counts of each fault, those of tests that failed apart.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from disks import mounted  # noqa: E402
from forge import Forge  # noqa: E402
from launching import BIN, FOLDERS, NETWORK, Launched  # noqa: E402  (stands beside this file)


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Callable[..., None]:
    """survived(fault, promise, count=1): call it first thing; the counts are lost if the test fails afterwards."""

    def note(fault: str, promise: str, count: int = 1) -> None:
        request.node.user_properties.append(("fault", (fault, promise, count)))

    return note


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """start("semantic_diffusion_model/image_train.py", flags, launcher=[...], VARIABLE="value") -> Launched."""
    launched: list[Launched] = []

    def begin(command: str, flags: list, launcher: tuple | list = (), **environment: str) -> Launched:
        folder, script = command.split("/")
        python = [] if launcher and launcher[0] == "torchrun" else [sys.executable]
        words = [BIN / launcher[0], *launcher[1:]] if launcher else []
        log = tmp_path / f"log{len(launched)}.txt"
        launched.append(Launched([*words, *python, script, *flags], log, FOLDERS[folder], environment))
        return launched[-1]

    yield begin
    for one in launched:
        one.end()


@pytest.fixture(scope="session")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datadir of the diffusion model with 10 training and 5 validation images of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("training", 10), ("validation", 5)):
        for kind in ("images", "sector_annotations"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = generator.integers(0, 5, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            image = (labels * 40 + generator.integers(0, 40, labels.shape)).astype(np.uint8)
            name = f"{'p' if split == 'training' else 'v'}{i + 1}.png"
            Image.fromarray(labels).save(folder / "sector_annotations" / split / name)
            Image.fromarray(image).save(folder / "images" / split / name)
    return folder


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """Phantoms, which take some time to extract at a large size."""
    folder = tmp_path_factory.mktemp("release") / "camus"
    words = [sys.executable, "make_phantom_camus.py", "--save_folder", folder, "--n_patients", "10", "--size", "96"]
    subprocess.run([*map(str, words), "--num_workers", "0"], cwd=FOLDERS["data_preparation"], check=True)
    return folder


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the segmentation: 8 + 4 images of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("hearts")
    generator = np.random.default_rng(0)
    for split, count in (("training", 8), ("validation", 4)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            label = generator.integers(0, 4, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            for kind, pixels in (("annotations", label), ("images", 60 * label)):
                Image.fromarray(pixels).save(folder / kind / split / f"patient{i:04d}_2CH_ED_{split}.png")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network whose every parameter is random: a fresh one predicts zeros."""
    from config import Settings
    from guided_diffusion.network.from_settings import build_network
    from guided_diffusion.runs.checkpoints import ema_name, plain_state_dict, write_torch

    settings = Settings(**NETWORK)
    network = build_network(settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.05, generator=generator)
    folder = tmp_path_factory.mktemp("weights")
    write_torch(str(folder), ema_name(0.9999, 1), plain_state_dict(network.state_dict(), settings))
    return folder / ema_name(0.9999, 1)


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Starts commands in milliseconds (see forge.py)."""
    forge = Forge()
    yield forge
    forge.close()


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

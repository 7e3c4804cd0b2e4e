"""A small data set, a network of a few layers, and ways to run the commands, for the tests of the diffusion model."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "semantic_diffusion_model"
BIN = Path(sys.executable).parent

# The smallest network with every kind of layer; the whole batch is four images on any number of ranks.
TINY = {
    "img_size": 16,
    "num_channels": 32,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "attention_resolutions": "8",
    "num_head_channels": 32,
    "num_workers": 0,
    "device": "cpu",
    "preview_steps": 0,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small gain nothing from more, and on a busy machine threads that wait for one another lose much."""
    torch.set_num_threads(1)


class Launched(subprocess.Popen):
    """A command in the background."""

    def finish(self, seconds: float = 150) -> str:
        """All that it printed; the test fails if it takes longer."""
        try:
            return self.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still running after {seconds} s:\n{self.communicate()[0]}")


def write_pictures(folder: Path, count: int, size: int = 16, classes: int = 5, seed: int = 0) -> None:
    """Grey images and label maps p1.png .. in the layout of camus, `count` for training and half as many besides."""
    generator = np.random.default_rng(seed)
    for split, number in (("training", count), ("validation", max(2, count // 2))):
        for kind in ("images", "sector_annotations"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            labels = generator.integers(0, classes, (4, 4)).repeat(size // 4, 0).repeat(size // 4, 1).astype(np.uint8)
            image = (labels * 40 + generator.integers(0, 40, labels.shape)).astype(np.uint8)
            name = f"{'p' if split == 'training' else 'v'}{i + 1}.png"
            Image.fromarray(labels).save(folder / "sector_annotations" / split / name)
            Image.fromarray(image).save(folder / "images" / split / name)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datadir with 10 training and 5 validation images of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 10)
    return folder


@pytest.fixture(scope="session")
def tiny_changes() -> dict:
    """The settings of `tiny` that are not the defaults."""
    return TINY


@pytest.fixture(scope="session")
def tiny(pictures: Path) -> Callable:
    """Settings of a tiny training, with changes."""
    from config import Settings

    def settings(**changes) -> Settings:
        return Settings(**(TINY | {"datadir": str(pictures)} | changes))

    return settings


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory, tiny: Callable) -> Path:
    """A weights file of the tiny network whose every parameter is random: a fresh network outputs zeros."""
    from guided_diffusion.network.from_settings import build_network

    network = build_network(tiny())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.05, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "start.pt"
    torch.save(dict(network.state_dict()), path)  # without settings, as a published file
    return path


@pytest.fixture(scope="session")
def as_flags() -> Callable:
    """Settings as words of a command line."""

    def words(**settings) -> list[str]:
        return [word for name, value in settings.items() for word in (f"--{name}", str(value))]

    return words


@pytest.fixture(scope="session")
def launch() -> Callable:
    """Start `launcher` + python + `words` in the background, with one thread per process and the output captured."""

    def start(launcher: list[str], words: list[str], **environment: str) -> Launched:
        words = [str(BIN / launcher[0]), *launcher[1:], *words] if launcher else words
        return Launched(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=FOLDER,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER)} | environment,
        )

    return start

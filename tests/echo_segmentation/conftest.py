"""Folders of drawn hearts, and the two commands run in this process."""

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runner
import test_model
from command import run_command
from settings import TestSettings, TrainSettings

sys.path.append(str(Path(__file__).parent))  # for drawn_release
from drawn_release import make_release  # noqa: E402
from predicting import SIZES, write_medical  # noqa: E402

FRAMES = [(view, phase) for view in ("2CH", "4CH") for phase in ("ED", "ES")]
SPLITS = {"training": 4, "validation": 1, "testing": 2}  # patients
GEOMETRY = ["native_height", "native_width", "spacing_depth_mm", "spacing_lateral_mm"]
FRAME = (400, 300, 0.3, 0.35)  # 120 mm deep, 105 mm wide
COLUMNS = ["stem", "patient", "view", "phase", "split", *GEOMETRY, "image_quality", "ef", "edv_ml", "esv_ml"]
TINY = ("--img-size", "32", "--decoder-channels", "16", "8", "8", "--batch-size", "8", "--gpu", "cpu", "--lr", "0.01")


def draw_heart(rng: np.random.Generator, phase: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A cavity in its wall above an atrium, each of its own brightness; smaller at end systole."""
    rows, columns = np.mgrid[:size, :size] / size
    centre = 0.5 + rng.uniform(-0.05, 0.05)
    radius = (0.8 if phase == "ES" else 1.0) * rng.uniform(0.13, 0.17)
    distance = np.hypot((rows - 0.45) / 2, columns - centre)
    label = np.zeros((size, size), np.uint8)
    label[distance < radius + 0.08] = 2
    label[distance < radius] = 1
    label[rows > 0.65] = 0
    label[(rows > 0.65) & (np.hypot(rows - 0.75, columns - centre) < 0.14)] = 3
    image = np.array([90, 20, 160, 240])[label] + rng.normal(0, 8, label.shape)
    return image.clip(0, 255).astype(np.uint8), label


@pytest.fixture(scope="session")
def draw_one() -> Callable:
    """draw_one(rng, "ED" or "ES", size) -> image and label of one heart, (size, size) uint8 each."""
    return draw_heart


@pytest.fixture(scope="session")
def make_folder() -> Callable:
    """make_folder(path, patients=SPLITS, size=64): images, annotations and metadata.csv of drawn hearts."""

    def make(folder: Path, patients: dict[str, int] = SPLITS, size: int = 64) -> Path:
        rows = []
        for s, (split, count) in enumerate(patients.items()):
            for kind in ("images", "annotations"):
                (folder / kind / split).mkdir(parents=True)
            for number in range(1, count + 1):
                rng = np.random.default_rng([s, number])
                for view, phase in FRAMES:
                    stem = f"patient{number:04d}_{view}_{phase}_{split}"
                    for kind, array in zip(("images", "annotations"), draw_heart(rng, phase, size), strict=True):
                        Image.fromarray(array).save(folder / kind / split / f"{stem}.png")
                    quality = "Good" if number % 2 else "Poor"
                    reported = [55 + number, "", ""] if view == "4CH" else ["", "", ""]
                    rows.append([stem, f"patient{number:04d}", view, phase, split, *FRAME, quality, *reported])
        with open(folder / "metadata.csv", "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        return folder

    return make


@pytest.fixture(scope="session")
def hearts(make_folder, tmp_path_factory) -> Path:
    """A folder of drawn hearts that no test changes."""
    return make_folder(tmp_path_factory.mktemp("hearts"))


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """A release with its view folders `area` and `nearest`, that no test changes."""
    return make_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Flags of a training that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def train() -> Callable:
    """train("--flag", "value", ...) -> exit code of runner.py."""
    return lambda *flags: run_command(runner.main, TrainSettings, [str(flag) for flag in flags])


@pytest.fixture(scope="session")
def judge() -> Callable:
    """judge("--flag", "value", ...) -> exit code of test_model.py."""
    return lambda *flags: run_command(test_model.main, TestSettings, [str(flag) for flag in flags])


@pytest.fixture(scope="session")
def trained(hearts, train, tmp_path_factory) -> Path:
    """Output folder of a whole run on drawn hearts, which no test changes."""
    output = tmp_path_factory.mktemp("trained") / "output"
    assert train("--data-dir", hearts, "--output-dir", output, *TINY, "--epochs", 40, "--bootstrap", 50) == 0
    return output


@pytest.fixture
def trained_again(trained, tmp_path) -> Path:
    """A copy of it, to run once more in."""
    return shutil.copytree(trained, tmp_path / "trained")


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

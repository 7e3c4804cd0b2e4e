"""Faults done to real runs: processes, signals, files and mounts; and the table of what survived.

A test says what it does, and what is promised, by `survived(fault, promise, count)`; the table at the end adds up the
counts of each fault, those of tests that failed apart.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from launching import BIN, FOLDERS, Launched  # noqa: E402  (stands beside this file)

PROPERTY = "fault"


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Callable[..., None]:
    """survived(fault, promise, count=1): call it first thing; the counts are lost if the test fails afterwards."""

    def note(fault: str, promise: str, count: int = 1) -> None:
        request.node.user_properties.append((PROPERTY, (fault, promise, count)))

    return note


def pytest_terminal_summary(terminalreporter) -> None:
    totals: dict[tuple[str, str], list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when != "call":
                continue
            for name, value in report.user_properties:
                if name == PROPERTY:
                    total = totals.setdefault(tuple(value[:2]), [0, 0])
                    total[0] += value[2] * (outcome == "passed")
                    total[1] += value[2]
    if not totals:
        return
    terminalreporter.write_line("")
    terminalreporter.write_line("| fault | promise | survived |")
    terminalreporter.write_line("| --- | --- | ---: |")
    for (fault, promise), (good, tried) in sorted(totals.items()):
        terminalreporter.write_line(f"| {fault} | {promise} | {good} of {tried} |")


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

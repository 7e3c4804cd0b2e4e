"""Folders of small echoes, and the command in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for small_echoes
from small_echoes import write_real, write_synthetic  # noqa: E402


@pytest.fixture(scope="session")
def real_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training frames, 12 for validation and 12 for testing."""
    folder = tmp_path_factory.mktemp("real")
    write_real(folder, {"training": 40, "validation": 12, "testing": 12})
    return folder


@pytest.fixture(scope="session")
def synthetic_dir(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 label maps, two images of each."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder, real_dir, 50, rounds=2)
    return folder


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., int]:
    """The command in this process: its flags by name -> its exit code."""
    from evaluation_settings import EvaluationSettings
    from guided_diffusion.runs import launch
    from image_evaluate import main

    def run(**flags: object) -> int:
        args: list[str] = []
        for name, value in ({"bootstrap": 200, "ssim_pairs": 20} | flags).items():
            args += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
        return launch.run(main, EvaluationSettings, args=args)

    return run

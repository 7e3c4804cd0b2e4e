"""Made-up data sets, and ways to run the commands on them."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for made_up_sets
from made_up_sets import write_heads, write_stills  # noqa: E402


@dataclass
class Outcome:
    code: int
    out: str
    err: str


SETTINGS = {
    "extract_dataset": "OwnSettings",
    "augment_camus_labels": "AugmentSettings",
    "prepare_inference4segmentation": "PrepareSettings",
    "export_nnunet": "ExportSettings",
}


@pytest.fixture
def run(capfd) -> Callable[..., Outcome]:
    """run(command of data_preparation, *arguments) in this process -> exit code, standard output, standard error."""

    def run_(name: str, *args: object) -> Outcome:
        from command import run_command

        capfd.readouterr()
        module = importlib.import_module(name)
        words = [*map(str, args), "--num_workers", "0"]
        code = run_command(getattr(module, name), getattr(module, SETTINGS[name]), words)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_


@pytest.fixture
def heads(tmp_path) -> Path:
    """A folder of made-up fetal heads: pictures/, maps/, splits.csv, dataset.json."""
    return write_heads(tmp_path / "heads", patients=5, size=32).parent


@pytest.fixture
def stills(tmp_path) -> Path:
    """A folder of made-up stills of a heart: frames/ with label maps beside, dataset.json."""
    return write_stills(tmp_path / "stills", patients=8).parent


@pytest.fixture
def extract_heads(run, heads, tmp_path) -> Callable[..., Outcome]:
    """Extract the heads into tmp_path/views, as dataset.json says."""

    def extract(*flags: object) -> Outcome:
        where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", heads / "dataset.json")
        size = ("--save_folder_path", tmp_path / "views", "--save_img_size", 32)
        return run("extract_dataset", *where, *size, *flags)

    return extract


@pytest.fixture
def describe(heads) -> Callable[[Callable[[dict], object]], None]:
    """describe(change): change the heads' dataset.json, given as a dictionary."""

    def rewrite(change: Callable[[dict], object]) -> None:
        path = heads / "dataset.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return rewrite

"""Small phantom releases, what is extracted from them, and a way to run a command in this process."""

import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for extracting and preparing
from preparing import VIEWS, sample  # noqa: E402

COMMANDS = {
    "make_phantom_camus": "PhantomSettings",
    "extract_camus_data": "ExtractSettings",
    "augment_camus_labels": "AugmentSettings",
    "prepare_inference4segmentation": "PrepareSettings",
    "export_nnunet": "ExportSettings",
}


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def call(name: str, *args: object) -> int:
    """The exit code of command `name` with these arguments, run in this process without workers."""
    from command import run_command

    module = importlib.import_module(name)
    words = [str(arg) for arg in args]
    if "--num_workers" not in words:
        words += ["--num_workers", "0"]
    return run_command(getattr(module, name), getattr(module, COMMANDS[name]), words)


@pytest.fixture(scope="session")
def command_names() -> list[str]:
    return list(COMMANDS)


@pytest.fixture
def run(capfd) -> Callable[..., Outcome]:
    """run(command, *arguments) -> exit code, standard output, standard error."""

    def run_(name: str, *args: object) -> Outcome:
        capfd.readouterr()
        code = call(name, *args)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_


@pytest.fixture(scope="session")
def releases(tmp_path_factory) -> dict[str, Path]:
    """The same ten phantoms in both release layouts; not to be changed."""
    root = tmp_path_factory.mktemp("releases")
    for kind in ("nifti", "mhd"):
        arguments = ("--n_patients", 10, "--size", 96, "--release", kind)
        assert call("make_phantom_camus", "--save_folder", root / kind, *arguments) == 0
    return {kind: root / kind for kind in ("nifti", "mhd")}


@pytest.fixture
def release(releases, tmp_path) -> Callable[[str], Path]:
    """release(kind) -> a copy of the phantoms that a test may damage."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(releases[kind], tmp_path / f"camus_{kind}"))

    return copy


@pytest.fixture(scope="session")
def extracted(releases, tmp_path_factory) -> Path:
    """The phantoms extracted at 64 x 64; not to be changed."""
    out = tmp_path_factory.mktemp("extracted")
    size = ("--save_img_size", 64)
    assert call("extract_camus_data", "--camus_data_folder", releases["nifti"], "--save_folder_path", out, *size) == 0
    return out


@pytest.fixture(scope="session")
def augmented(extracted, tmp_path_factory) -> Path:
    """Deformed label maps, two per frame, of every view folder; not to be changed."""
    out = tmp_path_factory.mktemp("augmented")
    assert call("augment_camus_labels", "--data_folder", extracted, "--save_folder", out, "--n_repeat", 2) == 0
    return out


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """tree(folder) -> the content of every file in it by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


@pytest.fixture
def results(augmented, tmp_path) -> Path:
    """Results of two views in one parent folder, whose path holds the word samples."""
    root = tmp_path / "samples_of_today" / "results"
    for view in VIEWS:
        sample(augmented / f"{view}_augmented", root / f"results_{view}")
    return root

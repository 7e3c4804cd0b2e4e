"""The three script folders stand alone, and share nothing but some small files."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")
COMMANDS = [
    *(f"data_preparation/{name}.py" for name in ("extract_camus_data", "extract_dataset", "augment_camus_labels")),
    *(f"data_preparation/{name}.py" for name in ("prepare_inference4segmentation", "make_phantom_camus")),
    *(
        f"semantic_diffusion_model/{name}.py"
        for name in ("image_train", "image_sample", "image_evaluate", "image_average")
    ),
    *(f"echo_segmentation/{name}.py" for name in ("runner", "test_model")),
]


def modules(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob("*.py")} | {
        path.name for path in (ROOT / folder).iterdir() if (path / "__init__.py").exists()
    }


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_imports_another(folder):
    others = set().union(*(modules(other) for other in FOLDERS if other != folder)) - modules(folder)
    assert others
    for path in (ROOT / folder).rglob("*.py"):
        assert not imported(path) & others, path


@cache
def defined(path: Path) -> set[str]:
    """Names that `from <the module at path> import` finds: bound at the top, if only in a branch, or modules beside."""
    names = {other.stem for other in path.parent.iterdir()} if path.name == "__init__.py" else set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def test_what_scripts_import_of_the_project_is_there():
    """Also those that no test runs: each name that is imported from a module of ours is one of its names."""
    folders = [ROOT / name for name in (*FOLDERS, "pipelines", "benchmarks", "docs", "README_assets")]
    wrong, found = [], 0
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            place = node.module.replace(".", "/")
            files = [f for folder in folders for f in (folder / f"{place}.py", folder / place / "__init__.py")]
            files = [file for file in files if file.is_file()]
            for alias in node.names if files else ():
                found += 1
                if not any(alias.name in defined(file) for file in files):
                    wrong.append(f"{path.relative_to(ROOT)}: {alias.name} of {node.module}")
    assert not wrong and found > 1000


NAMES = [path.name for folder in FOLDERS for path in (*(ROOT / folder).glob("*.py"), ROOT / folder / "camus.json")]
SHARED = sorted({name for name in NAMES if NAMES.count(name) > 1})


@pytest.mark.parametrize("name", SHARED)
def test_files_of_one_name_are_the_same_in_every_folder(name):
    files = [ROOT / folder / name for folder in FOLDERS if (ROOT / folder / name).exists()]
    assert len({file.read_bytes() for file in files}) == 1


def test_the_readers_stand_in_every_folder_that_needs_them():
    everywhere = "command.py", "picture_files.py", "text_files.py", "progress.py", "camus.json"
    assert all(NAMES.count(name) == len(FOLDERS) for name in everywhere)
    assert all(NAMES.count(name) == 2 for name in ("medical_images.py", "unwrapping.py"))


def test_the_published_name_of_the_segmentation_s_folder_leads_to_it():
    link = ROOT / "echo_segmentations"
    assert link.is_symlink() and link.readlink() == Path("echo_segmentation")


def test_torchvision_is_not_imported_by_our_own_code():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert "torchvision" not in imported(path), path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_a_command_does(command):
    done = subprocess.run([sys.executable, ROOT / command, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "default:" in done.stdout
    assert len(done.stdout.splitlines()) > 10


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "pipelines/demo_checkpoint/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_finished_and_what_they_link_to_is_there(page):
    text = (ROOT / page).read_text()
    assert "@@" not in text
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link

"""The files about the project say what is true of it, as far as that can be checked here."""

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_paper_to_cite_is_that_of_the_readme():
    paper, readme = read_yaml("CITATION.cff")["preferred-citation"], (ROOT / "README.md").read_text()
    assert f"https://doi.org/{paper['doi']}" in readme
    assert re.sub(r"\s+", " ", readme).count(paper["title"]) == 1
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert authors in readme and f"{paper['start']}--{paper['end']}" in readme
    assert read_yaml("CITATION.cff")["license"] == "MIT" and (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_ci_runs_the_check_that_everybody_can_run_on_pythons_that_are_promised():
    job = read_yaml(".github/workflows/ci.yml")["jobs"]["check"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    oldest = re.search(r'target-version = "py3(\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    versions = job["strategy"]["matrix"]["python"]
    assert versions[0] == f"3.{oldest}" and all(isinstance(version, str) for version in versions)


def test_conda_and_the_container_install_what_is_locked():
    pip = read_yaml("environment.yml")["dependencies"][-1]["pip"]
    assert pip == ["-r requirements.lock"]
    assert "COPY requirements.lock" in (ROOT / "Dockerfile").read_text()
    assert re.search("^mpich==", (ROOT / "requirements.lock").read_text(), re.M)  # which `MPI=system` takes out


def test_the_container_gets_all_that_is_tracked_but_no_data():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    kept = ["requirements.lock", "pipelines", "data_preparation", "echo_segmentations", "README_assets", "LICENSE"]
    assert not [name for name in kept for pattern in ignored if fnmatch(name, pattern)]
    git = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")}
    assert git <= set(ignored)


def test_the_dockerfile_passes_its_linter():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout

"""Links that lead nowhere or in circles: what they stand for is not absent, and what lies behind others is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import NETWORK

import dataset_description
import recordings
import view_folders
from cases import find_cases, read_metadata
from command import UserError
from config import Settings
from dataset import load_cases
from guided_diffusion.data.description import read_description
from input_files import real_path
from predictions import find_predictions

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "/nowhere/at/all"


def test_pictures_that_links_have_lost_are_refused(hearts, tmp_path, survived):
    """Passed over, both of a pair, a table would be of fewer patients than it looks."""
    survived("a link that leads nowhere in place of a file", "refused in one line", 2)
    shutil.copytree(hearts, tmp_path / "data")
    for kind in ("images", "annotations"):
        lost = tmp_path / "data" / kind / "validation" / "patient0002_2CH_ED_validation.png"
        lost.unlink()
        lost.symlink_to(NOWHERE)
    cases = find_cases(str(tmp_path / "data"), "validation")
    assert len(cases) == 4
    with pytest.raises(UserError, match=r"patient0002_2CH_ED_validation\.png cannot be read"):
        load_cases(cases, 64, 4, 1.0)
    found = find_predictions(tmp_path / "data" / "annotations" / "validation", cases)
    assert len(found) == 4
    with pytest.raises(UserError, match=r"patient0002_2CH_ED_validation\.png cannot be read"):
        recordings.find_recordings([tmp_path / "data" / "images" / "validation"])


@pytest.mark.parametrize("name", ["dataset.json", "metadata.csv"])
def test_a_description_that_a_link_has_lost_is_not_that_of_camus(datadir, tmp_path, name, survived):
    survived("a link that leads nowhere in place of a file", "refused in one line", 2)
    shutil.copytree(datadir, tmp_path / "data")
    (tmp_path / "data" / name).symlink_to(NOWHERE)
    if name == "dataset.json":
        settings = Settings(**NETWORK | {"datadir": str(tmp_path / "data")})
        readers = (lambda: read_description(settings), lambda: dataset_description.read_description(tmp_path / "data"))
    else:
        readers = (
            lambda: read_metadata(tmp_path / "data" / name),
            lambda: view_folders.read_metadata(tmp_path / "data"),
        )
    for read in readers:
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read()
    (tmp_path / "data" / name).unlink()
    (tmp_path / "data" / name).mkdir()
    for read in readers:
        with pytest.raises(UserError, match=f"{name} is no regular file"):
            read()


def test_frames_behind_links_are_predicted_too(hearts, tmp_path):
    (tmp_path / "in" / "own").mkdir(parents=True)
    (tmp_path / "in" / "patients").symlink_to(hearts / "images")
    (tmp_path / "in" / "own" / "again").symlink_to(tmp_path / "in")  # in a circle: once
    shutil.copy(next((hearts / "images" / "training").iterdir()), tmp_path / "in" / "own" / "a.png")
    (tmp_path / "in" / ".hidden").mkdir()
    shutil.copy(tmp_path / "in" / "own" / "a.png", tmp_path / "in" / ".hidden" / "b.png")
    assert len(recordings.images_in(tmp_path / "in")) == 8 + 4 + 1


def test_links_in_a_circle_are_one_line(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert real_path(loop) == Path(os.path.realpath(loop))
    for words in (
        ["data_preparation/augment_camus_labels.py", "--data_folder", loop, "--save_folder", loop],
        ["data_preparation/extract_camus_data.py", "--camus_data_folder", tmp_path, "--save_folder_path", loop / "x"],
        ["echo_segmentation/test_model.py", "--data-dir", tmp_path, "--model-path", loop, "--output-dir", loop / "x"],
    ):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr

"""--extra-data-dir: more images to train on, none of them of a patient who is held out."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cases import SPLITS, find_cases
from checkpoint import load_file
from command import UserError
from dataset import load_cases
from dataset_description import camus
from extra_data import find_extra, same_person

SHORT = ("--epochs", 1, "--test-viz-num", 0)


@pytest.fixture(scope="module")
def synthetic(make_folder, tmp_path_factory) -> Path:
    """Two hearts to train on; its validation and testing have no part in anything."""
    return make_folder(
        tmp_path_factory.mktemp("synthetic") / "all_views", {"training": 2, "validation": 2, "testing": 1}
    )


def renamed(folder: Path, new: Path, old_name: str, new_name: str) -> Path:
    """A copy of `folder` with `old_name` in each name of a training image replaced, in metadata.csv too."""
    shutil.copytree(folder, new)
    for kind in ("images", "annotations"):
        for file in (new / kind / "training").iterdir():
            file.rename(file.with_name(file.name.replace(old_name, new_name)))
    table = new / "metadata.csv"
    table.write_text(table.read_text().replace(old_name, new_name))
    return new


def with_sources(folder: Path, pattern: str) -> Path:
    """`folder`, whose metadata.csv then says where each frame comes from: `pattern` with {split} and {patient}."""
    with open(folder / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "source"])
        writer.writeheader()
        writer.writerows(row | {"source": pattern.format(**row)} for row in rows)
    return folder


def test_images_are_added_to_the_training_alone(train, hearts, synthetic, tiny, tmp_path, capsys):
    command = ("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path / "run")
    assert train(*command, "--extra-data-dir", synthetic) == 0
    said = capsys.readouterr()
    assert f"training images: 16 of {hearts}, 8 of {synthetic}; 24 in all" in said.out
    assert "differ in size" not in said.err
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["extra_data_dir"] == [str(synthetic)]
    state = load_file(tmp_path / "run" / "last.pth")
    steps = next(int(v) for name, v in state["network"].items() if name.endswith("num_batches_tracked"))
    assert steps == 3  # batches of 8
    assert state["data"]["validation"] == load_cases(find_cases(str(hearts), "validation"), 32, 4, 4).digest
    with open(tmp_path / "run" / "metrics.csv") as file:
        assert {row["stem"] for row in csv.DictReader(file)} == {c.stem for c in find_cases(str(hearts), "testing")}


def test_images_of_data_dir_can_be_drawn_more_often(train, hearts, synthetic, tiny, tmp_path, capsys):
    command = ("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path / "run")
    assert train(*command, "--extra-data-dir", synthetic, "--oversample", 3) == 0
    said = capsys.readouterr().out
    assert f"training images: 16 of {hearts} (3 times each), 8 of {synthetic}; 56 in all" in said
    state = load_file(tmp_path / "run" / "last.pth")
    steps = next(int(v) for name, v in state["network"].items() if name.endswith("num_batches_tracked"))
    assert steps == 7  # batches of 8
    assert train(*command, "--extra-data-dir", synthetic) == 2
    assert "--oversample: 3 there, 1 now" in capsys.readouterr().err
    assert train(*command[:-1], tmp_path / "alone", "--oversample", 2) == 2
    assert "--oversample 2: nothing to weigh against" in capsys.readouterr().err
    assert not (tmp_path / "alone").exists()


def test_mean_and_deviation_are_of_all_images(train, hearts, synthetic, tiny, tmp_path):
    assert train("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path, "--extra-data-dir", synthetic) == 0
    training = [find_cases(str(folder), "training") for folder in (hearts, synthetic)]
    mean, std = load_cases(sum(training, []), 32, 4, 0).mean_std()
    said = json.loads((tmp_path / "summary.json").read_text())
    assert mean != load_cases(training[0], 32, 4, 0).mean_std()[0]
    assert np.allclose([said["mean"], said["std"]], [mean, std])


def test_other_extra_images_are_another_run(train, hearts, synthetic, make_folder, tiny, tmp_path, capsys):
    command = ("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path / "run")
    assert train(*command, "--extra-data-dir", synthetic) == 0
    moved = shutil.copytree(synthetic, tmp_path / "moved")
    assert train(*command, "--extra-data-dir", moved) == 0  # the same images elsewhere are the same run
    capsys.readouterr()
    more = make_folder(tmp_path / "more", {"training": 3})
    for changed in ([], ["--extra-data-dir", more], ["--extra-data-dir", synthetic, more]):
        assert train(*command, *changed) == 2
        error = capsys.readouterr().err
        assert "--data-dir or --extra-data-dir: other images or labels of training" in error


def test_patients_held_out_are_refused(train, hearts, synthetic, tiny, tmp_path, capsys):
    command = ("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path / "run", "--extra-data-dir")
    # Frames of the testing split, deformed and drawn anew, in the folder to train on.
    leaky = renamed(synthetic, tmp_path / "leaky", "_training", "_testing_3")
    assert train(*command, synthetic, leaky) == 2
    error = capsys.readouterr().err
    assert f"--extra-data-dir {leaky}: training images of 2 patients that are kept for validation or test" in error
    assert "patient0001 (testing): patient0001_2CH_ED_testing_3" in error
    # Names that say no split, as of own data: the same patient then is the same person.
    plain = renamed(synthetic, tmp_path / "plain", "_training", "_a")
    assert train(*command, plain) == 2
    assert "patient0002 (testing): patient0002_2CH_ED_a" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_where_sources_are_known_they_tell_who_is_who(hearts, synthetic, tmp_path):
    real = with_sources(shutil.copytree(hearts, tmp_path / "real"), "database_nifti/{patient}/a.nii.gz")
    same = with_sources(shutil.copytree(synthetic, tmp_path / "same"), "database_nifti/{patient}/a.nii.gz")
    older = with_sources(shutil.copytree(synthetic, tmp_path / "older"), "{split}/{patient}/a.mhd")
    testing = find_cases(str(real), "testing")[0]
    assert same_person(find_cases(str(same), "training")[0], testing)
    counted_anew = with_sources(shutil.copytree(hearts, tmp_path / "anew"), "{split}/{patient}/a.mhd")
    assert not same_person(find_cases(str(older), "training")[0], find_cases(str(counted_anew), "testing")[0])
    assert not same_person(find_cases(str(same), "training")[0], find_cases(str(counted_anew), "testing")[0])
    assert not same_person(find_cases(str(same), "training")[0], find_cases(str(hearts), "testing")[0])
    # The NIfTI release counts its patients once: where one is of it, the number is the person.
    elsewhere = with_sources(shutil.copytree(synthetic, tmp_path / "elsewhere"), "database_nifti/{patient}/a/b.gz")
    for folder in (elsewhere, older, synthetic):
        assert same_person(find_cases(str(folder), "training")[0], testing)
    # Without sources, training and testing of the older release are two people who share a number.
    assert not same_person(find_cases(str(synthetic), "training")[0], find_cases(str(hearts), "testing")[0])


def test_of_own_data_a_name_is_one_person_wherever_the_frames_lie(hearts, synthetic, tmp_path):
    """CAMUS' older release counts its patients anew in testing; nobody else's data are taken to do so."""
    real = with_sources(shutil.copytree(hearts, tmp_path / "real"), "hospital/{split}/a.png")
    extra = with_sources(shutil.copytree(synthetic, tmp_path / "extra"), "clips/{split}/a.png")
    cases = {split: find_cases(str(real), split) for split in ("training", "testing")}
    assert len(find_extra([str(extra)], str(real), cases)) == 8  # of CAMUS, by the folders of the sources
    classes = [{"name": name} for name in camus().class_names]
    content = {"name": "Hearts", "names": {"pattern": "(?P<patient>.+)"}, "classes": classes}
    for folder in (real, extra):
        (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="training images of 2 patients that are kept for validation or test") as told:
        find_extra([str(extra)], str(real), cases)
    assert "patient0001 (testing): patient0001_2CH_ED_training" in str(told.value)


def test_a_wrong_folder_is_told_by_its_flag(train, hearts, synthetic, tiny, tmp_path, capsys):
    command = ("--data-dir", hearts, *tiny, "--output-dir", tmp_path / "run", "--extra-data-dir")
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    told = {
        (tmp_path / "no",): "is not a folder",
        (tmp_path,): "images/training is not there",
        (hearts,): "is --data-dir itself",
        (synthetic, f"{synthetic}/%s/"): "stands there twice",
    }
    for folders, text in told.items():
        assert train(*command, *folders) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --extra-data-dir") and text in error and error.count("\n") == 1


def test_other_classes_are_refused(train, hearts, synthetic, tiny, tmp_path, capsys):
    """A value means the class in that place of the list: the same numbers of other classes would be learned as ours."""
    other = shutil.copytree(synthetic, tmp_path / "other")
    classes = [{"name": name} for name in ("background", "skull", "brain", "cavum")]
    content = {"name": "Heads", "names": {"pattern": "(?P<patient>.+)"}, "classes": classes}
    (other / "dataset.json").write_text(json.dumps(content))
    command = ("--data-dir", hearts, *tiny, *SHORT, "--output-dir", tmp_path / "run", "--extra-data-dir", other)
    assert train(*command) == 2
    assert f"{other}: other classes (background, skull, brain, cavum) than {hearts} has" in capsys.readouterr().err


def test_other_sizes_are_told_and_brought_to_one(make_folder, hearts, tmp_path, capsys):
    large = make_folder(tmp_path / "large", {"training": 1}, size=96)
    cases = {split: find_cases(str(hearts), split) for split in SPLITS}
    assert len(find_extra([str(large)], str(hearts), cases)) == 4
    assert f"64 x 64 in {hearts}, 96 x 96 in {large}" in capsys.readouterr().err

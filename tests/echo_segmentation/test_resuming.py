"""A run goes on in its own folder, on the same data: nothing that another one has left is taken up or replaced."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_others_results import files_of

import training
from checkpoint import load_file
from dataset_description import camus


@pytest.fixture
def short(train, make_folder, tiny, tmp_path):
    """A run of two epochs: its command, but for --data-dir, the data and the folder."""
    data = make_folder(tmp_path / "data", {"training": 1, "validation": 1, "testing": 1})
    (data / "metadata.csv").unlink()
    for number, split in enumerate(("validation", "testing"), 2):  # but for CAMUS no patient may be in two splits
        for path in data.glob(f"*/{split}/*"):
            path.rename(path.with_name(path.name.replace("0001", f"000{number}")))
    folder = tmp_path / "run"
    command = ("--output-dir", folder, *tiny, "--epochs", 2, "--test-viz-num", 0)
    assert train("--data-dir", data, *command) == 0
    return command, data, folder


def describe(data, change=lambda content: None):
    """Give the folder CAMUS' own description, changed, as a dataset.json."""
    content = json.loads(camus().as_json())
    change(content)
    (data / "dataset.json").write_text(json.dumps(content))


def test_a_run_does_not_go_on_under_another_description(train, short, capsys):
    command, data, folder = short
    describe(data)
    assert train("--data-dir", data, *command) == 0, "the same, said in a file"
    before = files_of(folder)
    describe(data, lambda content: content["classes"][1].update(name="chamber"))
    assert train("--data-dir", data, *command) == 2
    assert "--data-dir: its dataset.json has other classes than there" in capsys.readouterr().err
    assert files_of(folder) == before


def test_a_run_of_ones_own_data_goes_on_and_not_as_one_of_camus(train, short, tmp_path, capsys):
    command, data, _ = short
    command = ("--data-dir", data, *command, "--output-dir", tmp_path / "own")
    describe(data, lambda content: content.update(name="hearts of our own"))
    assert train(*command) == train(*command) == 0
    (data / "dataset.json").unlink()
    assert train(*command) == 2
    assert "its dataset.json has other name than there" in capsys.readouterr().err


def test_a_state_from_before_the_description_was_kept_goes_on(train, short):
    command, data, folder = short
    state = load_file(folder / "last.pth")
    del state["dataset"]
    torch.save(state, folder / "last.pth")
    describe(data, lambda content: content["classes"][1].update(name="chamber"))
    assert train("--data-dir", data, *command) == 0


def best_in_the_first(folder, change=lambda about: None):
    """model.pth as if its first epoch had been the best, and no last.pth."""
    weights = torch.load(folder / "model.pth", weights_only=True)
    weights._metadata["echo_segmentation"]["epoch"] = 1
    change(weights._metadata["echo_segmentation"])
    torch.save(weights, folder / "model.pth")
    (folder / "last.pth").unlink()


@pytest.mark.parametrize("lost", ["other data", "a second epoch", "data unknown", "other classes"])
def test_weights_are_replaced_by_the_same_first_epoch_alone(train, short, make_folder, tmp_path, capsys, lost):
    """A finished run whose first epoch was the best, and whose last.pth is lost."""
    command, data, folder = short
    best_in_the_first(folder, lambda about: about.pop("data") if lost == "data unknown" else None)
    lines = (folder / "log.csv").read_text().splitlines()[: 3 if lost == "a second epoch" else 2]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    if lost == "other data":
        data = make_folder(tmp_path / "other", {"training": 2, "validation": 1})
    if lost == "other classes":
        describe(data, lambda content: content["classes"][1].update(name="chamber"))
    before = files_of(folder)
    assert train("--data-dir", data, *command) == 2
    assert "without the last.pth of its training" in capsys.readouterr().err
    assert files_of(folder) == before


@pytest.mark.parametrize("place", ["train", "save_best", "log_epoch", "save_last"])
def test_a_run_killed_before_its_first_state_is_taken_up(train, short, tmp_path, monkeypatch, place):
    command, data, whole = short
    command = ("--data-dir", data, *command, "--output-dir", tmp_path / "killed")
    owner = training.Run if place.startswith("save") else training

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed)
        assert train(*command) == 130
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert "settings.json" in left and "last.pth" not in left
    assert train(*command) == 0
    assert (tmp_path / "killed" / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()


def test_a_run_killed_between_log_and_state_is_taken_up(train, short):
    command, data, folder = short
    best_in_the_first(folder)
    lines = (folder / "log.csv").read_bytes().splitlines(keepends=True)
    (folder / "log.csv").write_bytes(b"".join(lines[:2]))
    assert train("--data-dir", data, *command) == 0
    assert (folder / "log.csv").read_bytes().splitlines(keepends=True) == lines


FOREIGN = {
    "log.csv": "step,accuracy\n1,0.5\n",
    "settings.json": json.dumps({"model_path": "m.pth", "input": ["a"], "checkpoint_sha256": "0" * 64}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_log_and_settings_of_something_else_are_not_replaced(train, hearts, tiny, tmp_path, capsys, name):
    (tmp_path / name).write_text(FOREIGN[name])
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--epochs", 1) == 2
    assert f"{name}, which is of no training; give another one" in capsys.readouterr().err
    assert files_of(tmp_path) == {name: FOREIGN[name].encode()}


def test_the_test_stands_in_the_events_once_however_often_a_run_is_started(train, short):
    command, data, folder = short
    assert train("--data-dir", data, *command) == 0
    events = EventAccumulator(str(folder / "logs" / "test")).Reload()
    for tag in ("loss", "dice_mean"):
        assert [scalar.step for scalar in events.Scalars(tag)] == [2]

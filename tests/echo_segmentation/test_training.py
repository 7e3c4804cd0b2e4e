"""A whole run on drawn hearts: what it writes, that it learns, and that resuming equals not stopping."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import training
from checkpoint import load_file, read_checkpoint
from command import UserError
from model import build_network
from training import learning_rate


def read_log(folder) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(first, second):
    states = [torch.load(folder / "model.pth", weights_only=True) for folder in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name


def test_the_network_learns(trained):
    log = read_log(trained)
    assert float(log[-1]["loss"]) < 0.5 * float(log[0]["loss"])
    overall = json.loads((trained / "summary.json").read_text())["overall"]
    assert min(structure["dice"]["mean"] for structure in overall.values()) > 0.6


def test_log_has_the_published_columns_and_evaluates_the_test_split_once(trained):
    log = read_log(trained)
    assert list(log[0]) == ["epoch", "loss", "dice_mean", "val_loss", "val_dice_mean", "test_loss", "test_dice_mean"]
    assert [row["epoch"] for row in log] == [str(epoch) for epoch in range(1, 41)]
    assert all(row["test_loss"] == row["test_dice_mean"] == "" for row in log[:-1])
    with open(trained / "metrics.csv", newline="") as file:
        cases = [[float(row[f"{s}_dice"]) for s in ("lv_endo", "lv_epi", "la")] for row in csv.DictReader(file)]
    assert float(log[-1]["test_dice_mean"]) == pytest.approx(np.mean(cases), abs=1e-5)


def test_the_checkpoint_is_the_best_epoch_and_says_how_it_was_made(trained, hearts):
    checkpoint = read_checkpoint(trained / "model.pth")
    log, said = read_log(trained), checkpoint.description
    best = max(log, key=lambda row: float(row["val_dice_mean"]))
    assert said["epoch"] == int(best["epoch"])
    assert said["val_dice_mean"] == float(best["val_dice_mean"])
    assert said["labels"] == ["background", "lv_cavity", "lv_myocardium", "left_atrium"]
    assert said["settings"]["epochs"] == 40
    assert said["settings"]["data_dir"] == str(hearts)
    assert said["settings"] == json.loads((trained / "settings.json").read_text())
    build_network(checkpoint.architecture).load_state_dict(checkpoint.weights, strict=True)


def test_predictions_are_label_maps_and_figures_are_drawn(trained, hearts):
    names = {file.name for file in (hearts / "images" / "testing").iterdir()}
    assert {file.name for file in (trained / "predictions").iterdir()} == names
    for file in (trained / "predictions").iterdir():
        labels = np.asarray(Image.open(file))
        assert labels.shape == (32, 32)
        assert labels.max() <= 3
    for name in ("dice", "overlays", "ejection_fraction"):
        assert np.asarray(Image.open(trained / "figures" / f"{name}.png")).std() > 0
    for split in ("train", "val", "test"):
        assert list((trained / "logs" / split).glob("events*"))
    assert not list(trained.rglob("*.tmp*"))


DROPPING = ("--loss", "dice_ce", "--encoder-name", "timm-efficientnet-b0")


STOPPED = {(): 7, DROPPING: 7, (*DROPPING, "--cache-gb", 0, "--num-workers", 1): 7, ("--epoch-updates", 2): 5}


@pytest.mark.parametrize(("flags", "stop"), STOPPED.items())
def test_resuming_equals_not_stopping(train, hearts, tiny, tmp_path, monkeypatch, flags, stop):
    """Stopped in the middle of the third epoch; the efficientnet drops paths at random while it trains."""
    command = ("--data-dir", hearts, *tiny, "--batch-size", "6", "--epochs", 3, "--test-viz-num", 0, *flags)
    assert train(*command, "--output-dir", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:

        def stop_in_third_epoch(step, *schedule):
            if step == stop:
                raise KeyboardInterrupt
            return learning_rate(step, *schedule)

        patch.setattr(training, "learning_rate", stop_in_third_epoch)
        assert train(*command, "--output-dir", tmp_path / "stopped") == 130
    assert len(read_log(tmp_path / "stopped")) == 2
    assert train(*command, "--output-dir", tmp_path / "stopped") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    for name in ("log.csv", "metrics.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize("place", ["log_epoch", "save_last"])
def test_every_epoch_is_in_the_events_once_wherever_a_run_was_killed(train, hearts, tiny, tmp_path, monkeypatch, place):
    """Killed in the second epoch, before or after its events are written: TensorBoard shows each of the three once."""
    command = ("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--epochs", 3, "--test-viz-num", 0)
    owner = training if place == "log_epoch" else training.Run
    original, calls = getattr(owner, place), []

    def killed_in_the_second(*arguments):
        calls.append(place)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed_in_the_second)
        assert train(*command) == 130
    assert train(*command) == 0
    for split in ("train", "val"):
        events = EventAccumulator(str(tmp_path / "logs" / split)).Reload()
        for name in ("loss", "dice_mean"):
            assert [event.step for event in events.Scalars(name)] == [1, 2, 3]


def test_last_holds_the_last_epoch_and_model_the_best(train, hearts, tiny, tmp_path):
    """Without a learning rate the weights stay, and so does the Dice: the first epoch remains the best. What changes is
    the statistics of batch normalisation."""
    flags = ("--epochs", 3, "--lr", 0, "--min-lr", 0, "--test-viz-num", 0)
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny, *flags) == 0
    best, last = read_checkpoint(tmp_path / "model.pth"), load_file(tmp_path / "last.pth")
    batches = len(list((hearts / "images" / "training").iterdir())) // 8
    name = next(name for name in last["network"] if name.endswith("num_batches_tracked"))
    assert int(last["network"][name]) == 3 * batches
    assert int(best.weights[name]) == best.description["epoch"] * batches
    assert last["progress"]["log"][-1]["test_dice_mean"] > 0


def test_weights_without_their_training_are_not_written_over(train, trained_again, hearts, tiny, capsys):
    (trained_again / "last.pth").unlink()
    before = (trained_again / "model.pth").read_bytes()
    for epochs in (40, 41):
        assert train("--data-dir", hearts, "--output-dir", trained_again, *tiny, "--epochs", epochs) == 2
        assert "without the last.pth of its training" in capsys.readouterr().err
    assert (trained_again / "model.pth").read_bytes() == before


def test_a_kill_in_the_first_epoch_after_its_weights_were_written(train, hearts, tiny, tmp_path, monkeypatch):
    flags = ("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--epochs", 2)

    def killed(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save_last", killed)
        assert train(*flags) == 130
    assert (tmp_path / "model.pth").exists() and not (tmp_path / "last.pth").exists()
    assert train(*flags, "--cache-gb", 1) == 0  # which changes nothing but speed


@pytest.mark.parametrize(("place", "asked"), [("new", "imagenet"), ("again", "none")])
def test_weights_that_are_replaced_are_not_downloaded(
    train, trained, hearts, tiny, tmp_path, capsys, monkeypatch, place, asked
):
    def told(architecture, encoder_weights):
        raise UserError(f"asked for {encoder_weights}")

    monkeypatch.setattr(training, "build_network", told)
    if place == "again":
        shutil.copy(trained / "last.pth", tmp_path)
    command = ("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--encoder-weights", "imagenet")
    assert train(*command) == 2
    assert f"asked for {asked}" in capsys.readouterr().err
    assert train(*command, "--model-path", trained / "model.pth") == 2
    assert "--encoder-weights imagenet: the weights are those of --model-path" in capsys.readouterr().err


def test_a_training_without_memory_ends_in_one_line(train, hearts, tiny, tmp_path, capsys, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "train", too_large)
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny) == 2
    assert "too small for --batch-size 8" in capsys.readouterr().err


def test_the_epoch_that_is_told_is_that_of_the_weights(train, hearts, tiny, tmp_path, monkeypatch):
    """Where an epoch that was done again came out otherwise, model.pth and the progress may differ."""
    original = training.train

    def and_forget(run, *arguments):
        original(run, *arguments)
        run.progress.best_epoch = 77

    monkeypatch.setattr(training, "train", and_forget)
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--epochs", 1, "--test-viz-num", 0) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["epoch"] == 1


def test_the_runner_shuffles_the_test_cases_too(train, trained_again, hearts, tiny):
    lines = (trained_again / "metrics.csv").read_text().splitlines()
    assert train("--data-dir", hearts, "--output-dir", trained_again, *tiny, "--epochs", 40, "--test-shuffle") == 0
    shuffled = (trained_again / "metrics.csv").read_text().splitlines()
    assert train("--data-dir", hearts, "--output-dir", trained_again, *tiny, "--epochs", 40, "--bootstrap", 50) == 0
    assert lines[1:] != shuffled[1:] and sorted(lines) == sorted(shuffled)
    assert (trained_again / "metrics.csv").read_text().splitlines() == lines


def test_a_finished_run_is_only_evaluated_again(train, trained_again, hearts, tiny, capsys):
    before = (trained_again / "log.csv").read_bytes(), (trained_again / "metrics.csv").read_bytes()
    assert train("--data-dir", hearts, "--output-dir", trained_again, *tiny, "--epochs", 40) == 0
    out = capsys.readouterr().out
    first, *_, written, following = out.splitlines()
    assert first == f"training for 40 epochs on {hearts}: 16 training, 4 validation, 8 testing images"
    assert "epoch 40" in out and f"written into {trained_again}: model.pth (epoch " in written
    assert following.startswith("next: python ") and f"predict.py --model-path {trained_again}/model.pth" in following
    assert following.endswith("--output-dir ./output/predicted")  # ./output/predictions is that of a training
    assert before == ((trained_again / "log.csv").read_bytes(), (trained_again / "metrics.csv").read_bytes())


def test_a_run_from_before_there_was_a_setting_goes_on_with_its_default(train, trained_again, hearts, tiny, capsys):
    state = load_file(trained_again / "last.pth")
    del state["settings"]["epoch_updates"], state["settings"]["oversample"]
    torch.save(state, trained_again / "last.pth")
    flags = ("--data-dir", hearts, "--output-dir", trained_again, *tiny, "--epochs", 40)
    assert train(*flags, "--epoch-updates", 2) == 2
    assert "--epoch-updates: 0 there, 2 now" in capsys.readouterr().err
    assert train(*flags) == 0


def test_other_settings_or_images_are_refused_by_name(train, trained, hearts, tiny, make_folder, tmp_path, capsys):
    command = ("--output-dir", trained, *tiny)
    assert train("--data-dir", hearts, *command, "--epochs", 41, "--loss", "dice_ce") == 2
    error = capsys.readouterr().err
    assert "--epochs: 40 there, 41 now" in error
    assert "--loss: ce there, dice_ce now" in error
    assert "--output-dir:" not in error
    other = make_folder(tmp_path / "other", {"training": 5, "validation": 1})
    assert train("--data-dir", other, *command, "--epochs", 40) == 2
    error = capsys.readouterr().err
    assert "other images or labels of training" in error and "of validation" not in error
    changed = tmp_path / "changed"
    shutil.copytree(hearts, changed)
    file = next((changed / "annotations" / "validation").iterdir())
    Image.fromarray(np.asarray(Image.open(file)).T).save(file)
    assert train("--data-dir", changed, *command, "--epochs", 40) == 2
    error = capsys.readouterr().err
    assert "other images or labels of validation" in error and "of training" not in error


def test_the_seed_decides_and_a_checkpoint_can_be_the_start(train, trained, make_folder, tiny, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"training": 2, "validation": 1})
    command = ("--data-dir", data, *tiny, "--epochs", 1, "--test-viz-num", 0)
    still = ["--model-path", trained / "model.pth", "--lr", 0, "--min-lr", 0]
    for name, flags in {"a": [], "b": [], "c": ["--seed", 1], "d": still}.items():
        assert train(*command, "--output-dir", tmp_path / name, *flags) == 0
    assert "no testing split" in capsys.readouterr().out
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert read_log(tmp_path / "a")[0]["val_loss"] != read_log(tmp_path / "c")[0]["val_loss"]
    ends = [read_checkpoint(folder / "model.pth").weights for folder in (trained, tmp_path / "d")]
    for name in (name for name in ends[0] if "running_" not in name and "num_batches" not in name):
        assert torch.equal(ends[0][name], ends[1][name]), name


def test_patience_ends_a_run(train, make_folder, tiny, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"training": 1, "validation": 1})
    flags = ("--patience", 1, "--epochs", 30, "--lr", "0", "--min-lr", "0", "--test-viz-num", 0)
    assert train("--data-dir", data, *tiny, "--output-dir", tmp_path / "o", *flags) == 0
    assert "no better validation Dice" in capsys.readouterr().out
    log = read_log(tmp_path / "o")
    best = max(range(len(log)), key=lambda i: float(log[i]["val_dice_mean"]))
    assert len(log) == best + 2 < 30


def test_learning_rate_falls_along_half_a_cosine():
    rates = [learning_rate(step, 101, 1e-3, 1e-4) for step in range(101)]
    assert (rates[0], rates[-1]) == (pytest.approx(1e-3), pytest.approx(1e-4))
    assert rates[50] == pytest.approx(5.5e-4)
    assert all(a > b for a, b in zip(rates, rates[1:], strict=False))

"""The losses by hand, and that a test measures what the training did."""

import csv
import json
import math

import pytest
import torch

from losses import make_loss, told_loss


def test_a_test_of_the_checkpoint_has_the_loss_of_its_training(train, judge, hearts, tiny, tmp_path):
    """At any size of the batches: that of the training, taken over each image."""
    flags = ("--data-dir", hearts, "--test-viz-num", 0)
    assert train(*flags, *tiny, "--output-dir", tmp_path / "run", "--epochs", 1, "--loss", "dice_ce") == 0
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        tested = float(list(csv.DictReader(file))[-1]["test_loss"])
    told = [json.loads((tmp_path / "run" / "summary.json").read_text())]
    for size in (3, 8):
        command = ("--model-path", tmp_path / "run" / "model.pth", "--gpu", "cpu", "--batch-size", size)
        assert judge(*flags, *command, "--output-dir", tmp_path / str(size)) == 0
        told.append(json.loads((tmp_path / str(size) / "summary.json").read_text()))
    assert [summary["loss_name"] for summary in told] == ["dice_ce"] * 3
    assert [summary["loss"] for summary in told] == pytest.approx([tested] * 3, rel=1e-5)


def test_losses_by_hand():
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, :2] = 1
    assert make_loss("ce")(logits, labels).item() == pytest.approx(math.log(2))
    assert make_loss("dice_ce")(logits, labels).item() == pytest.approx(math.log(2) + 0.5, abs=1e-5)


def test_the_loss_that_a_checkpoint_tells():
    assert told_loss({"settings": {"loss": "dice_ce"}}) == "dice_ce"
    for description in ({}, {"settings": None}, {"settings": {"loss": "other"}}, {"settings": {"loss": ["ce"]}}):
        assert told_loss(description) == "ce"

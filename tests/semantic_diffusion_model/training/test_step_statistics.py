"""Means by quartile, and the files of the log."""

import csv
import math

import numpy as np
import pytest
import torch

from guided_diffusion.process.timesteps import LossSecondMomentSampler
from guided_diffusion.runs.distributed import World
from guided_diffusion.training.run_log import RunLog
from guided_diffusion.training.step_statistics import StepStatistics


def test_means_in_all_and_by_quartile():
    statistics = StepStatistics(("loss", "mse"), 100, torch.device("cpu"))
    t = torch.tensor([0, 24, 25, 99, 99])
    loss = torch.tensor([1.0, 3.0, 10.0, 4.0, 8.0])
    statistics.add_losses({"loss": loss[:3], "mse": loss[:3] * 2}, t[:3], torch.ones(3))
    statistics.add_losses({"loss": loss[3:], "mse": loss[3:] * 2}, t[3:], torch.ones(2))
    for norm in (1.0, 3.0, math.nan):
        statistics.add_gradient_norm(torch.tensor(norm))
    row = statistics.read(World())
    assert row == pytest.approx(
        {"loss": 5.2, "loss_q0": 2.0, "loss_q1": 10.0, "loss_q3": 6.0, "grad_norm": 2.0}
        | {"mse": 10.4, "mse_q0": 4.0, "mse_q1": 20.0, "mse_q3": 12.0}
    )
    assert statistics.read(World()) == {}
    assert set(row) < set(statistics.columns)


def test_means_are_those_of_uniform_timesteps_however_they_were_drawn():
    """Timesteps drawn by their losses, against the mean over all timesteps in closed form."""
    sampler = LossSecondMomentSampler(40, history=1)
    loss = torch.arange(40.0) ** 2 + 1
    sampler.update(torch.arange(40), loss)
    t, weights = sampler.draw((torch.arange(200_000) + 0.5) / 200_000)
    statistics = StepStatistics(("loss",), 40, torch.device("cpu"))
    statistics.add_losses({"loss": loss[t]}, t, weights)
    row = statistics.read(World())
    assert loss[t].mean() > 1.5 * loss.mean()  # what was drawn is far from uniform
    assert row["loss"] == pytest.approx(loss.mean().item(), rel=1e-2)
    for quartile in range(4):
        assert row[f"loss_q{quartile}"] == pytest.approx(loss.view(4, 10)[quartile].mean().item(), rel=1e-2)


def test_losses_that_are_not_finite_are_left_out():
    statistics = StepStatistics(("loss",), 4, torch.device("cpu"))
    statistics.add_losses({"loss": torch.tensor([2.0, torch.nan, torch.inf])}, torch.tensor([0, 0, 3]), torch.ones(3))
    assert statistics.read(World()) == {"loss": 2.0, "loss_q0": 2.0}


def test_sums_that_were_saved_go_on():
    one, other = (StepStatistics(("loss",), 4, torch.device("cpu")) for _ in range(2))
    one.add_losses({"loss": torch.tensor([1.0, 2.0])}, torch.tensor([0, 1]), torch.ones(2))
    other.load(one.state(World()), World())
    for statistics in (one, other):
        statistics.add_losses({"loss": torch.tensor([6.0])}, torch.tensor([2]), torch.ones(1))
    assert one.read(World()) == other.read(World()) == {"loss": 3.0, "loss_q0": 1.0, "loss_q1": 2.0, "loss_q2": 6.0}


def columns(*terms: str) -> list[str]:
    return StepStatistics(terms, 4, torch.device("cpu")).columns


def rows_of(folder) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_past_the_checkpoint_and_cut_rows_are_dropped(tmp_path):
    names = columns("loss")
    with RunLog(str(tmp_path), 0, 100, names) as log:
        for step in (10, 20, 30):
            log.row({"step": step, "samples": step * 4, "loss": 1 / step, "tflops": 0.5})
        log.say("first")
    with open(tmp_path / "progress.csv", "a") as file:
        file.write("5,7")  # a crash in the middle of a line
    with RunLog(str(tmp_path), 20, 100, names) as log:
        log.row({"step": 25, "samples": 100, "loss": 0.25, "tflops": 0.5})
        log.say("second")
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["10", "20", "25"]
    assert [float(row["loss"]) for row in rows] == [1 / 10, 1 / 20, 0.25]
    assert rows[0]["loss_q0"] == rows[0]["val_loss"] == ""
    said = (tmp_path / "log.txt").read_text().splitlines()
    assert said.index("first") < said.index("second")


@pytest.mark.parametrize("remote", [False, True])
def test_rows_of_a_training_that_left_no_checkpoint_are_kept(tmp_path, monkeypatch, remote):
    monkeypatch.setattr("guided_diffusion.runs.storage.is_remote", lambda path: remote)
    names = columns("loss")
    for first in (1, 2, 3):  # the second time it begins anew, and the third
        with RunLog(str(tmp_path), 0, 100, names) as log:
            log.row({"step": first, "samples": 4, "loss": 1.0, "tflops": 0.5})
    assert [row["step"] for row in rows_of(tmp_path)] == ["3"]
    kept = {path.name: path.read_text().splitlines()[1].split(",")[0] for path in tmp_path.glob("progress_*.csv")}
    assert kept == {"progress_1.csv": "1", "progress_2.csv": "2"}
    assert "are kept in progress_2.csv" in (tmp_path / "log.txt").read_text()


def test_published_columns_keep_their_names(tmp_path):
    published = ["step", "samples", "lr", "lr_anneal_steps", "grad_norm", "param_norm", "lg_loss_scale"]
    published += [f"{term}{end}" for term in ("loss", "mse", "vb") for end in ("", "_q0", "_q1", "_q2", "_q3")]
    with RunLog(str(tmp_path), 0, 1, columns("loss", "mse", "vb")) as log:
        log.row({"step": 1})
    assert set(published) < set(rows_of(tmp_path)[0])


def test_tensorboard_has_the_numbers_and_the_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(str(tmp_path), 0, 10, columns("loss")) as log:
        log.row({"step": 4, "samples": 16, "loss": 0.5})
        log.image("preview", np.zeros((4, 6, 3), np.uint8), 4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 0.5)]
    assert (events.Images("preview")[0].width, events.Images("preview")[0].height) == (6, 4)

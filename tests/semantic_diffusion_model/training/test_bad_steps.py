"""Steps whose loss or weights are no numbers: skipped, told, and without a trace in what is saved."""

import csv
from pathlib import Path

import pytest
import torch

from guided_diffusion.process.diffusion import GaussianDiffusion
from guided_diffusion.runs.distributed import AgreedError
from guided_diffusion.training.loop import train


def skipped_in(folder: Path) -> list[str]:
    """The column skipped_steps of progress.csv."""
    with open(folder / "progress.csv", newline="") as file:
        return [row["skipped_steps"] for row in csv.DictReader(file)]


def test_twenty_bad_steps_in_a_row_stop_the_run_and_leave_the_good_checkpoint(tmp_path, tiny, random_weights):
    common = {"savedir": str(tmp_path), "batch_size_train": 1, "log_interval": 10, "lr": 1e30, "save_interval": 10}
    common |= {"resume_checkpoint": str(random_weights), "lr_anneal_steps": 100}
    # The first step leaves weights that are finite, but so large that the network overflows from then on.
    with pytest.raises(
        AgreedError, match=r"the last 29 steps up to 30 .* the last good checkpoint is .*model000020.pt"
    ):
        train(tiny(**common), set())
    assert skipped_in(tmp_path) == ["9", "19"]
    other = tmp_path / "other"
    with pytest.raises(AgreedError, match=r"the last 29 steps up to 30 .* there is no checkpoint yet"):
        train(tiny(**common | {"savedir": str(other), "save_interval": 1000}), set())


def test_weights_that_are_no_numbers_any_more_are_not_saved(tmp_path, tiny, random_weights):
    common = {"savedir": str(tmp_path), "resume_checkpoint": str(random_weights), "save_interval": 1, "lr": 1e39}
    with pytest.raises(AgreedError, match="at step 1 the weights are infinite.*there is no checkpoint yet"):
        train(tiny(**common), set())
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("left", [None, torch.inf], ids=["saved now", "saved by an older version"])
def test_a_step_that_was_skipped_for_its_loss_does_not_spoil_the_checkpoints_after_it(
    tmp_path, tiny, random_weights, monkeypatch, left
):
    """The timesteps of such a step are not learned from: a loss that is no number must not come into the state."""
    common = {"savedir": str(tmp_path), "resume_checkpoint": str(random_weights), "diffusion_steps": 2}
    common |= {"schedule_sampler": "loss-second-moment", "batch_size_train": 2, "save_interval": 1}
    losses_of = GaussianDiffusion.training_losses
    with monkeypatch.context() as patch:
        spoilt = lambda *args: {name: value * torch.nan for name, value in losses_of(*args).items()}  # noqa: E731
        patch.setattr(GaussianDiffusion, "training_losses", spoilt)
        train(tiny(**common, lr_anneal_steps=1), set())
    assert skipped_in(tmp_path) == ["1"]
    if left is not None:
        state = torch.load(tmp_path / "opt000001.pt", weights_only=True)
        state["timesteps"]["losses"][:, -1] = left
        torch.save(state, tmp_path / "opt000001.pt")
    train(tiny(**common, lr_anneal_steps=2), set())
    assert skipped_in(tmp_path) == ["1", "1"]
    assert torch.load(tmp_path / "opt000002.pt", weights_only=True)["timesteps"]["losses"].isfinite().all()

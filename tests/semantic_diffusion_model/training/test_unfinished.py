"""Weights whose state is lost: never an empty folder, never written over."""

import json
from pathlib import Path

import pytest
import torch

from command import UserError
from guided_diffusion.training import resuming
from guided_diffusion.training.loop import train

COMMON = {"batch_size_train": 1, "log_interval": 10, "save_interval": 2, "ema_rate": "0.5,0.9"}


@pytest.fixture
def run(tmp_path, tiny):
    """run(steps, **changes): train to `steps`, in tmp_path."""

    def to(steps: int, **changes) -> None:
        train(tiny(**COMMON | {"savedir": str(tmp_path), "lr_anneal_steps": steps} | changes), set())

    return to


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.pt")}


LOSSES = {
    "state": ["opt000002.pt"],
    "weights": ["model000002.pt"],
    "all but an average": ["opt000002.pt", "model000002.pt", "ema_0.5_000002.pt"],
    "all but the state": ["model000002.pt", "ema_0.5_000002.pt", "ema_0.9_000002.pt"],
}


@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
def test_what_is_left_of_a_checkpoint_is_not_written_over(tmp_path, run, lost):
    run(2)
    for name in lost:
        (tmp_path / name).unlink()
    before = contents(tmp_path)
    with pytest.raises(UserError, match="without a usable state .* would write over .* --overwrite True") as caught:
        run(4)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    run(4, overwrite=True)
    assert sorted(contents(tmp_path)) == sorted(
        f"{kind}{step:06d}.pt" for kind in ("model", "opt", "ema_0.5_", "ema_0.9_") for step in (2, 4)
    )
    assert torch.load(tmp_path / "opt000004.pt", weights_only=True)["samples"] == 4  # from step 0


def test_weights_of_a_later_step_without_a_state_are_not_written_over(tmp_path, run):
    run(4)
    (tmp_path / "opt000004.pt").unlink()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"model000004.pt.* from step 2 would write over"):
        run(6)
    assert contents(tmp_path) == before


def test_a_damaged_state_falls_back_to_the_checkpoint_before(tmp_path, run, capsys):
    run(4)
    path = tmp_path / "opt000004.pt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    path.write_bytes(whole[:100])
    run(4)
    assert "checkpoint 4 is passed over" in capsys.readouterr().err
    again = torch.load(path, weights_only=True)
    assert again.keys() == state.keys() and again["run"] == state["run"]
    averages = [one["optimizer"]["adamw"]["state"] for one in (state, again)]
    assert averages[0].keys() == averages[1].keys() and averages[0]
    for place, first in averages[0].items():
        assert all(torch.equal(value, averages[1][place][name]) for name, value in first.items())


def test_a_missing_average_begins_anew_from_the_weights(tmp_path, run):
    run(2)
    (tmp_path / "ema_0.9_000002.pt").unlink()
    run(4, save_interval=1)
    assert "ema_0.9_000002.pt is missing: this average begins anew" in (tmp_path / "log.txt").read_text()
    names = [*(f"model{step:06d}.pt" for step in (2, 3, 4)), "ema_0.9_000004.pt"]
    w2, w3, w4, average = (torch.load(tmp_path / name, weights_only=True) for name in names)
    # The warm-up's rate at update k is (1 + k) / (10 + k), below 0.9 here.
    expected = {key: 5 / 14 * (4 / 13 * w2[key] + 9 / 13 * w3[key]) + 9 / 14 * w4[key] for key in w2}
    assert all(torch.allclose(average[key], expected[key], atol=1e-7) for key in w2)
    assert any(not torch.equal(w2[key], w4[key]) for key in w2)


def test_a_save_that_was_killed_is_no_lost_state(tmp_path, run, capsys):
    run(2)
    (tmp_path / "opt000002.pt").unlink()
    names = ["model000002.pt", "ema_0.5_000002.pt", "ema_0.9_000002.pt", "opt000002.pt"]
    (tmp_path / ".saving").write_text(json.dumps([*names, "../../etc/passwd", "notes.txt", 7]))
    (tmp_path / "notes.txt").write_text("mine")
    run(2)
    assert "removed model000002.pt" in capsys.readouterr().err
    assert (tmp_path / "opt000002.pt").exists() and not (tmp_path / ".saving").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_files_of_a_save_are_named_while_it_goes_on(tmp_path, run, monkeypatch):
    """Wherever it is killed: each file that a save has written stands in the list by then."""
    write, seen = resuming.checkpoints.write_torch, []

    def noting(folder, name, content):
        seen.append((name, json.loads((tmp_path / ".saving").read_text())))
        return write(folder, name, content)

    monkeypatch.setattr(resuming.checkpoints, "write_torch", noting)
    run(2)
    assert [name for name, _ in seen][-1] == "opt000002.pt" and len(seen) == 4
    assert all(name in names for name, names in seen)
    assert not (tmp_path / ".saving").exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("deleted", range(7))  # of the six files of steps 1 and 2; the seventh kill is after the last
def test_a_pruning_that_was_killed_is_ended_by_the_next_run(tmp_path, run, monkeypatch, deleted):
    """In the last save of a training: the next run saves nothing, it must end it all the same."""
    few = {"save_interval": 1, "ema_rate": "0.5"}
    run(2, **few)
    remove, left = resuming.storage.remove, [deleted]

    def until_killed(path: str) -> None:
        if path.endswith((".pt", ".saving")) and Path(path).exists():
            if not left[0]:
                raise Killed
            left[0] -= 1
        remove(path)

    monkeypatch.setattr(resuming.storage, "remove", until_killed)
    with pytest.raises(Killed):
        run(3, **few, keep_checkpoints=1)
    monkeypatch.undo()
    assert len(contents(tmp_path)) == 9 - deleted and (tmp_path / ".saving").exists()
    run(3, **few, keep_checkpoints=1)
    assert sorted(contents(tmp_path)) == ["ema_0.5_000003.pt", "model000003.pt", "opt000003.pt"]
    assert not (tmp_path / ".saving").exists()


def test_a_save_that_had_not_begun_prunes_nothing(tmp_path, run, monkeypatch):
    """Killed when it had announced to replace the damaged checkpoint 4: checkpoint 2 is the only good one."""
    run(4)
    path = tmp_path / "opt000004.pt"
    path.write_bytes(path.read_bytes()[:100])

    def killed(path: str) -> None:
        if path.endswith("opt000004.pt"):
            raise Killed

    monkeypatch.setattr(resuming.storage, "remove", killed)
    with pytest.raises(Killed):
        run(4, keep_checkpoints=1)
    monkeypatch.undo()
    run(3, keep_checkpoints=1)
    assert torch.load(tmp_path / "opt000003.pt", weights_only=True)["samples"] == 3  # from step 2, not from 0


def test_pruning_keeps_what_was_just_written_before_a_damaged_later_checkpoint(tmp_path, run):
    run(4)
    path = tmp_path / "opt000004.pt"
    path.write_bytes(path.read_bytes()[:100])
    run(3, keep_checkpoints=1)  # goes on from step 2
    assert {"model000003.pt", "opt000003.pt"} <= contents(tmp_path).keys()
    assert "opt000002.pt" not in contents(tmp_path)


@pytest.mark.parametrize("name", ["../model000002.pt", "/tmp/model000002.pt", "notes.txt"])
def test_a_state_that_names_files_elsewhere_is_not_used(tmp_path, run, name):
    run(2)
    state = torch.load(tmp_path / "opt000002.pt", weights_only=True)
    state["files"][name] = 1
    torch.save(state, tmp_path / "opt000002.pt")
    with pytest.raises(UserError, match="no file of a checkpoint"):
        resuming.read_state(str(tmp_path), 2)


def test_what_overwrite_gives_up_is_there_until_nothing_else_is_wrong(tmp_path, run):
    """A mistake of any kind, found before the first step, must not cost the weights."""
    run(2)
    (tmp_path / "opt000002.pt").unlink()
    before, other = contents(tmp_path), tmp_path / "other"
    other.mkdir()
    other.joinpath("weights.pt").write_bytes(before["model000002.pt"][:1000])
    mistakes = {
        "is not a folder": {"datadir": str(tmp_path / "nowhere")},
        "num_head_channels": {"num_head_channels": 5},
        "is truncated": {"resume_checkpoint": str(other / "weights.pt")},
        "does not exist": {"resume_checkpoint": str(tmp_path / "model000009.pt")},
    }
    for words, wrong in mistakes.items():
        with pytest.raises(UserError, match=words):
            run(4, overwrite=True, **wrong)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("asked", ["model000002.pt", "ema_0.9_000002.pt", "", "linked.pt"])
def test_the_weights_to_start_from_are_not_deleted(tmp_path, run, asked):
    run(2)
    (tmp_path / "opt000002.pt").unlink()
    (tmp_path / "linked.pt").symlink_to(tmp_path / "model000002.pt")
    before = contents(tmp_path)
    words = "--overwrite True would delete .*, from which --resume_checkpoint is to start: give another --savedir$"
    with pytest.raises(UserError, match=words):
        run(4, overwrite=True, resume_checkpoint=str(tmp_path / asked))
    assert contents(tmp_path) == before


def test_weights_to_start_from_that_lie_elsewhere_are_taken_and_what_is_in_savedir_goes(tmp_path, run, random_weights):
    run(4)
    (tmp_path / "opt000004.pt").unlink()
    (tmp_path / "opt000002.pt").unlink()
    run(2, overwrite=True, resume_checkpoint=str(random_weights))
    assert sorted(contents(tmp_path)) == sorted(f"{kind}000002.pt" for kind in ("model", "opt", "ema_0.5_", "ema_0.9_"))

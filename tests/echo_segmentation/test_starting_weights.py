"""A run that began from weights elsewhere goes on without them, and from no others."""

import hashlib
import shutil

import pytest
import torch

import training
from checkpoint import load_file


@pytest.fixture
def begun(train, trained, make_folder, tiny, tmp_path):
    """A run of one epoch from weights elsewhere: its command, but for --model-path, its folder, and the weights."""
    data = make_folder(tmp_path / "data", {"training": 1, "validation": 1})
    weights = tmp_path / "weights" / "start.pth"
    weights.parent.mkdir()
    shutil.copy(trained / "model.pth", weights)
    command = ("--data-dir", data, "--output-dir", tmp_path / "run", *tiny, "--epochs", 1, "--test-viz-num", 0)
    assert train(*command, "--model-path", weights) == 0
    return command, tmp_path / "run", weights


def test_a_run_that_goes_on_does_not_open_the_weights_it_began_with(train, begun, trained, capsys, monkeypatch):
    """They may be gone, or lie elsewhere under another name; other weights are refused, whatever they are called."""
    command, folder, weights = begun
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(training, "read_checkpoint", lambda path: pytest.fail(f"{path} was read"))
    moved = weights.rename(weights.with_name("moved.pth"))
    for place in (moved, moved.parent / ".." / "weights" / "moved.pth", weights):
        assert train(*command, "--model-path", place) == 0
    capsys.readouterr()
    shutil.copy(folder / "model.pth", weights)  # other weights under the old name
    gone = weights.with_name("gone.pth")
    told = {weights: f"--model-path: {weights} has other weights than start.pth had"}
    told |= {gone: f"--model-path: start.pth there, {gone} now"}
    for place, message in told.items():
        assert train(*command, "--model-path", place) == 2
        assert message in capsys.readouterr().err
    assert train(*command) == 2
    assert "--model-path: start.pth there, None now" in capsys.readouterr().err
    assert load_file(folder / "last.pth")["start_sha256"] == digest


def test_a_state_from_before_there_was_a_digest_goes_by_the_name_of_the_weights(train, begun, tmp_path, capsys):
    command, folder, weights = begun
    state = load_file(folder / "last.pth")
    state.pop("start_sha256", None)
    torch.save(state, folder / "last.pth")
    assert train(*command, "--model-path", tmp_path / "elsewhere" / "start.pth") == 0
    assert train(*command, "--model-path", weights.rename(weights.with_name("moved.pth"))) == 2
    assert "--model-path: start.pth there," in capsys.readouterr().err


def test_weights_of_a_first_epoch_are_made_again_from_the_same_start_alone(train, begun, trained, capsys):
    """model.pth of an epoch whose last.pth was not written yet; the start is called alike, and is another."""
    command, folder, weights = begun
    (folder / "last.pth").unlink()
    first = weights.read_bytes()
    changed = torch.load(weights, weights_only=True)
    name = next(name for name in changed if name.endswith("conv1.weight"))
    changed[name] *= 2
    torch.save(changed, weights)
    before = (folder / "model.pth").read_bytes()
    assert train(*command, "--model-path", weights) == 2
    assert "without the last.pth of its training" in capsys.readouterr().err
    assert (folder / "model.pth").read_bytes() == before
    elsewhere = weights.with_name("other_name.pth")
    elsewhere.write_bytes(first)
    assert train(*command, "--model-path", elsewhere) == 0

"""Checkpoints that are damaged, mixed up or of another network: the one before is gone on from, and it is said."""

import copy
import math
import shutil
from pathlib import Path

import pytest
import torch
from launching import NETWORK

from command import UserError
from config import Settings
from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.training.loop import train
from guided_diffusion.training.optimisation import Optimiser
from guided_diffusion.training.resuming import newest_start, read_state

SAVED = (2, 4)
FAULT, PROMISE = "a torn or damaged checkpoint", "the one before is gone on from, said in a line"


@pytest.fixture(scope="module")
def settings_of(datadir):
    def make(savedir: Path, **changes) -> Settings:
        common = NETWORK | {"datadir": str(datadir), "num_workers": 0, "batch_size_train": 2, "preview_steps": 0}
        return Settings(**common | {"savedir": str(savedir), "save_interval": 2, "lr": 1e-3} | changes)

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, settings_of) -> Path:
    """A run of four steps, saved after the second and the fourth."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    train(settings_of(folder, lr_anneal_steps=4, schedule_sampler="loss-second-moment"), set())
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def flip_a_byte_of(path: Path, tensor: torch.Tensor) -> None:
    """Change one bit of the number in the middle of `tensor`, which the file holds."""
    data = bytearray(path.read_bytes())
    raw = tensor.contiguous().numpy().tobytes()
    assert data.count(raw) == 1
    data[data.index(raw) + len(raw) // 2] ^= 1
    path.write_bytes(data)


def flipped_weight(folder: Path) -> None:
    path = folder / "model000004.pt"
    flip_a_byte_of(path, torch.load(path, weights_only=True)["input_blocks.0.0.weight"])


def flipped_average(folder: Path) -> None:
    path = folder / "ema_0.9999_000004.pt"
    flip_a_byte_of(path, torch.load(path, weights_only=True)["input_blocks.0.0.weight"])


def flipped_moment(folder: Path) -> None:
    path = folder / "opt000004.pt"
    flip_a_byte_of(path, torch.load(path, weights_only=True)["optimizer"]["adamw"]["state"][0]["exp_avg"])


def another_weights_file_of_the_same_size(folder: Path) -> None:
    shutil.copy(folder / "model000002.pt", folder / "model000004.pt")


def weights_missing(folder: Path) -> None:
    (folder / "model000004.pt").unlink()


def change_state(folder: Path, change) -> None:
    state = torch.load(folder / "opt000004.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "opt000004.pt")


def moment_of_another_shape(folder: Path) -> None:
    def change(state):
        state["optimizer"]["adamw"]["state"][3]["exp_avg_sq"] = torch.zeros(2)

    change_state(folder, change)


def moment_not_finite(folder: Path) -> None:
    def change(state):
        state["optimizer"]["adamw"]["state"][3]["exp_avg"] *= math.nan

    change_state(folder, change)


def moment_of_no_parameter(folder: Path) -> None:
    change_state(folder, lambda state: state["optimizer"]["adamw"]["state"].update({10**6: {}}))


def names_a_file_elsewhere(folder: Path) -> None:
    change_state(folder, lambda state: state["files"].update({"../model000002.pt": 3}))


def an_entry_missing(folder: Path) -> None:
    change_state(folder, lambda state: state.pop("samples"))


def weights_not_finite(folder: Path) -> None:
    """As an older version, which did not look, may have saved them."""
    path = folder / "model000004.pt"
    content = torch.load(path, weights_only=True)
    content["out.2.bias"] *= math.inf
    content["out.2.bias"] += math.nan
    torch.save(content, path)
    change_state(folder, lambda state: state["files"].update({path.name: path.stat().st_size}))


TEARS = [flipped_weight, flipped_average, flipped_moment, another_weights_file_of_the_same_size, weights_missing]
TEARS += [moment_of_another_shape, moment_not_finite, moment_of_no_parameter, names_a_file_elsewhere, an_entry_missing]
TEARS += [weights_not_finite]


@pytest.mark.parametrize("tear", TEARS, ids=lambda tear: tear.__name__)
def test_the_checkpoint_before_is_taken(copied, tear, survived):
    survived(FAULT, PROMISE)
    said: list[str] = []
    assert newest_start(str(copied), said.append).step == 4 and not said
    tear(copied)
    assert newest_start(str(copied), said.append).step == 2
    (line,) = said
    assert line.startswith("warning: checkpoint 4 is passed over: ") and "\n" not in line and len(line) < 500


def test_a_run_that_goes_on_from_before_the_damage_ends_as_if_there_had_been_none(
    trained, copied, settings_of, capsys, survived
):
    survived(FAULT, PROMISE)
    before = {name: torch.load(trained / name, weights_only=True) for name in ("model000004.pt", "opt000004.pt")}
    moment_of_another_shape(copied)
    train(settings_of(copied, lr_anneal_steps=4, schedule_sampler="loss-second-moment"), set())
    assert "checkpoint 4 is passed over" in capsys.readouterr().err
    weights = torch.load(copied / "model000004.pt", weights_only=True)
    assert all(torch.equal(value, before["model000004.pt"][name]) for name, value in weights.items())
    assert torch.load(copied / "opt000004.pt", weights_only=True)["files"] == before["opt000004.pt"]["files"]


def test_sizes_alone_are_what_older_states_know(copied):
    def to_sizes(state):
        state["files"] = {name: (copied / name).stat().st_size for name in state["files"]}

    change_state(copied, to_sizes)
    assert newest_start(str(copied), pytest.fail).step == 4


def test_a_flipped_byte_is_found_by_every_reader_of_weights(copied, survived):
    survived("a flipped byte in the weights", "refused by each command that reads them")
    flipped_average(copied)
    with pytest.raises(UserError, match="is damaged: the checksum of .* does not fit"):
        read_checkpoint(str(copied / "ema_0.9999_000004.pt"))


@pytest.mark.parametrize("entry", ["timesteps", "metrics"])
def test_other_arrays_of_the_state_are_checked_before_anything_is_loaded(copied, settings_of, entry, survived):
    """Broadcasting would take them silently."""
    survived("wrong values in a state", "one line, exit 2")

    def change(state):
        value = state[entry]
        state[entry] = torch.ones(1) if entry == "metrics" else value | {"counts": torch.ones(1, dtype=torch.int64)}

    change_state(copied, change)
    with pytest.raises(UserError, match=r"opt000004\.pt.* is \[1\], not \["):
        train(settings_of(copied, lr_anneal_steps=6, schedule_sampler="loss-second-moment"), set())


def test_an_optimiser_takes_its_state_alone_and_of_its_own_shapes(trained):
    state = read_state(str(trained), 4)["optimizer"]
    shapes = [value["exp_avg"].shape for value in state["adamw"]["state"].values()]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimiser = Optimiser(parameters, Settings(lr=0.5), "fp32", torch.device("cpu"))
    changed = copy.deepcopy(state)
    changed["adamw"]["param_groups"][0] |= {"betas": "x", "weight_decay": 7.0}
    optimiser.load_state_dict(changed)
    assert optimiser.adamw.param_groups[0]["betas"] == (0.9, 0.999)
    assert optimiser.adamw.param_groups[0]["weight_decay"] == 0.0
    loaded = optimiser.adamw.state_dict()["state"]
    assert all(torch.equal(loaded[i]["exp_avg"], value["exp_avg"]) for i, value in state["adamw"]["state"].items())
    with pytest.raises(UserError, match=r"exp_avg 0 is"):
        Optimiser(
            [torch.nn.Parameter(torch.zeros(2)), *parameters[1:]], Settings(), "fp32", torch.device("cpu")
        ).load_state_dict(state)

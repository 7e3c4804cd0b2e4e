"""What stands in optN.pt, as a schema; and whether its arrays are those of the network that goes on from them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from pydantic import AllowInfNan

from command import UserError
from config import Settings
from guided_diffusion.runs.checkpoints import WEIGHTS_NAME
from guided_diffusion.training.beginning import Beginning
from schema import Record, checked, known_settings, shown
from state_dicts import is_dense

Number = Annotated[int, Interval(ge=0, lt=2**63)]
Positive = Annotated[int, Interval(ge=1, lt=2**63)]


class SavedRun(Record):
    """What must be the same for a run to go on."""

    settings: dict[str, Any]
    precision: Literal["fp32", "bf16", "fp16"]
    global_batch: Positive
    ranks: Positive
    data: str


class Moments(Record):
    """AdamW's of one parameter."""

    step: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


class SavedAdamW(Record):
    state: dict[int, Moments]


class SavedOptimiser(Record):
    adamw: SavedAdamW
    lg_loss_scale: torch.Tensor
    skipped: torch.Tensor
    skipped_in_a_row: torch.Tensor


class SavedState(Record):
    """Of a training. `files`: SHA-256 (or, in older ones, size in bytes) of the weights files, by name; `row` and
    `on_schedule` as TrainingRun.save has them, which older ones lack, as they do `beginning`."""

    step: Number
    samples: Number
    files: dict[str, str | int]
    parts: tuple[Positive, Positive] | None = None
    optimizer: dict[str, Any]
    ema_updates: Number
    timesteps: dict[str, torch.Tensor]
    metrics: torch.Tensor
    run: SavedRun
    row: dict[str, Annotated[float, AllowInfNan(True)]] | None = None
    on_schedule: bool = False
    beginning: Beginning | None = None


def checked_state(content: Any, path: str) -> dict[str, Any]:
    """The content of the file `path`, by the names of SavedState. Raises UserError if it is no state of a training."""
    if not isinstance(content, dict) or "files" not in content:
        raise UserError(f"{path} is not a state that this code wrote")
    state = dict(checked(SavedState, content, path))
    strange = [name for name in state["files"] if not WEIGHTS_NAME.fullmatch(name)]
    if strange:
        raise UserError(f"{path} names {shown(strange[0])}, which is no file of a checkpoint")
    run = dict(state["run"])
    return state | {"run": run | {"settings": known_settings(Settings, run["settings"], path)}}


def check_optimiser_state(state: Any, shapes: Sequence[tuple[int, ...]], where: str) -> None:
    """Raise UserError unless `state` is that of an AdamW of parameters of these `shapes`, in their order.

    The fused kernel trusts the shapes: with others it writes where it must not.
    """
    saved = checked(SavedOptimiser, state, where)
    counters = {name: getattr(saved, name) for name in ("lg_loss_scale", "skipped", "skipped_in_a_row")}
    check_arrays(counters, dict.fromkeys(counters, ()), where)
    moments = saved.adamw.state
    if not moments.keys() <= set(range(len(shapes))):  # a parameter that takes no part has none
        raise UserError(f"{where} is of other parameters than the {len(shapes)} of the network")
    for index, of_one in moments.items():
        arrays = {f"{name} {index}": getattr(of_one, name) for name in ("step", "exp_avg", "exp_avg_sq")}
        check_arrays(arrays, dict(zip(arrays, ((), shapes[index], shapes[index]), strict=True)), where)
        if bool((of_one.exp_avg_sq < 0).any()):
            raise UserError(f"{where}: exp_avg_sq {index} is negative")


def check_arrays(arrays: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise UserError unless `arrays` have just these names and `shapes`, and finite values."""
    if arrays.keys() != shapes.keys():
        raise UserError(f"{where} holds {', '.join(arrays) or 'nothing'} instead of {', '.join(shapes) or 'nothing'}")
    for name, array in arrays.items():
        if not is_dense(array) or tuple(array.shape) != tuple(shapes[name]):
            raise UserError(f"{where}: {name} is {list(array.shape)}, not {list(shapes[name])}")
        if not bool(array.isfinite().all()):
            raise UserError(f"{where}: {name} is not finite")

"""The checkpoints of a run: written so that one is complete or not there, found again, kept or pruned.

A checkpoint of step N is modelN.pt, ema_<rate>_N.pt and optN.pt. optN.pt is written last and knows the SHA-256 of the
others: where it is whole and they fit, the checkpoint is complete.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from command import UserError
from config import MODEL_SETTINGS, Settings, names, with_prediction_type
from guided_diffusion.data.datasets import Pair
from guided_diffusion.runs import checkpoints, storage
from guided_diffusion.runs.network_settings import adopt_settings, comparable, disagreeing
from guided_diffusion.runs.world import World
from guided_diffusion.training import unfinished
from guided_diffusion.training.beginning import Beginning, refuse_other_start
from guided_diffusion.training.saved_state import check_optimiser_state, checked_state
from guided_diffusion.training.unfinished import STATE_NAME
from setting_groups import SamplingSettings
from state_dicts import checked_weights

# May differ when a run goes on: they change how long, how often, where or how fast, not what is computed; but for
# lr_anneal_steps, which the learning rate follows, with a warning. Paths of the data may change too, the names of the
# training images (in the fingerprint) may not.
FREE_SETTINGS = {
    *names(SamplingSettings),
    *("lr_anneal_steps", "log_interval", "save_interval", "keep_checkpoints", "preview_steps", "stop_grace"),
    *("num_workers", "device", "modulation", "use_checkpoint", "distributed_data_parallel", "microbatch"),
    *("datadir", "savedir", "resume_checkpoint", "overwrite", "is_train"),
    *("use_fp16", "precision", "batch_size_train"),  # compared by what comes of them: see `check_same_run`
}


@dataclass(frozen=True)
class Start:
    """A complete checkpoint to go on from: its folder, its step, the settings of its run, and what that began from."""

    folder: str
    step: int
    settings: dict[str, Any]
    beginning: Beginning

    @property
    def state(self) -> str:
        """Where its state lies."""
        return storage.join(self.folder, state_name(self.step))


def state_name(step: int) -> str:
    return f"opt{step:06d}.pt"


def describe_run(settings: Settings, precision: str, pairs: Sequence[Pair], ranks: int) -> dict[str, Any]:
    """What must be the same for a run to go on, saved with its state."""
    stems = "\n".join(pair.stem for pair in pairs)
    return {
        "settings": asdict(settings) | checkpoints.model_settings(settings),
        "precision": precision,
        "global_batch": settings.batch_size_train * ranks,
        "ranks": ranks,
        "data": hashlib.sha256(stems.encode()).hexdigest(),
    }


def check_same_run(before: dict[str, Any], now: dict[str, Any], settings: Settings, where: str) -> list[str]:
    """Raise UserError naming each setting in which the run `now` differs from the one `before`; return warnings."""
    # A setting that did not exist then was what its default is now.
    then, today = asdict(Settings()) | with_prediction_type(before["settings"]), now["settings"]
    differences = [
        f"{name} was {then[name]}, now {today[name]}"
        for name in today
        if name not in FREE_SETTINGS
        and comparable(name, then[name], settings) != comparable(name, today[name], settings)
    ]
    if before["precision"] != now["precision"]:
        differences.append(f"precision was {before['precision']}, now {now['precision']}")
    if before["data"] != now["data"]:
        differences.append("datadir: the training images have other names than those of the run")
    batch_then, batch_now = then["batch_size_train"], today["batch_size_train"]
    warnings = []
    if before["global_batch"] != now["global_batch"]:
        if batch_then != batch_now:
            differences.append(
                f"batch_size_train was {batch_then} on {before['ranks']} ranks, now {batch_now} on {now['ranks']}: "
                f"another batch in all than {before['global_batch']}"
            )
        else:
            warnings.append(
                f"on {now['ranks']} ranks instead of {before['ranks']}, a step has {now['global_batch']} images, "
                f"not {before['global_batch']}; --batch_size_train can make up for it"
            )
    if then["lr_anneal_steps"] != today["lr_anneal_steps"]:
        warnings.append(
            f"lr_anneal_steps was {then['lr_anneal_steps']}, now {today['lr_anneal_steps']}: from here on the learning "
            "rate is that of the new schedule"
        )
    if today["dropout"] and before["ranks"] != now["ranks"]:
        warnings.append(f"dropout on {now['ranks']} ranks is drawn otherwise than on {before['ranks']}")
    if today["dropout"] and then["microbatch"] != today["microbatch"]:
        warnings.append(f"dropout in parts of {today['microbatch']} is drawn otherwise than in {then['microbatch']}")
    if differences:
        raise UserError(
            f"{where} is a run with other settings: take those, or another savedir (--resume_checkpoint with the "
            "folder of a run, or with a copy of the weights file alone, starts a new one from them)",
            differences,
        )
    return warnings


def write_checkpoint(
    folder: str, step: int, weights: dict[str, Any], state: dict[str, Any], settings: Settings, keep: int
) -> None:
    """Write the files of `weights` (state dicts by file name), the settings, and last the `state`; prune old ones.

    Raises UserError where something cannot be written; then nothing of this checkpoint is left.
    """
    unfinished.announce(folder, [*weights, state_name(step)])
    storage.remove(storage.join(folder, state_name(step)))  # of a torn checkpoint, which is written again
    digests: dict[str, str] = {}
    try:
        for name, state_dict in weights.items():
            plain = checkpoints.plain_state_dict(state_dict, settings)
            digests[name] = checkpoints.write_torch(folder, name, plain)
        checkpoints.write_settings(folder, settings)
        checkpoints.write_torch(folder, state_name(step), state | {"step": step, "files": digests})
    except UserError:
        with contextlib.suppress(OSError):
            for name in digests:
                storage.remove(storage.join(folder, name))
            unfinished.finished(folder)
        raise
    unfinished.prune(folder, step, keep)


def read_state(folder: str, step: int) -> dict[str, Any]:
    """The state in the folder's optN.pt. Raises UserError if it is not one of ours."""
    path = storage.join(folder, state_name(step))
    return checked_state(checkpoints.read_torch(path), path)


def read_through(folder: str, step: int) -> Start:
    """A checkpoint, all of whose files were read. Raises UserError if one is missing, is not the one that was written
    with the others, or holds what no run can go on from."""
    state = read_state(folder, step)
    shapes = None
    for name, expected in {checkpoints.model_name(step): None, **state["files"]}.items():
        path = storage.join(folder, name)
        if not storage.exists(path):
            if checkpoints.WEIGHTS_NAME.fullmatch(name)["rate"]:
                continue  # an average can be begun anew, the weights cannot
            raise UserError(f"{path} is missing")
        # Older states know the sizes alone.
        found = storage.size(path) if isinstance(expected, int) else storage.sha256_of(path)
        if found != expected:
            raise UserError(f"{path} is damaged, or not the file that was written with {state_name(step)}")
        weights = read_weights(folder, name)
        there = [tuple(value.shape) for value in weights.values()]
        shapes = shapes or there
        if there != shapes:
            raise UserError(f"{path} has other shapes than {checkpoints.model_name(step)}")
    check_optimiser_state(state["optimizer"], shapes, storage.join(folder, state_name(step)))
    settings = state["run"]["settings"]
    # Older states know the path of the last command alone.
    beginning = state["beginning"] or Beginning(path=settings.get("resume_checkpoint", ""))
    return Start(folder, step, settings, beginning)


def read_weights(folder: str, name: str) -> dict[str, torch.Tensor]:
    """The weights in folder/name. Raises UserError for what is none, or not finite."""
    path = storage.join(folder, name)
    return checked_weights(checkpoints.read_torch(path), path)


def newest_start(folder: str, warn: Callable[[str], object]) -> Start | None:
    """The newest complete checkpoint in `folder`; those that are not complete are warned of."""
    if not storage.is_folder(folder):
        return None
    matches = [match for match in map(STATE_NAME.fullmatch, storage.list_names(folder)) if match]
    steps = sorted((int(match[1]) for match in matches), reverse=True)
    return next((start for step in steps if (start := _complete(folder, step, warn))), None)


def _complete(folder: str, step: int, warn: Callable[[str], object]) -> Start | None:
    try:
        return read_through(folder, step)
    except UserError as error:
        warn(f"warning: checkpoint {step} is passed over: {error}")
        return None


def find_starting_point(settings: Settings, given: set[str], warn: Callable[[str], object]) -> Start | None:
    """The complete checkpoint that training goes on from, or None.

    The newest one in savedir; else the one that --resume_checkpoint belongs to, if its state is beside it and no
    `given` flag asks for another network: that is a new run, from its weights.
    """
    start = newest_start(settings.savedir, warn)
    step = start.step if start else None
    if settings.overwrite:  # they are deleted later, when nothing else can be wrong
        unfinished.refuse_deleting(settings.savedir, step, settings.resume_checkpoint)
    else:
        unfinished.refuse_strays(settings.savedir, step)
        if not start:
            unfinished.refuse_foreign(settings.savedir)
    if start:
        refuse_other_start(settings, start.beginning, start.step, start.settings.get("resume_checkpoint", ""))
        return start
    path = settings.resume_checkpoint
    match = checkpoints.WEIGHTS_NAME.fullmatch(os.path.basename(path))
    if not match or not storage.exists(path):
        return None
    folder, step = os.path.dirname(path) or ".", int(match["step"])
    if not storage.exists(storage.join(folder, state_name(step))):
        return None
    try:
        start = read_through(folder, step)
    except UserError as error:
        warn(f"warning: only the weights of {path} are used: {error}")
        return None
    if other := disagreeing(settings, given, network_of(start)):
        told = ", ".join(f"--{name} {getattr(settings, name)}" for name in other)
        warn(f"a new run from the weights of {path}: {told} is not what its training had")
        return None
    return start


def take_network_settings(settings: Settings, given: set[str], start: Start) -> Settings:
    """`settings` with the network of the run that `start` belongs to.

    Raises UserError where a `given` flag disagrees.
    """
    return adopt_settings(settings, given, network_of(start), start.state)


def network_of(start: Start) -> dict[str, Any]:
    """What is known of the network of the run that `start` belongs to."""
    known = {name: start.settings[name] for name in MODEL_SETTINGS if name in start.settings}
    return {"class_names": ()} | with_prediction_type(known)


def settle_savedir(settings: Settings, world: World) -> None:
    """Have rank 0 end, before any rank looks, the saves that were killed."""
    if not world.is_main:
        return

    def warn(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def is_whole(step: int) -> bool:
        return _complete(settings.savedir, step, lambda _: None) is not None  # who looks for a start warns of it

    unfinished.settle(settings.savedir, settings.keep_checkpoints, is_whole, warn)

"""Checkpoints: their names, their content, and the settings of the network that they carry.

A checkpoint is a plain float32 state dict, as in the published code, so that
`network.load_state_dict(torch.load(file, weights_only=True))` is all that is needed. The settings of the network ride
along in the state dict's `_metadata`, which PyTorch keeps and ignores.
"""

import contextlib
import errno
import io
import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval

from command import UserError
from config import (
    MODEL_SETTINGS,
    Settings,
    Width,
    settle_prediction,
    usual_average,
)
from guided_diffusion.runs import storage
from guided_diffusion.runs.settings_file import from_published_json, to_published_json
from output_files import save_tensors
from schema import Record, checked, known_settings, parse_json
from state_dicts import checked_weights, refuse_flipped_bits
from unwrapping import unwrapped

SETTINGS_FILE = "train_test_config.json"
OF_THE_TRAINING = ("drop_rate", "timestep_respacing")  # what sampling has to know beside MODEL_SETTINGS
WEIGHTS_NAME = re.compile(r"(?:model|ema_(?P<rate>w?[0-9.]+)_)(?P<step>\d{6,})\.pt")


@dataclass
class Checkpoint:
    """Weights read from `path`, and what is known of their network.

    `kind` is "ema" or "model"; `step` the number of updates by the file's name, or None; `settings` those of
    MODEL_SETTINGS that are known, and `source` where from: "file" (ours), "json" (train_test_config.json beside it) or
    "shapes" (nothing but the tensors); `note` says which file was chosen if `path` was a folder; `drop_rate` is the
    share of samples that were trained without label, None where nothing says so; `timestep_respacing` is that of the
    training, which learned no other timesteps.
    """

    path: str
    state_dict: dict[str, torch.Tensor]
    settings: dict[str, Any]
    sha256: str
    kind: str
    step: int | None
    source: str
    note: str = ""
    drop_rate: float | None = None
    timestep_respacing: str = ""


class About(Record):
    """What a checkpoint of ours says of itself, beside its tensors."""

    settings: dict[str, Any]
    drop_rate: Annotated[float, Interval(ge=0, le=1)] | None = None
    timestep_respacing: str = ""


def model_name(step: int) -> str:
    return f"model{step:06d}.pt"


def ema_name(rate: float, step: int) -> str:
    spelled = str(rate) if isinstance(rate, Width) else np.format_float_positional(rate, trim="-")  # no exponent
    return f"ema_{spelled}_{step:06d}.pt"


# --- Writing ----------------------------------------------------------------------------------------------------------


def plain_state_dict(state_dict: Mapping[str, torch.Tensor], settings: Settings) -> OrderedDict[str, torch.Tensor]:
    """`state_dict` as contiguous float32 tensors on the CPU, with the settings of the network in its metadata."""
    plain = OrderedDict((name, value.detach().float().cpu().contiguous()) for name, value in state_dict.items())
    about = {"version": 1, "settings": model_settings(settings), "drop_rate": settings.drop_rate}
    if settings.timestep_respacing:
        about["timestep_respacing"] = settings.timestep_respacing
    plain._metadata = OrderedDict({"": about})
    return plain


def model_settings(settings: Settings) -> dict[str, Any]:
    """The MODEL_SETTINGS, with the channel multipliers spelled out."""
    settings = settle_prediction(settings)
    values = {name: getattr(settings, name) for name in MODEL_SETTINGS if name != "class_names"}
    if settings.class_names:
        values["class_names"] = list(settings.class_names)
    values["channel_mult"] = ",".join(f"{multiplier:g}" for multiplier in settings.multipliers())
    return values


def write_torch(folder: str, name: str, content: Any) -> str:
    """Save `content` as folder/name, atomically; return the file's SHA-256. Raises UserError where it cannot."""
    digest = ""

    def write(temporary: Path) -> None:
        nonlocal digest
        save_tensors(content, temporary)
        digest = storage.sha256_of(str(temporary))

    storage.write_whole(storage.join(folder, name), write)
    return digest


def write_settings(folder: str, settings: Settings) -> None:
    """Write train_test_config.json in the published, nested form."""
    text = json.dumps(to_published_json(settings), indent=4) + "\n"
    storage.write_whole(storage.join(folder, SETTINGS_FILE), lambda temporary: temporary.write_text(text))


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_checkpoint(path: str) -> Checkpoint:
    """The weights in the file `path`, or the newest of the folder `path` (averaged weights before plain ones).

    Nothing in the file is executed. Raises UserError for a file that is missing, truncated, damaged, an optimizer's
    state, something else, that would run code, or whose numbers are not finite or settings out of their range.
    """
    path, note = choose_file(path)
    content = unwrapped(read_torch(path))
    name = os.path.basename(path)
    if _is_optimizer_state(content):
        raise UserError(f"{path} is the state of an optimizer; the weights are in the ema_* and model* files beside it")
    tensors = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not tensors or "input_blocks.0.0.weight" not in content:
        raise UserError(f"{path} holds no weights of a semantic diffusion model")
    found, source = _find_settings(path, content)
    match = WEIGHTS_NAME.fullmatch(name)
    return Checkpoint(
        path=path,
        state_dict=checked_weights(content, path),
        settings={name: value for name, value in found.items() if name in MODEL_SETTINGS},
        sha256=storage.sha256_of(path),
        kind="ema" if name.startswith("ema") else "model" if name.startswith("model") else "",
        step=int(match["step"]) if match else None,
        source=source,
        note=note,
        drop_rate=found.get("drop_rate"),
        timestep_respacing=found.get("timestep_respacing") or "",
    )


def read_torch(path: str) -> Any:
    """What torch.save wrote to `path`: tensors and plain values only. Raises UserError."""
    try:
        with storage.open_for_reading(path) as file:
            if storage.is_remote(path):  # read twice below, fetched once
                file = io.BytesIO(file.read())
            refuse_flipped_bits(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "WeightsUnpickler error" not in str(error):
            raise UserError(
                f"{path} is a pickle that holds more than tensors and could run code: it is not opened"
            ) from None
        raise UserError(f"{path} is truncated, or no checkpoint") from None
    except Exception as error:  # broken files fail in many ways: zip, pickle, tensor storage
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which the reader of zip files raises
            raise
        raise UserError(f"{path} is truncated, or no checkpoint") from None


def choose_file(path: str) -> tuple[str, str]:
    """The file that `read_checkpoint` reads of `path`, and which one it is in words. Raises UserError."""
    if not path:
        raise UserError("--resume_checkpoint is needed: a checkpoint, or a folder of checkpoints")
    if not storage.is_folder(path):
        if not storage.exists(path):
            raise UserError(f"{path} does not exist")
        return path, ""
    matches = [match for match in map(WEIGHTS_NAME.fullmatch, storage.list_names(path)) if match]
    if not matches:
        raise UserError(f"{path} holds no checkpoint (ema_<rate>_NNNNNN.pt or modelNNNNNN.pt)")
    averaged = [match for match in matches if match["rate"]]
    usual = _usual_rate(path) if averaged else ""
    newest = max(averaged or matches, key=lambda match: _age(match, usual))
    kind = "averaged weights (EMA)" if averaged else "weights, for want of averaged ones,"
    return storage.join(path, newest[0]), f"{newest[0]}: the newest {kind} in {path}"


def _usual_rate(folder: str) -> str:
    """The rate, as file names spell it, of the average that a training in `folder` validates; empty if unknown."""
    path = storage.join(folder, SETTINGS_FILE)
    with contextlib.suppress(UserError):  # weights say themselves what they are of
        found = from_published_json(read_settings_tree(path)) if storage.exists(path) else {}
        rates = Settings(ema_rate=found.get("ema_rate") or "").ema_rates()
        if rates:
            return WEIGHTS_NAME.fullmatch(ema_name(rates[usual_average(rates)], 10**5))["rate"]
    return ""


def _age(match: re.Match, usual: str) -> tuple[int, bool, bool, str]:
    rate = match["rate"] or ""
    # Widths are to be combined, not to be taken as they are.
    return int(match["step"]), rate == usual, not rate.startswith("w"), rate


def _is_optimizer_state(content: Any) -> bool:
    return isinstance(content, dict) and ("param_groups" in content or "optimizer" in content)


def _find_settings(path: str, content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    metadata = getattr(content, "_metadata", None)
    about = metadata.get("") if isinstance(metadata, dict) else None
    if isinstance(about, dict) and "settings" in about:
        about = checked(About, about, f"{path}, what it says of itself")
        beside = {"drop_rate": about.drop_rate, "timestep_respacing": about.timestep_respacing}
        return beside | _of_the_network(about.settings, path), "file"
    beside = storage.join(os.path.dirname(path) or ".", SETTINGS_FILE)
    if not storage.exists(beside):
        return {}, "shapes"
    return _of_the_network(from_published_json(read_settings_tree(beside)), beside), "json"


def read_settings_tree(path: str) -> dict[str, Any]:
    """The content of a train_test_config.json. Raises UserError."""
    with storage.open_for_reading(path) as file:
        tree = parse_json(file.read(), path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not the JSON of a training's settings")
    return tree


def _of_the_network(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of the settings `found` that are of use here, in their types. Raises UserError for a value of no sense."""
    wanted = {name: found[name] for name in (*MODEL_SETTINGS, *OF_THE_TRAINING) if found.get(name) is not None}
    return known_settings(Settings, wanted, where)

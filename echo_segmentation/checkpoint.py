"""Checkpoints: a plain state dict that describes itself.

`model.pth` is the network's state dict, so that any `load_state_dict` takes it, strictly. Its description
(architecture, normalisation, label names, settings of the run) is one more entry of the `_metadata` that every state
dict of PyTorch carries, which `torch.load(weights_only=True)` keeps.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from command import UserError, whole_file
from model import Architecture
from unwrapping import unwrapped

ENTRY = "echo_segmentation"
CAMUS_FIRST, CAMUS_LAST = "model.0.conv.weight", "model.2.conv.bias"


@dataclass
class Checkpoint:
    """Weights and what is known of them: mean, std, img_size and so on are absent in a published state dict."""

    weights: dict[str, torch.Tensor]
    architecture: Architecture
    description: dict[str, Any] = field(default_factory=dict)


def save_model(path: Path, network: nn.Module, architecture: Architecture, description: dict[str, Any]) -> None:
    """Write weights and description (plain values only) as one file."""
    weights = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in network.state_dict().items())
    weights._metadata = dict(network.state_dict()._metadata)
    weights._metadata[ENTRY] = description | {"architecture": architecture.as_dict()}
    with whole_file(path) as temporary:
        torch.save(weights, temporary)


def load_file(path: Path) -> Any:
    """torch.load without arbitrary code. Raises UserError for what is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files fail in many ways: zip, pickle, tensor storage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of tensors and plain values ({reason})") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of ours, or a published state dict: plain, or as trainers wrap and prefix them.

    Raises UserError for a file that is neither.
    """
    state = unwrapped(load_file(path))
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        hint = (
            " (it is the state of a training: take model.pth)" if isinstance(state, dict) and "network" in state else ""
        )
        raise UserError(f"{path}: holds no state dict{hint}")
    weights = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    description = dict(getattr(state, "_metadata", {}).get(ENTRY, {}))
    if description:
        architecture = Architecture.from_dict(description.pop("architecture"))
    elif CAMUS_FIRST in weights and CAMUS_LAST in weights:
        architecture = Architecture("camus-unet", len(weights[CAMUS_LAST]))
    else:
        raise UserError(f"{path}: neither written by runner.py nor a published checkpoint of camus-unet")
    return Checkpoint(weights, architecture, description)


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Raises UserError unless names and shapes are exactly those of the network."""
    try:
        network.load_state_dict(checkpoint.weights, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{path}: does not fit {checkpoint.architecture.model_name}", str(error).splitlines()[1:5]
        ) from error

"""Checkpoints: a plain state dict that describes itself.

`model.pth` is the network's state dict, so that any `load_state_dict` takes it, strictly. Its description
(architecture, normalisation, label names, settings of the run) is one more entry of the `_metadata` that every state
dict of PyTorch carries, which `torch.load(weights_only=True)` keeps.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import nn

from command import UserError
from dataset_description import Description as DatasetDescription
from dataset_description import camus, parse_description
from model import Architecture
from output_files import new_file, save_tensors
from schema import Record, checked
from state_dicts import checked_weights, refuse_flipped_bits
from state_dicts import load_weights as load_matching
from unwrapping import unwrapped

ENTRY = "echo_segmentation"
CAMUS_FIRST, CAMUS_LAST = "model.0.conv.weight", "model.2.conv.bias"


@dataclass
class Checkpoint:
    """Weights and what is known of them: mean, std, img_size and so on are absent in a published state dict."""

    weights: dict[str, torch.Tensor]
    architecture: Architecture
    description: dict[str, Any] = field(default_factory=dict)
    dataset: DatasetDescription = field(default_factory=camus)
    """What it was trained on."""


class DescribedArchitecture(Record):
    """As `Architecture`."""

    model_name: Literal["unet", "camus-unet"]
    num_classes: Annotated[int, Interval(ge=2, le=256)]
    encoder_name: str = ""
    decoder_channels: tuple[Annotated[int, Interval(ge=1, le=2**13)], ...] = ()


class Description(Record):
    """What a checkpoint of ours says of itself, as far as it is relied on."""

    architecture: DescribedArchitecture
    mean: float | None = None
    std: Annotated[float, Interval(gt=0)] | None = None
    img_size: Annotated[int, Interval(ge=1, le=2**13)] | None = None
    dataset: str | None = None  # the dataset.json of the data, if they were not CAMUS


def save_model(path: Path, network: nn.Module, architecture: Architecture, description: dict[str, Any]) -> None:
    """Write weights and description (plain values only) as one file."""
    weights = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in network.state_dict().items())
    weights._metadata = dict(network.state_dict()._metadata)
    weights._metadata[ENTRY] = description | {"architecture": architecture.as_dict()}
    with new_file(path) as temporary:
        save_tensors(weights, temporary)


def load_file(path: Path) -> Any:
    """torch.load without arbitrary code. Raises UserError for what is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            refuse_flipped_bits(file, str(path))
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # broken files fail in many ways: zip, pickle, tensor storage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of tensors and plain values ({reason})") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of ours, or a published state dict: plain, or as trainers wrap and prefix them.

    Raises UserError for a file that is neither, or whose numbers are not finite.
    """
    state = load_file(path)
    if isinstance(state, dict) and "network" in state:
        raise UserError(f"{path} holds no weights alone: it is the state of a training, take model.pth")
    state = unwrapped(state)
    weights = checked_weights(state, str(path))
    metadata = getattr(state, "_metadata", None)
    description = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    dataset = camus()
    if description:
        known = checked(Description, description, f"{path}, what it says of itself")
        architecture = Architecture(**dict(known.architecture))
        if known.dataset is not None:
            dataset = parse_description(known.dataset.encode(), f"{path}, the data set that it was trained on")
        told = {name: value for name, value in description.items() if name != "architecture" and value is not None}
        description = told | {name: getattr(known, name) for name in ("mean", "std", "img_size") if name in told}
    elif CAMUS_FIRST in weights and CAMUS_LAST in weights:
        architecture = Architecture("camus-unet", len(weights[CAMUS_LAST]))
    else:
        raise UserError(f"{path}: neither written by runner.py nor a published checkpoint of camus-unet")
    return Checkpoint(weights, architecture, description or {}, dataset)


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Raises UserError unless names and shapes are exactly those of the network."""
    load_matching(network, checkpoint.weights, f"{path}, {checkpoint.architecture.model_name},")

"""A network on a set of cases: predicted label maps and the mean loss. Also the device it runs on."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from command import UserError
from settings import Unasked

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def choose_device(gpu: str) -> torch.device:
    """The device named; the default falls back to the CPU, and says so. Raises UserError for what is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if isinstance(gpu, Unasked) and not count:
        print("no GPU here (--gpu cuda:0 is the default): computing on the CPU")
        return torch.device("cpu")
    match = re.fullmatch(r"cpu|(?:cuda:)?(?P<index>\d+)|cuda", gpu)
    if match is None:
        raise UserError(f"--gpu {gpu}: expected is cuda:0, cuda:1 ... or cpu")
    if gpu == "cpu":
        return torch.device("cpu")
    index = int(match["index"] or 0)
    if index >= count:
        raise UserError(f"--gpu {gpu}: is not there ({count} GPUs found); --gpu cpu computes without")
    return torch.device("cuda", index)


def normalise(images: torch.Tensor, mean: float, std: float, device: torch.device) -> torch.Tensor:
    """Grey values (batch, height, width) uint8 -> (batch, 1, height, width) float32, (value / 255 - mean) / std."""
    grey = images.to(device, non_blocking=True)[:, None].float()
    return grey.sub_(255 * mean).div_(255 * std).contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, mixed_precision: bool):
    """bfloat16 where safe, on a GPU if asked; float32 otherwise. bfloat16 needs no loss scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision and device.type == "cuda")


@dataclass
class Predicted:
    """What a network makes of a set of cases, in the loader's order."""

    labels: np.ndarray
    """Predicted label maps, (cases, size, size) uint8."""
    reference: np.ndarray
    """The label maps of the set, alike."""
    loss: float
    """Mean per case."""


@torch.inference_mode()
def predict(
    network: nn.Module,
    loader: DataLoader,
    mean: float,
    std: float,
    loss: Loss,
    device: torch.device,
    mixed: bool = False,
    each: Callable[[int, np.ndarray], None] | None = None,
) -> Predicted:
    """Predict every case of `loader`; mean and std are of grey values from 0 to 1. `each` is called with the number of
    a case, in the loader's order, and its class probabilities (classes, size, size) float32.
    """
    network.eval()
    predictions, references, total = [], [], 0.0
    for images, labels in loader:
        with autocast(device, mixed):
            logits = network(normalise(images, mean, std, device)).float()
        total += loss(logits, labels.to(device).long()).item() * len(images)
        predictions.append(logits.argmax(1).byte().cpu().numpy())
        references.append(labels.numpy())
        if each is not None:
            first = sum(map(len, predictions[:-1]))
            for index, probabilities in enumerate(logits.softmax(1).cpu().numpy(), start=first):
                each(index, probabilities)
    reference = np.concatenate(references)
    return Predicted(np.concatenate(predictions), reference, total / len(reference))

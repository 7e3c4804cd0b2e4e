"""A network on a set of cases: predicted label maps and the mean loss. Also the device it runs on."""

from collections.abc import Callable

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
    try:
        device = torch.device(f"cuda:{gpu}" if gpu.isdigit() else gpu)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu"):
        raise UserError(f"--gpu {gpu}: expected is cuda:0, cuda:1 ... or cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--gpu {gpu}: is not there ({count} GPUs found); --gpu cpu computes without")
    return device


def normalise(images: torch.Tensor, mean: float, std: float, device: torch.device) -> torch.Tensor:
    """Grey values (batch, height, width) uint8 -> (batch, 1, height, width) float32, (value / 255 - mean) / std."""
    grey = images.to(device, non_blocking=True)[:, None].float()
    return grey.sub_(255 * mean).div_(255 * std).contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, mixed_precision: bool):
    """bfloat16 where safe, on a GPU if asked; float32 otherwise. bfloat16 needs no loss scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision and device.type == "cuda")


@torch.inference_mode()
def predict(
    network: nn.Module, loader: DataLoader, mean: float, std: float, loss: Loss, device: torch.device, mixed=False
) -> tuple[np.ndarray, float]:
    """Predicted label maps (cases, size, size) uint8 in the loader's order, and the mean loss per case."""
    network.eval()
    predictions, total, count = [], 0.0, 0
    for images, labels in loader:
        with autocast(device, mixed):
            logits = network(normalise(images, mean, std, device)).float()
        total += loss(logits, labels.to(device).long()).item() * len(images)
        count += len(images)
        predictions.append(logits.argmax(1).byte().cpu().numpy())
    return np.concatenate(predictions), total / count

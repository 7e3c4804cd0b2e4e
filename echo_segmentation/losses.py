"""What a training minimises, and the same measured on images that are held out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CROSS_ENTROPY = "ce"
NAMES = (CROSS_ENTROPY, "dice_ce")


def make_loss(name: str) -> Loss:
    """Cross-entropy of logits (batch, classes, height, width), mean over pixels; dice_ce adds the soft Dice loss, taken
    over the batch."""
    if name == CROSS_ENTROPY:
        return nn.functional.cross_entropy
    from segmentation_models_pytorch.losses import DiceLoss

    dice = DiceLoss("multiclass")
    return lambda logits, labels: nn.functional.cross_entropy(logits, labels) + dice(logits, labels)


def image_losses(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each image by itself, (batch,): its mean over a set knows neither size nor order of the batches.

    `logits` (batch, classes, height, width), `labels` (batch, height, width) int64.
    """
    return torch.stack([loss(*image) for image in zip(logits.split(1), labels.split(1), strict=True)])


def told_loss(description: dict[str, Any]) -> str:
    """The name of the loss that a checkpoint was trained with, by its description; cross-entropy, as published, where
    it does not tell."""
    settings = description.get("settings")
    name = settings.get("loss") if isinstance(settings, dict) else None
    return name if name in NAMES else CROSS_ENTROPY

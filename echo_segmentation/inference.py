"""From grey images to class probabilities: the one way that training, test_model.py and predict.py take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from skimage.measure import label as connected_parts
from torch import nn
from torch.utils.data import DataLoader

from checkpoint import Checkpoint, load_weights
from command import UserError
from devices import autocast
from losses import Loss, image_losses
from model import build_network, check_size

PUBLISHED_SIZE = 256  # of a checkpoint that does not say


def load_network(path: Path, checkpoint: Checkpoint, size: int, device: torch.device) -> nn.Module:
    """The network of a checkpoint on `device`. Raises UserError if weights do not fit, or images of size x size."""
    network = build_network(checkpoint.architecture)
    check_size(network, checkpoint.architecture, size)
    load_weights(network, checkpoint, path)
    return network.to(device, memory_format=torch.channels_last)


def normalise(images: torch.Tensor, mean: float, std: float, device: torch.device) -> torch.Tensor:
    """Grey values (batch, height, width) uint8 -> (batch, 1, height, width) float32, (value / 255 - mean) / std."""
    grey = images.to(device, non_blocking=True)[:, None].float()
    return grey.sub_(255 * mean).div_(255 * std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Predictor:
    """A network with all that its images need."""

    network: nn.Module
    mean: float
    """Of grey values from 0 to 1."""
    std: float
    device: torch.device
    mixed_precision: bool = False
    test_time_augmentation: bool = False
    """The mean of what the network says of an image and of its mirror image."""
    remove_stray_parts: bool = False
    """Whether `label_map` is `without_stray_parts`."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Grey values (batch, height, width) uint8 -> probabilities (batch, classes, height, width) float32."""
        return self.logits(images).softmax(1)

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """What the probabilities are the softmax of, alike: their own logarithm ends where a probability is 0."""
        self.network.eval()
        grey = normalise(images, self.mean, self.std, self.device)
        logits = self._logits(grey)
        if self.test_time_augmentation:  # the logarithm of the sum of the two probabilities, of which the half is meant
            mirrored = self._logits(grey.flip(-1)).flip(-1)
            logits = torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1))
        return logits

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """Class probabilities (classes, height, width) on the grid of a label map -> that label map, uint8.

        Stray parts are removed here: what is in one piece at the network's size may be in two on the frame's own grid.
        """
        if self.remove_stray_parts:
            probabilities = without_stray_parts(torch.from_numpy(probabilities)[None])[0].numpy()
        return probabilities.argmax(0).astype(np.uint8)

    def _logits(self, grey: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.mixed_precision):
            return self.network(grey).float()


def without_stray_parts(probabilities: torch.Tensor) -> torch.Tensor:
    """Probabilities (batch, classes, height, width) under which each class but the background (0) is the likeliest in
    one connected part at most (4 neighbours): its largest. In its other parts it gets the probability 0, so that the
    next likely class takes their pixels, until no class has other parts.
    """
    cleaned = probabilities.clone()
    while (stray := stray_parts(cleaned.argmax(1).cpu().numpy())).any():
        likeliest = cleaned.argmax(1, keepdim=True)
        found = torch.from_numpy(stray)[:, None].to(cleaned.device)
        cleaned.scatter_(1, likeliest, cleaned.gather(1, likeliest).masked_fill(found, 0))
    return cleaned


def stray_parts(labels: np.ndarray) -> np.ndarray:
    """Of label maps (batch, height, width): bool, where a class but 0 lies outside of its largest connected part."""
    stray = np.zeros(labels.shape, bool)
    for index, one in enumerate(labels):
        parts = connected_parts(one, background=0, connectivity=1)
        numbers, first, sizes = np.unique(parts, return_index=True, return_counts=True)
        values = one.flat[first]
        largest = [numbers[values == value][sizes[values == value].argmax()] for value in np.unique(values)]
        stray[index] = ~np.isin(parts, largest)
    return stray


def batches_of(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of `loader`. Raises UserError if a loader process dies, or /dev/shm is full."""
    try:
        yield from loader
    except RuntimeError as error:
        text = str(error)
        if "shared memory" in text or ("DataLoader worker" in text and "Traceback" not in text):
            told = text.splitlines()[0]
            raise UserError(f"a loader process died, or /dev/shm is full ({told}): take --num-workers 0") from None
        raise


@dataclass
class Predicted:
    """What a network makes of a set of cases, in the loader's order."""

    labels: np.ndarray
    """Predicted label maps, (cases, size, size) uint8."""
    reference: np.ndarray
    """The label maps of the set, alike."""
    loss: float
    """Mean of what each case has by itself."""


def predict(
    predictor: Predictor,
    loader: DataLoader,
    loss: Loss,
    each: Callable[[int, np.ndarray], None] | None = None,
) -> Predicted:
    """Predict every case of `loader`. `each` is called with the number of a case, in the loader's order, and its
    probabilities (classes, size, size) float32.
    """
    predictions, references, total = [], [], 0.0
    for images, labels in batches_of(loader):
        logits = predictor.logits(images)
        total += image_losses(loss, logits, labels.to(predictor.device).long()).sum().item()
        references.append(labels.numpy())
        for found in logits.softmax(1).cpu().numpy():
            if each is not None:
                each(len(predictions), found)
            predictions.append(predictor.label_map(found))
    return Predicted(np.stack(predictions), np.concatenate(references), total / len(predictions))

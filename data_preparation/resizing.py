"""Images and label maps brought to the size at which they are extracted: as published, or by area."""

import math
from typing import Protocol

import cv2
import numpy as np

from command import UserError

CHANNELS = 4  # of an array that OpenCV resizes by area
TIE_WEIGHT = 1e-3  # of the neighbours' shares: too little to overrule a pixel's own


class SizeSettings(Protocol):
    """What both commands that extract have."""

    save_img_size: tuple[int, ...]


def check_size(settings: SizeSettings) -> None:
    """Make save_img_size (height, width). Raises UserError for impossible sizes."""
    size = tuple(settings.save_img_size)
    size = size * 2 if len(size) == 1 else size
    if len(size) != 2 or not all(16 <= n <= 4096 for n in size):
        raise UserError(f"--save_img_size {' '.join(map(str, size))}: one or two numbers from 16 to 4096")
    settings.save_img_size = size


def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """The input pixel of each of `new_size` output pixels: int(k * ((size - 1) / (new_size - 1))), in float64."""
    return (np.arange(new_size) * ((size - 1) / (new_size - 1))).astype(int)


def native_step(size: int, new_size: int, interpolation: str) -> float:
    """How many of `size` input pixels lie between neighbours of `new_size` output pixels: (N - 1) / (n - 1) of them by
    `nearest`, N / n by `area`. A single pixel covers all."""
    return (size - 1) / (new_size - 1) if interpolation == "nearest" and min(size, new_size) > 1 else size / new_size


def resize_nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """`pixels` [rows, columns] at height x width by the published rule: first on first, last on last, rounded down."""
    return pixels[np.ix_(nearest_indices(pixels.shape[0], height), nearest_indices(pixels.shape[1], width))]


def resize_image_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `image` [rows, columns] at height x width: the mean over the area that each new pixel covers."""
    return _by_area(image, height, width)


def _by_area(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV averages nothing unless both axes shrink: so those that do come first."""
    rows, columns = pixels.shape[:2]
    shrunk = cv2.resize(pixels, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_AREA)


def resize_label_area(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `label` [rows, columns] at height x width: the class of most of the area that a pixel covers.

    So labels lie where area-averaged images do. Between equal shares (frequent at half the size) the neighbours decide:
    no class grows at another's cost.
    """
    classes = CHANNELS * math.ceil((int(label.max()) + 1) / CHANNELS)
    one_hot = np.eye(classes, dtype=np.float32)
    parts = (one_hot[:, first : first + CHANNELS][label] for first in range(0, classes, CHANNELS))
    shares = [_by_area(part, height, width) for part in parts]
    votes = [share + TIE_WEIGHT * cv2.blur(share, (3, 3)) for share in shares]
    return np.argmax(np.concatenate(votes, axis=2), axis=2).astype(np.uint8)


def resize_pair(
    image: np.ndarray, label: np.ndarray, size: tuple[int, ...], interpolation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label, uint8 [rows, columns], at `size` (height, width), by `interpolation`: nearest or area."""
    if interpolation == "area":
        return resize_image_area(image, *size), resize_label_area(label, *size)
    return resize_nearest(image, *size), resize_nearest(label, *size)

"""Between a frame's own pixels and those of the network, both ways.

A frame comes to the network in up to two steps: extraction, to the size of the PNG files, and resizing to the network's
size. Resizing, and extraction with `area`, keep pixel centres: pixel k of n lies at (k + 0.5) * N / n - 0.5 of N.
Extraction with `nearest` follows the published rule: pixel k of n is a copy of pixel int(k * ((N - 1) / (n - 1))).
"""

from typing import Literal

import cv2
import numpy as np

TIE_WEIGHT = 1e-3
Alignment = Literal["area", "nearest"]


def nearest_indices(native: int, size: int) -> np.ndarray:
    """The native pixel that each of `size` pixels copies by the published rule, in float64 as there."""
    return (np.arange(size) * ((native - 1) / max(size - 1, 1))).astype(int)


def native_step(native: int, size: int, alignment: Alignment) -> float:
    """How many of the `native` pixels of an axis lie between neighbours of the `size` extracted ones: (N - 1) / (n - 1)
    with `nearest`, whose first and last copy the first and last; N / n with `area`. A single pixel covers all."""
    return (native - 1) / (size - 1) if alignment == "nearest" and min(native, size) > 1 else native / size


def rescale(coordinates: np.ndarray, old: int, new: int) -> np.ndarray:
    """Coordinates along an axis of `old` pixels -> of `new` pixels over the same extent; pixel centres are integers."""
    return (coordinates + 0.5) * new / old - 0.5


def network_coordinates(native: int, network: int, alignment: Alignment, extracted: int | None = None) -> np.ndarray:
    """Where the centres of the `native` pixels of an axis lie among the `network` pixels, (native,) float64.

    `extracted` is the number of pixels between the two, at which `alignment` was used; by default the network's own.
    Native pixels beyond the first and last that `nearest` copied lie at these.
    """
    extracted = extracted or network
    pixels = np.arange(native, dtype=float)
    if alignment == "area":
        return rescale(pixels, native, network)
    copied, first, count = np.unique(nearest_indices(native, extracted), return_index=True, return_counts=True)
    return rescale(np.interp(pixels, copied, first + (count - 1) / 2), extracted, network)  # the middle of equal copies


def interpolate(values: np.ndarray, coordinates: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along one axis at `coordinates`; beyond the first and last value, these."""
    coordinates = coordinates.clip(0, values.shape[axis] - 1)
    below = np.floor(coordinates).astype(int)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = (coordinates - below).astype(values.dtype).reshape(shape)
    return values.take(below, axis) * (1 - weight) + values.take(above, axis) * weight


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Label map (height, width) -> probabilities (classes, height, width) float32, each nearly 0 or 1.

    A pixel halfway between two classes has equal shares of them: a little of the neighbours decides, not the order.
    """
    shares = (labels == np.arange(int(labels.max()) + 1)[:, None, None]).astype(np.float32)
    around = [cv2.blur(share, (3, 3), borderType=cv2.BORDER_REPLICATE) for share in shares]
    return (1 - TIE_WEIGHT) * shares + TIE_WEIGHT * np.stack(around)


def native_probabilities(
    probabilities: np.ndarray,
    native: tuple[int, int],
    alignment: Alignment = "area",
    extracted: tuple[int, int] | None = None,
) -> np.ndarray:
    """Class probabilities (classes, h, w) on the network's grid -> (classes, H, W) float32, (H, W) being `native`.

    They are interpolated linearly; `extracted`: see `network_coordinates`.
    """
    for axis, (full, small) in enumerate(zip(native, extracted or probabilities.shape[1:], strict=True), start=1):
        at = network_coordinates(full, probabilities.shape[axis], alignment, small)
        probabilities = interpolate(probabilities, at, axis)
    return probabilities


def to_native(
    probabilities: np.ndarray,
    native: tuple[int, int],
    alignment: Alignment = "area",
    extracted: tuple[int, int] | None = None,
) -> np.ndarray:
    """As `native_probabilities` -> labels (H, W) uint8: each native pixel takes the likeliest class.

    Borders are then as fine as the frame, where an enlarged label map would have steps.
    """
    return native_probabilities(probabilities, native, alignment, extracted).argmax(0).astype(np.uint8)

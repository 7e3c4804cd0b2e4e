"""The distinct label neighbourhoods of a batch of label maps.

SPADE's scale and shift at a pixel come from two 3 x 3 convolutions over the label map, so they depend on the 5 x 5
labels around it and on nothing else. Label maps are piecewise constant: a batch of twelve 256 x 256 echo maps has
786,432 pixels and about 3,000 distinct neighbourhoods. What is found here, once per batch and resolution, lets
`spade.py` run the convolutions on those alone. Everything is exact integer arithmetic on the host, meant for the
loader's workers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

# Large regions hold most of the pixels: without a bound, the sum over one row of the table would be long and serial.
PIXELS_PER_PART = 512


@dataclass
class Neighbourhoods:
    """Distinct neighbourhoods of label maps `ids` [N, h, w], of which there are U; U3 distinct 3 x 3 ones in them.

    row_of_pixel: [N * h * w] int32, the neighbourhood of each pixel, 0 .. U - 1.
    patches: [U3, 9] the distinct 3 x 3 ids, rows first; `outside` stands where a pixel lies outside the image.
    patch_of_row: [U, 9] which 3 x 3 patch lies at each place of the 3 x 3 window of a neighbourhood, rows first.
    """

    row_of_pixel: np.ndarray
    patches: np.ndarray
    patch_of_row: np.ndarray


def find_neighbourhoods(ids: np.ndarray, outside: int) -> Neighbourhoods:
    """Find the distinct 5 x 5 neighbourhoods of integer maps `ids` [N, h, w] with values in 0 .. outside - 1."""
    count, height, width = ids.shape
    padded = np.full((count, height + 4, width + 4), outside, np.int64)
    padded[:, 2:-2, 2:-2] = ids

    # A number for each distinct run of 5 along a row, then one for each distinct stack of 5 such runs: both exact.
    runs, run_count = number_windows([padded[:, :, j : j + width] for j in range(5)], outside + 1)
    codes, _ = number_windows([runs[:, i : i + height] for i in range(5)], run_count, dense=False)
    row_of_pixel, first_pixel = _number_piecewise_constant(codes.ravel())

    image, rest = np.divmod(first_pixel, height * width)
    top, left = np.divmod(rest, width)
    rows, columns = np.ogrid[:5, :5]
    blocks = padded[image[:, None, None], top[:, None, None] + rows, left[:, None, None] + columns]  # [U, 5, 5]
    windows = np.lib.stride_tricks.sliding_window_view(blocks, (3, 3), axis=(1, 2)).reshape(-1, 9)
    keys, _ = number_windows(list(windows.T), outside + 1, dense=False)
    _, first, patch_of_window = np.unique(keys, return_index=True, return_inverse=True)
    return Neighbourhoods(row_of_pixel, windows[first], patch_of_window.reshape(-1, 9))


def number_windows(values: list[np.ndarray], base: int, dense: bool = True) -> tuple[np.ndarray, int]:
    """A number for each distinct combination of `values` (values below `base`), and a bound that no number reaches.

    With `dense` the numbers are consecutive, so that the bound is small enough to combine them again.
    """
    code, bound = values[0].astype(np.int64), base
    for further in values[1:]:
        if bound > np.iinfo(np.int64).max // base:
            code, bound = _renumber(code, bound)
        code = code * base + further
        bound *= base
    return _renumber(code, bound) if dense else (code, bound)


def _renumber(code: np.ndarray, bound: int) -> tuple[np.ndarray, int]:
    """Consecutive numbers for the distinct values of `code`, and how many there are."""
    if bound <= 1 << 20:  # a table of all values beats sorting
        present = np.zeros(bound, bool)
        present[code.ravel()] = True
        return (np.cumsum(present) - 1)[code], int(present.sum())
    numbers, first = _number_piecewise_constant(code.ravel())
    return numbers.reshape(code.shape).astype(np.int64), len(first)


def _number_piecewise_constant(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """np.unique's inverse (int32) and first index of 1-D `code`, sorting only the places where the value changes."""
    starts = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1])))
    _, first, number = np.unique(code[starts], return_index=True, return_inverse=True)
    lengths = np.diff(np.append(starts, len(code)))
    return np.repeat(number.astype(np.int32), lengths), starts[first]


@dataclass
class SummationPlan:
    """How a GPU sums over the pixels of each table row, and of each image, without two writers of one sum.

    A part is at most PIXELS_PER_PART pixels of one image that share one row. All arrays are int32:
    order: [N * h * w], the pixels by image, and by row within it. part_starts: [parts + 1], where in `order` each part
    starts, and the end. part_rows, part_images: [parts]. image_starts: [N + 1], the first part of each image, and the
    end. parts_by_row: [parts], the parts in the order of their rows. row_starts: [U + 1], where in it each row starts.
    """

    order: Any  # arrays here, tensors in a Condition
    part_starts: Any
    part_rows: Any
    part_images: Any
    image_starts: Any
    parts_by_row: Any
    row_starts: Any


def summation_plan(row_of_pixel: np.ndarray, images: int, rows: int) -> SummationPlan:
    """The plan for `images` images of equal size, whose pixels take the rows `row_of_pixel` [N * h * w]."""
    by_image = row_of_pixel.reshape(images, -1)
    narrow = by_image.astype(np.uint16) if rows <= 1 << 16 else by_image  # 16 bits sort in linear time
    order = np.argsort(narrow, axis=1, kind="stable")
    sorted_rows = np.take_along_axis(by_image, order, axis=1)
    new = np.ones(by_image.shape, bool)  # where the pixels of another row, or image, begin
    new[:, 1:] = sorted_rows[:, 1:] != sorted_rows[:, :-1]
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, order.size))
    parts = -(-counts // PIXELS_PER_PART)
    part_in_run = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    part_starts = np.repeat(starts, parts) + PIXELS_PER_PART * part_in_run
    part_rows = sorted_rows.ravel()[part_starts]
    part_images = part_starts // by_image.shape[1]
    order += by_image.shape[1] * np.arange(images)[:, None]
    plan = SummationPlan(
        order.ravel(),
        np.append(part_starts, order.size),
        part_rows,
        part_images,
        np.searchsorted(part_images, np.arange(images + 1)),
        np.argsort(part_rows, kind="stable"),
        np.append(0, np.cumsum(np.bincount(part_rows, minlength=rows))),
    )
    return SummationPlan(**{name: array.astype(np.int32) for name, array in vars(plan).items()})

"""The distinct label neighbourhoods of a batch of label maps.

SPADE's scale and shift at a pixel come from two 3 x 3 convolutions over the label map, so they depend on the 5 x 5
labels around it and on nothing else. Label maps are piecewise constant: a batch of twelve 256 x 256 echo maps has
786,432 pixels and about 3,000 distinct neighbourhoods. What is found here, once per batch and resolution, lets
`spade.py` run the convolutions on those alone. Everything is exact integer arithmetic on the host, meant for the
loader's workers.
"""

from dataclasses import dataclass

import numpy as np

# Pixels whose gradients one partial sum adds up. Large regions hold most of the pixels, so that without partial sums
# one row of the table would be one long serial sum.
PIXELS_PER_PARTIAL_SUM = 256


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
    runs, run_count = _number_windows([padded[:, :, j : j + width] for j in range(5)], outside + 1)
    codes, _ = _number_windows([runs[:, i : i + height] for i in range(5)], run_count, dense=False)
    row_of_pixel, first_pixel = _number_piecewise_constant(codes.ravel())

    image, rest = np.divmod(first_pixel, height * width)
    top, left = np.divmod(rest, width)
    at = np.arange(5)
    blocks = padded[image[:, None, None], top[:, None, None] + at[:, None], left[:, None, None] + at]  # [U, 5, 5]
    windows = np.lib.stride_tricks.sliding_window_view(blocks, (3, 3), axis=(1, 2)).reshape(-1, 9)
    keys, _ = _number_windows(list(windows.T), outside + 1, dense=False)
    _, first, patch_of_window = np.unique(keys, return_index=True, return_inverse=True)
    return Neighbourhoods(row_of_pixel, windows[first], patch_of_window.reshape(-1, 9))


def _number_windows(parts: list[np.ndarray], base: int, dense: bool = True) -> tuple[np.ndarray, int]:
    """A number for each distinct combination of `parts` (values below `base`), and a bound that no number reaches.

    With `dense` the numbers are consecutive, so that the bound is small enough to combine them again.
    """
    code, bound = parts[0].astype(np.int64), base
    for part in parts[1:]:
        if bound > np.iinfo(np.int64).max // base:
            code, bound = _renumber(code, bound)
        code = code * base + part
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


def summation_plan(row_of_pixel: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How to sum pixels into table rows without two writers of one row: sorted, in two steps of bounded length.

    Returns (order, part_starts, row_starts), int64: pixels in the order of their rows; where in `order` each partial
    sum starts (a part never crosses rows); where in the partial sums each row starts.
    """
    narrow = row_of_pixel.astype(np.uint16) if rows <= 1 << 16 else row_of_pixel  # 16 bits sort in linear time
    order = np.argsort(narrow, kind="stable")
    counts = np.bincount(row_of_pixel, minlength=rows)
    parts_per_row = -(-counts // PIXELS_PER_PARTIAL_SUM)
    row_starts = np.cumsum(parts_per_row) - parts_per_row
    row_of_part = np.repeat(np.arange(rows), parts_per_row)
    part_in_row = np.arange(len(row_of_part)) - row_starts[row_of_part]
    part_starts = (np.cumsum(counts) - counts)[row_of_part] + part_in_row * PIXELS_PER_PARTIAL_SUM
    return order.astype(np.int64), part_starts.astype(np.int64), row_starts.astype(np.int64)

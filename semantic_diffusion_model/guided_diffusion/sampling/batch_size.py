"""How many images a batch of sampling holds: what was asked for, or what the memory takes."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from command import UserError
from out_of_memory import is_out_of_memory, memory_of, said_by

Result = TypeVar("Result")

MOST_ON_A_CPU, PIXELS_ON_A_CPU = 16, 8 * 256**2  # more bring little, and take memory
MOST_ON_A_GPU = 64
PIECES_PER_RANK = 4  # so that ranks of uneven speed are done within a quarter of their work of one another


def piece_size(count: int, ranks: int, most: int) -> int:
    """How many of `count` images a rank takes at a time: at most a batch, and few enough for all ranks to have some."""
    return max(1, min(most, -(-count // (PIECES_PER_RANK * ranks))))


class BatchSize:
    """`value` images of `img_size` pixels squared per batch, never more than `most`. On a GPU it is found by trying:
    doubled while it fits, halved when it does not.

    A batch that runs out of memory is taken again in halves, so a size that was asked for is an upper bound as well.
    """

    def __init__(self, asked: int, device: torch.device, img_size: int):
        modest = max(1, min(MOST_ON_A_CPU, PIXELS_ON_A_CPU // img_size**2))
        self.device = device
        self.searching = asked <= 0 and device.type == "cuda"
        self.fitted = 0
        self.most = asked if asked > 0 else MOST_ON_A_GPU if self.searching else modest
        self.value = asked if asked > 0 else 1 if self.searching else modest

    def is_settled_at(self, count: int) -> bool:
        """Whether batches of `count` images are what most of the job is made of."""
        return count == self.value and not self.searching

    def attempt(self, function: Callable[[Sequence[Any]], Result], batch: Sequence[Any]) -> Result | None:
        """function(batch), or None if that took more memory than there is, with `value` halved.

        Raises UserError if one image takes more.
        """
        try:
            result = function(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                instead = ", or --device cpu" if self.device.type == "cuda" else ""
                raise UserError(
                    f"{memory_of(self.device)} is too small for one image ({said_by(error)}): take a smaller network"
                    + instead
                ) from None
            self.searching = False
            half = len(batch) // 2
            self.value = self.fitted if half < self.fitted < len(batch) else half
        else:
            self.fitted = max(self.fitted, len(batch))
            if self.searching and len(batch) == self.value:
                self.value = min(2 * self.value, MOST_ON_A_GPU)
                self.searching = self.value < MOST_ON_A_GPU
            return result
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

"""What loader processes may put into /dev/shm, which in a container has 64 MB: how many of them fit, how far ahead."""

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

SHARE = 0.8  # of what is free: the file system rounds up, and others use it too
BUSIEST = 2  # times the first batch: busy label maps have larger tables
PAGE = 4096


def free_shared_memory() -> int:
    """Bytes that are free in /dev/shm, through which loader processes share memory; 0 if there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested dataclasses, dictionaries and lists."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from tensors_of(getattr(tree, field.name))
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_of(value)


def bytes_shared(batch: Any) -> int:
    """What `batch` takes in shared memory: each tensor in pages of its own."""
    return sum(-(-tensor.nbytes // PAGE) * PAGE + PAGE for tensor in tensors_of(batch))


def processes_that_fit(asked: int, per_step: int, batch_bytes: int, room: int) -> tuple[int, int]:
    """(loader processes, batches that each prepares ahead), as many as asked for if `room` bytes suffice; else fewer.

    In flight are those prepared ahead, and the `per_step` of the step under way and of the one before it.
    """
    for processes in range(asked, 0, -1):
        for ahead in (max(2, 2 * per_step // processes), 1):
            if (processes * ahead + 2 * per_step) * BUSIEST * batch_bytes <= SHARE * room:
                return processes, ahead
    return 0, 0

"""What of a node's cores and GPUs is this rank's: launchers and Slurm may have bound each rank to its own already."""

import ctypes
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from command import UserError
from cores import allowed_cores
from gpu_kernels import count_gpus

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


@dataclass(frozen=True)
class View:
    """What one rank sees: the name of its host, the numbers of the cores it may run on, the UUIDs of its GPUs."""

    host: str
    cores: tuple[int, ...]
    gpus: tuple[str, ...]


def look(use_gpus: bool) -> View:
    """What this rank sees."""
    gpus = range(count_gpus() if use_gpus else 0)
    uuids = tuple(str(torch.cuda.get_device_properties(index).uuid) for index in gpus)
    return View(socket.gethostname(), tuple(sorted(os.sched_getaffinity(0))), uuids)


def views_of_node(own: View, store: dist.Store | None, rank: int, size: int) -> list[View]:
    """The views of all ranks on this rank's host, this one's among them; every rank must call this."""
    if store is None:
        return [own]
    store.set(f"view of rank {rank}", json.dumps(asdict(own)))
    views = [json.loads(store.get(f"view of rank {other}")) for other in range(size)]
    found = [View(view["host"], tuple(view["cores"]), tuple(view["gpus"])) for view in views]
    return [view for view in found if view.host == own.host]


def share_of_cores(own: View, views: Sequence[View], limit: float | None = None) -> int:
    """How many cores this rank has for itself, at least 1: each core is divided among those that may run on it.

    A container may be given the time of fewer (`limit`, by default what `allowed_cores` finds), for all its ranks.
    """
    share = sum(1 / sum(core in view.cores for view in views) for core in own.cores)
    return max(1, int(min(share, (allowed_cores() if limit is None else limit) / len(views)) + 1e-6))


def index_of_gpu(own: View, views: Sequence[View], local_rank: int) -> int:
    """Which of its visible GPUs this rank uses: no other rank uses the same. Raises UserError if there are too few.

    In the order of `views`, each rank of the node takes the first that it sees and none before it has taken: of GPUs of
    its own (Slurm's --gpus-per-task), of those of all, or of a group's (--gpu-bind=closest).
    """
    taken: list[str] = []
    for view in views:
        free = [gpu for gpu in view.gpus if gpu not in taken]
        if not free:
            sharing, count = sum(bool({*view.gpus} & {*other.gpus}) for other in views), len(view.gpus)
            raise UserError(
                f"{sharing} ranks on {own.host} share {count} GPU{'s' if count > 1 else ''}: start at most {count} per "
                "node, give each rank its own (srun --gpus-per-task=1), or add --device cpu"
            )
        taken.append(free[0])
    return own.gpus.index(taken[local_rank])


def keep_freed_memory() -> None:
    """Have the C library keep what a CPU frees for its next step, where it knows how (glibc): large pieces would go
    back to the system, and each page that comes from there again costs as much as filling it."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)

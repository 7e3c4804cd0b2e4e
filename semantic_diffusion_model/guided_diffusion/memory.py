"""What fits: the decoded pictures into the memory of the node, the activations of a step into that of the device."""

import contextlib
import math
import os
from pathlib import Path

import torch
from torch import nn

from guided_diffusion.loading import Examples, Microbatch
from guided_diffusion.optimisation import autocast
from guided_diffusion.world import World

MEMORY_SHARE = 0.5  # of what is free on the node, for all ranks together
HEADROOM = 1.3  # for what is computed but not kept, and for gaps between the pieces


def activation_bytes(network: nn.Module, microbatch: Microbatch, precision: str) -> int:
    """Bytes that a forward pass of `microbatch` keeps for the backward pass, beside the weights."""
    x_start = microbatch.x_start()
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    t = torch.zeros(len(microbatch), dtype=torch.int64, device=x_start.device)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), autocast(precision, x_start.device):
        output = network(x_start, t, microbatch.condition)  # held until all is counted: no storage is used twice
    del output
    return sum(kept.values())


def keeps_activations(network: nn.Module, examples: Examples, images: int, precision: str, room: float) -> bool:
    """Whether the activations of a step with `images` at once fit into `room` bytes, judged by those of one and two.

    Tried is no more than what will fit: False as soon as one image, or two, do not.
    """
    device = next(network.parameters()).device

    def needed(indices: list[int]) -> int:
        return activation_bytes(network, examples.microbatch(indices).to(device), precision)

    try:
        one = needed([0])
        if images == 1 or HEADROOM * images * one < room:
            return HEADROOM * one < room
        if 2 * HEADROOM * one > room:
            return False
        two = needed([0, len(examples) - 1])
        return HEADROOM * (one + (images - 1) * (two - one)) < room  # what does not grow with the batch is in both
    except torch.cuda.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()
    return False


def device_memory(world: World) -> float:
    """Bytes that this rank may still use on its device: of a GPU what is free, of a CPU its share of the half."""
    if world.device.type != "cuda":
        return MEMORY_SHARE * free_memory() / world.local_size
    unused = torch.cuda.memory_reserved(world.device) - torch.cuda.memory_allocated(world.device)
    return torch.cuda.mem_get_info(world.device)[0] + unused


def fits_in_memory(examples: Examples, world: World, workers: int) -> bool:
    """Whether the decoded pictures may be kept: in free memory, and in /dev/shm if worker processes share them."""
    needed = examples.bytes_needed() * world.local_size
    if workers and needed > 0.5 * free_shared_memory():
        return False
    return needed < MEMORY_SHARE * free_memory()


def free_memory() -> float:
    """Bytes of memory that are available: of the node's, or what a limit on this job (Slurm, a container) leaves."""
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return min(available, left_by_limits(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup")))


def left_by_limits(groups: str, root: Path) -> float:
    """Bytes that the control groups in `groups` (the text of /proc/self/cgroup) leave; infinite without a limit.

    `root`: where their files are mounted. A limit of any group above holds as well. Both versions are understood. Files
    that are merely cached count as used there, and are given up when memory is needed: they are left too.
    """
    left = math.inf
    for line in groups.splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit, used, prefix = root, "memory.max", "memory.current", ""
        if controllers == "memory":
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            prefix = "total_"
        group = Path(name.lstrip("/"))
        for folder in (base / group, *(base / parent for parent in group.parents)):
            with contextlib.suppress(OSError, ValueError):  # no limit: no such file, or "max"
                unused = int((folder / limit).read_text()) - int((folder / used).read_text())
                left = min(left, unused + _cached_files(folder / "memory.stat", prefix))
    return left


def _cached_files(statistics: Path, prefix: str) -> int:
    """Bytes of cached files in a control group."""
    counts = dict(line.split() for line in statistics.read_text().splitlines())
    return sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def free_shared_memory() -> int:
    """Bytes that are free in /dev/shm, through which loader processes share memory; 0 if there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize

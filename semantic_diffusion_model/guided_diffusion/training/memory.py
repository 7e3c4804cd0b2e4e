"""What fits: the decoded pictures into the memory of the node, the activations of a step into that of the device."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from guided_diffusion.data.loading import Examples, Microbatch
from guided_diffusion.data.shared_memory import free_shared_memory
from guided_diffusion.network.precision import autocast
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.runs.world import World
from out_of_memory import is_out_of_memory

MEMORY_SHARE = 0.5  # of what is free on the node, for all ranks together
HEADROOM = 1.3  # for what is computed but not kept, and for gaps between the pieces


def activation_bytes(network: nn.Module, microbatch: Microbatch, precision: str) -> int:
    """Bytes that a training step with `microbatch` holds beside weights, gradients and what is passing.

    That is what the forward pass keeps for the backward pass, and, where blocks are recomputed, what the largest one of
    them would keep.
    """
    largest = 0

    def once_more(block: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal largest
        block.use_checkpoint = False
        try:
            with _counting(network) as kept:
                again = block.forward(*inputs)
        finally:
            block.use_checkpoint = True
        largest = max(largest, sum(kept.values()))
        del again  # held until all is counted: no storage is used twice

    x_start = microbatch.x_start()
    t = torch.zeros(len(microbatch), dtype=torch.int64, device=x_start.device)
    blocks = [module for module in network.modules() if getattr(module, "use_checkpoint", False)]
    hooks = [block.register_forward_hook(once_more) for block in blocks]
    try:
        with _counting(network) as kept, autocast(precision, x_start.device):
            output = network(x_start, t, microbatch.condition)
    finally:
        for hook in hooks:
            hook.remove()
    del output
    return sum(kept.values()) + largest


@contextlib.contextmanager
def _counting(network: nn.Module) -> Iterator[dict[int, int]]:
    """Within the block: bytes kept for a backward pass, by the address of their storage, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept


def fit_step(
    network: UNetModel,
    examples: Examples,
    batch: int,
    asked: int | None,
    recompute: bool | Literal["auto"],
    precision: str,
    room: float,
) -> tuple[int, bool]:
    """How many of `batch` images go through the network at once, and whether it recomputes their activations.

    `asked` at once if that is settled; else as many as fit into `room` bytes, in parts of about one size. For "auto",
    activations are kept if `asked`, or a single image, fits so: parts cost little, recomputing a third.
    """
    if asked and recompute != "auto":
        return asked, recompute
    for mode in [False, True] if recompute == "auto" else [recompute]:
        network.recompute(mode)
        most = _images_that_fit(network, examples, asked or batch, precision, room)
        if most >= (asked or 1):
            break
    parts = math.ceil(batch / max(1, most))
    return asked or math.ceil(batch / parts), mode


def _images_that_fit(network: nn.Module, examples: Examples, images: int, precision: str, room: float) -> int:
    """How many of `images` images fit into `room` bytes at once, judged by what one and two of them need.

    Tried is no more than what will fit.
    """
    device = next(network.parameters()).device

    def needed(indices: list[int]) -> float:
        return HEADROOM * activation_bytes(network, examples.microbatch(indices, training=True).to(device), precision)

    one = math.inf
    try:
        one = needed([0])
        if images * one < room or 2 * one > room:
            return images if images * one < room else int(one < room)
        two = needed([0, len(examples) - 1])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        # What does not grow with the batch is in both. The two images need not be of the same kind (busy label maps
        # take no table), so the second is not trusted to cost much less than the first.
        return min(images, 1 + int((room - one) / max(two - one, one / 2)))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return int(one < room)


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

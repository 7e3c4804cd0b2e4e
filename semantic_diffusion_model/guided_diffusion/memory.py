"""What fits: the decoded pictures into the memory of the node, the activations of a step into that of the device."""

import os

import torch
from torch import nn

from guided_diffusion.loading import Examples, Microbatch
from guided_diffusion.optimisation import autocast
from guided_diffusion.world import World

MEMORY_SHARE = 0.5  # of what is free on the node, for all ranks together
BYTES_PER_WEIGHT = 12  # its gradient and AdamW's two averages; the weight itself and its averages are there already
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


def keeps_activations(network: nn.Module, examples: Examples, images: int, precision: str, world: World) -> bool:
    """Whether a step with `images` at once has room for all activations, judged by those of one and of two images."""
    microbatches = (examples.microbatch(indices).to(world.device) for indices in ([0], [0, len(examples) - 1]))
    one, two = (activation_bytes(network, microbatch, precision) for microbatch in microbatches)
    activations = one + (images - 1) * (two - one)  # what does not grow with the batch stands in both
    weights = sum(parameter.numel() for parameter in network.parameters())
    return HEADROOM * activations + BYTES_PER_WEIGHT * weights < device_memory(world)


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


def free_memory() -> int:
    """Bytes of the node's memory that are available."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def free_shared_memory() -> int:
    """Bytes that are free in /dev/shm, through which loader processes share memory; 0 if there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize

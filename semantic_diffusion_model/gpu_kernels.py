"""The GPUs that CUDA can use, and whether torch has kernels for them: an old one counts, and would fail at its first.

This small file stands in both script folders that use GPUs, which do not import one another.
"""

import re
from collections.abc import Iterable

import torch

from command import UserError


def count_gpus() -> int:
    """How many GPUs CUDA sees; none where it cannot start, for an old driver say: torch then says why."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.init()  # before it, whole GPUs are counted where CUDA sees parts of them (MIG)
    return torch.cuda.device_count()


def refuse_gpu_without_kernels(index: int, otherwise: str) -> None:
    """Raise UserError for a GPU that torch was not built for; `otherwise`: the flag that does without one."""
    capability, built = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
    if built and not runs_on(built, *capability):
        raise UserError(
            f"{torch.cuda.get_device_name(index)} has compute capability {capability[0]}.{capability[1]}, this torch "
            f"kernels for {', '.join(built)} alone: install another torch, or take {otherwise}"
        )


def runs_on(built: Iterable[str], major: int, minor: int) -> bool:
    """Whether code of the architectures `built` runs on a GPU of this compute capability: machine code (sm_86) on those
    of its major number that are as new, intermediate code (compute_80) on all that are."""
    for kind, number in re.findall(r"(sm|compute)_(\d+)", " ".join(built)):
        if int(number) <= 10 * major + minor and (kind == "compute" or int(number) // 10 == major):
            return True
    return False

"""The device that a network runs on, and what a GPU may lack: a compiler, memory."""

import contextlib
import re
import sys
from collections.abc import Iterator

import torch
from torch import nn

from command import UserError
from cores import usable_cores
from gpu_kernels import count_gpus, refuse_gpu_without_kernels
from out_of_memory import is_out_of_memory, said_by
from settings import CommonSettings, PredictSettings, Unasked


def choose_device(gpu: str) -> torch.device:
    """The device named; the default falls back to the CPU, and says so.

    Raises UserError for what is not there, or a GPU that the installed torch was not built for.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    count = count_gpus()
    if isinstance(gpu, Unasked) and not count:
        print("no GPU here (--gpu cuda:0 is the default): computing on the CPU")
        return torch.device("cpu")
    match = re.fullmatch(r"cpu|(?:cuda:)?(?P<index>\d+)|cuda", gpu)
    if match is None:
        raise UserError(f"--gpu {gpu}: expected is cuda:0, cuda:1 ... or cpu")
    if gpu == "cpu":
        return torch.device("cpu")
    index = int(match["index"] or 0)
    if index >= count:
        raise UserError(f"--gpu {gpu}: is not there ({count} GPUs found); --gpu cpu computes without")
    refuse_gpu_without_kernels(index, "--gpu cpu")
    return torch.device("cuda", index)


def autocast(device: torch.device, mixed_precision: bool):
    """bfloat16 where safe, if asked, on a GPU that computes in it; else float32. bfloat16 needs no loss scaling."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision and fast)


class Compiled(nn.Module):
    """`plain`, compiled; where that fails, for want of a C compiler say, with a warning as it is."""

    def __init__(self, plain: nn.Module):
        super().__init__()
        self.plain = plain
        self.compiled = None
        self.failed = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.failed:
            return self.plain(images)
        try:
            if self.compiled is None:
                self.compiled = torch.compile(self.plain)
            return self.compiled(images)
        except Exception as error:  # of any kind; a fault of the network itself shows in the line after the warning
            if is_out_of_memory(error):
                raise
            self.failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"warning: the network is not compiled ({reason}), but works: slower", file=sys.stderr)
            return self.plain(images)


def compile_for(device: torch.device, network: nn.Module) -> nn.Module:
    """The network, compiled at its first images for a GPU; as it is for a CPU."""
    return Compiled(network) if device.type == "cuda" else network


@contextlib.contextmanager
def memory_of(settings: CommonSettings | PredictSettings) -> Iterator[None]:
    """Raises UserError where the memory, of the GPU or of the computer, does not do for the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = settings.batch_size
        mend = "a smaller --batch-size" if size > 1 else "a smaller --img-size, or --gpu cpu"
        raise UserError(f"the memory is too small for --batch-size {size} ({said_by(error)}): give {mend}") from None

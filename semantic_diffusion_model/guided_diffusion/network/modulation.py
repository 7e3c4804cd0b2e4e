"""Normalise, modulate by the label table, scale and shift by the timestep, SiLU: one step that keeps only its input.

    m = normalise(x) * gamma1[row] + beta[row],    y = m * (1 + scale) + shift,    out = silu(y)

Without labels, a plain group normalisation is the same step with one row for all pixels: its weight and bias.

On a GPU the kernels of `modulation_gpu.py` do it, elsewhere the plain form of `modulation_plain.py`, their reference.
"""

import functools
import warnings
from types import ModuleType

import torch

from guided_diffusion.network import modulation_plain
from guided_diffusion.network.condition import Level
from out_of_memory import is_out_of_memory


def modulate(
    x: torch.Tensor,
    table: torch.Tensor,
    level: Level | None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
) -> torch.Tensor:
    """The step above for x [N, C, h, w]; the result has its shape and type, channels last in memory.

    table: [U, 2 C], gamma1 = 1 + gamma beside beta, of which a pixel takes the row that `level` gives; [1, 2 C] for all
    pixels if `level` is None. scale, shift: [N, C] from the timestep, or None for both. silu: end with SiLU. Raises
    RuntimeError in a backward pass on a GPU if the condition was made without its plan (training=False).
    """
    return _Modulate.apply(x, table, scale, shift, level, silu)


class _Modulate(torch.autograd.Function):
    """Keeps x and the table for the backward pass, where autograd would keep every intermediate at full size."""

    @staticmethod
    def forward(ctx, x, table, scale, shift, level, silu):
        x = x.contiguous(memory_format=torch.channels_last)
        out, mean, rstd = _implementation(x).forward(x, table, level, scale, shift, silu)
        ctx.save_for_backward(x, table, scale, shift, mean, rstd)
        ctx.level, ctx.silu = level, silu
        return out

    @staticmethod
    def backward(ctx, grad):
        x, table, scale, shift, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        gradients = _implementation(x).backward(grad, x, table, ctx.level, scale, shift, mean, rstd, ctx.silu)
        return *gradients, None, None


def _implementation(x: torch.Tensor) -> ModuleType:
    return _kernels(x.device, x.dtype) if x.is_cuda else modulation_plain


@functools.cache
def _kernels(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """What runs on a GPU: the kernels, or, after a warning, the plain form where they do not run, or wrongly."""
    try:
        from guided_diffusion.network import modulation_gpu

        modulation_gpu.check(device, dtype)
    except Exception as error:  # no Triton, no C compiler, a GPU that it does not know, ...
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(f"the normalisations run without their kernels, which is slower: {reason}", stacklevel=2)
        return modulation_plain
    return modulation_gpu

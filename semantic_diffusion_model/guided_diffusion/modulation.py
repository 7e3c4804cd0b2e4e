"""Normalise, modulate by the label table, scale and shift by the timestep, SiLU: one step that keeps only its input.

    m = normalise(x) * gamma1[row] + beta[row],    y = m * (1 + scale) + shift,    out = silu(y)

Without labels, a plain group normalisation is the same step with one row for all pixels: its weight and bias.

`_forward` and `_backward` are written once, for some images of a batch. On a CPU they take one image after another, so
that what lies between their passes stays in the cache. On a GPU they take the batch, compiled into few kernels; the
plain form is the reference there, and what remains if the compiler fails.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from guided_diffusion.condition import Level

NORM_GROUPS = 32
NORM_EPS = 1e-5


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
    RuntimeError in the backward pass if the condition was made with training=False.
    """
    return _Modulate.apply(x, table, scale, shift, level, silu)


class _Modulate(torch.autograd.Function):
    """Keeps x and the table for the backward pass, where autograd would keep every intermediate at full size."""

    @staticmethod
    def forward(ctx, x, table, scale, shift, level, silu):
        x = x.contiguous(memory_format=torch.channels_last)
        run = _compiled(_forward) if x.is_cuda else _forward
        done = [run(x[part], rows, table, _of(scale, part), _of(shift, part), silu) for part, rows in _parts(x, level)]
        out, mean, rstd = map(_together, zip(*done, strict=True))
        ctx.save_for_backward(x, table, scale, shift, mean, rstd)
        ctx.level, ctx.silu = level, silu
        return out

    @staticmethod
    def backward(ctx, grad):
        x, table, scale, shift, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        run = _compiled(_backward) if x.is_cuda else _backward
        done, grad_table = [], torch.zeros_like(table, dtype=torch.float32)
        for part, rows in _parts(x, ctx.level):
            grad_x, pixels, *to_timestep = run(
                grad[part], x[part], rows, table, _of(scale, part), _of(shift, part), mean[part], rstd[part], ctx.silu
            )
            done.append((grad_x, *to_timestep))
            if rows is None:
                grad_table += pixels
            elif x.is_cuda:
                grad_table = sum_rows(pixels, ctx.level)
            else:
                grad_table += torch.zeros_like(grad_table).index_add_(0, rows, pixels.float())
        grad_x, grad_scale, grad_shift = map(_together, zip(*done, strict=True))
        return grad_x, grad_table.to(table.dtype), grad_scale, grad_shift, None, None


def _parts(x: torch.Tensor, level: Level | None) -> list[tuple[slice, torch.Tensor | None]]:
    """What is done at once, and its rows: the batch on a GPU, an image on a CPU."""
    count, pixels = len(x), x.shape[2] * x.shape[3]
    parts = [slice(0, count)] if x.is_cuda else [slice(i, i + 1) for i in range(count)]
    if level is None:
        return [(part, None) for part in parts]
    return [(part, level.row_of_pixel[part.start * pixels : part.stop * pixels]) for part in parts]


def _together(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The parts of a batch as one tensor; None if there are none. A whole batch is not copied."""
    return parts[0] if len(parts) == 1 or parts[0] is None else torch.cat(parts)


def _of(vector: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    return None if vector is None else vector[part]


def _forward(x, rows, table, scale, shift, silu):
    """out [n, C, h, w] in x's type, and mean and reciprocal deviation [n, groups] float32."""
    gamma1, beta = _rows_of(table, rows)
    one_row = (gamma1[0], beta[0]) if rows is None else (None, None)
    normalised, mean, rstd = torch.native_group_norm(_for_kernel(x), *one_row, *_norm_sizes(x), NORM_EPS)
    h = _pixels(normalised)
    if rows is not None:
        h = torch.addcmul(beta, h, gamma1)
    if scale is not None:
        h = _scaled(h, scale, shift)
    if silu:
        h = F.silu(h, inplace=True)
    return _image(h, x.shape).to(x.dtype), mean, rstd


def _backward(grad, x, rows, table, scale, shift, mean, rstd, silu):
    """Gradients of x; of the rows' two values at each pixel [pixels, 2 C], summed to [1, 2 C] if all share one row; of
    scale and shift [n, C] or None."""
    per_channel = x.shape[1] // NORM_GROUPS
    factor = rstd.repeat_interleave(per_channel, 1)[:, :, None, None]
    offset = (mean * rstd).repeat_interleave(per_channel, 1)[:, :, None, None]
    normalised = _pixels(x.float() * factor - offset)
    gamma1, beta = _rows_of(table, rows)
    grad, grad_scale, grad_shift = _pixels(grad).float(), None, None
    if silu or scale is not None:
        modulated = torch.addcmul(beta, normalised, gamma1)
    if silu:
        y = modulated if scale is None else _scaled(modulated, scale, shift)
        grad = torch.ops.aten.silu_backward(grad, y)
    if scale is not None:
        by_image = grad.view(len(x), -1, x.shape[1])
        grad_shift = by_image.sum(1)
        grad_scale = (by_image * modulated.view_as(by_image)).sum(1)
        grad = (by_image * (1 + scale.float()[:, None])).view_as(grad)
    if rows is None:
        pixels = torch.cat([(grad * normalised).sum(0), grad.sum(0)])[None]
    else:
        pixels = torch.cat([grad * normalised, grad], dim=1).to(x.dtype)
    grad_normalised = _image(grad * gamma1, x.shape)
    grad_x, _, _ = torch.ops.aten.native_group_norm_backward(
        _for_kernel(grad_normalised), _for_kernel(x), mean, rstd, None, *_norm_sizes(x), [True, False, False]
    )
    return grad_x.to(x.dtype), pixels, grad_scale, grad_shift


def _rows_of(table: torch.Tensor, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """gamma1 and beta of each pixel, [pixels, C] float32, or [1, C] for all."""
    gamma1, beta = (table if rows is None else table.index_select(0, rows)).float().chunk(2, dim=1)
    return gamma1, beta


def _scaled(pixels: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """pixels [n * h * w, C] times 1 + scale [n, C], plus shift, of their image."""
    by_image = pixels.view(len(scale), -1, pixels.shape[1])
    return torch.addcmul(shift.float()[:, None], by_image, 1 + scale.float()[:, None]).view_as(pixels)


def sum_rows(values: torch.Tensor, level: Level) -> torch.Tensor:
    """Sum `values` [pixels, C] over the pixels of each table row: [U, C] float32.

    Sorted segments, summed in two steps of bounded length: no two writers of a row, the same result at each run.
    """
    if level.order is None:
        raise RuntimeError("this condition was made with training=False: it has no plan for the backward pass")
    parts = F.embedding_bag(level.order, values, level.part_starts, mode="sum").float()
    every_part = torch.arange(len(parts), device=parts.device)
    return F.embedding_bag(every_part, parts, level.row_starts, mode="sum")


def _for_kernel(image: torch.Tensor) -> torch.Tensor:
    """float32, and where a GPU runs it uncompiled, channels first: not every version's kernel takes another layout."""
    plain = image.is_cuda and not torch.compiler.is_compiling()
    return image.float().contiguous() if plain else image.float()


def _norm_sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    return len(x), x.shape[1], x.shape[2] * x.shape[3], NORM_GROUPS


def _pixels(image: torch.Tensor) -> torch.Tensor:
    """[n, C, h, w], channels last in memory, as [n * h * w, C] without a copy."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _image(pixels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    count, channels, height, width = shape
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)


_with_compiler: dict[Callable, Callable] = {}


def _compiled(plain: Callable) -> Callable:
    """`plain`, compiled at its first call; `plain` itself, after one warning, if that fails."""
    if plain in _with_compiler:
        return _with_compiler[plain]
    # One compilation for all sizes: a network has dozens of them, and the rows of the table change with each batch.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    kernel = torch.compile(plain, dynamic=True)

    def run(*arguments):
        try:
            return kernel(*arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            warnings.warn(f"modulation runs uncompiled, which is slower: {reason}", stacklevel=2)
            _with_compiler[plain] = plain
            return plain(*arguments)

    _with_compiler[plain] = run
    return run

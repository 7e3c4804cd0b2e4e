"""The step of `modulation.py` in PyTorch's own operations: the reference of the kernels, and what runs on a CPU.

It goes through one image after another, so that on a CPU what lies between the passes stays in the cache.
"""

import torch
import torch.nn.functional as F

from guided_diffusion.network.condition import Level

NORM_GROUPS = 32
NORM_EPS = 1e-5


def forward(x, table, level: Level | None, scale, shift, silu: bool):
    """out like x; mean and reciprocal deviation [N, groups] float32."""
    parts = [_forward_image(x[i], rows, table, _of(scale, i), _of(shift, i), silu) for i, rows in _images(x, level)]
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def backward(grad, x, table, level: Level | None, scale, shift, mean, rstd, silu: bool):
    """Gradients of x; of the table; of scale and shift [N, C], or None without them."""
    parts, grad_table = [], torch.zeros_like(table, dtype=torch.float32)
    for i, rows in _images(x, level):
        grad_x, pixels, *to_timestep = _backward_image(
            grad[i], x[i], rows, table, _of(scale, i), _of(shift, i), mean[i], rstd[i], silu
        )
        parts.append((grad_x, *to_timestep))
        if rows is None:
            grad_table += pixels
        else:
            grad_table += torch.zeros_like(grad_table).index_add_(0, rows, pixels.float())
    grad_x, *to_timestep = zip(*parts, strict=True)
    to_timestep = [None if scale is None else torch.cat(values) for values in to_timestep]
    return torch.cat(grad_x), grad_table, *to_timestep


def _images(x: torch.Tensor, level: Level | None) -> list[tuple[slice, torch.Tensor | None]]:
    """Each image of x, as a slice, and the rows of its pixels."""
    pixels = x.shape[2] * x.shape[3]
    return [
        (slice(i, i + 1), None if level is None else level.row_of_pixel[i * pixels : (i + 1) * pixels])
        for i in range(len(x))
    ]


def _of(vector: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    return None if vector is None else vector[part]


def _forward_image(x, rows, table, scale, shift, silu):
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


def _backward_image(grad, x, rows, table, scale, shift, mean, rstd, silu):
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


def _for_kernel(image: torch.Tensor) -> torch.Tensor:
    """float32, and on a GPU channels first: not every version's kernel takes another layout."""
    return image.float().contiguous() if image.is_cuda else image.float()


def _norm_sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    return len(x), x.shape[1], x.shape[2] * x.shape[3], NORM_GROUPS


def _pixels(image: torch.Tensor) -> torch.Tensor:
    """[n, C, h, w], channels last in memory, as [n * h * w, C] without a copy."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _image(pixels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    count, channels, height, width = shape
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)

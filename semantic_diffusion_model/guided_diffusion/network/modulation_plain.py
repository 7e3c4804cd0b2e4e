"""The step of `modulation.py` in PyTorch's own operations: the reference of the kernels, and what runs on a CPU.

It takes a few images at a time, so that on a CPU what lies between the passes stays in the cache. Features are
[n, P, C] float32 here, the P pixels of n images with their channels last, as they lie in memory.
"""

import torch
import torch.nn.functional as F

from guided_diffusion.network.condition import Level

NORM_GROUPS = 32
NORM_EPS = 1e-5
VALUES_AT_ONCE = 1 << 17  # 512 KB in float32


def forward(x, table, level: Level | None, scale, shift, silu: bool):
    """out like x; mean and reciprocal deviation [N, groups] float32."""
    out, statistics = torch.empty_like(x), []
    for i, rows in _parts(x, level):
        rows_of_part = _rows_of(table, rows, len(x[i]))
        pixels, *of_part = _forward_part(x[i], rows_of_part, _of(scale, i), _of(shift, i), silu)
        _pixels(out[i]).copy_(pixels)
        statistics.append(of_part)
    return out, *map(torch.cat, zip(*statistics, strict=True))


def backward(grad, x, table, level: Level | None, scale, shift, mean, rstd, silu: bool):
    """Gradients of x; of the table; of scale and shift [N, C], or None without them."""
    grad_x, grad_table = torch.empty_like(x), torch.zeros_like(table, dtype=torch.float32)
    to_timestep = []
    for i, rows in _parts(x, level):
        grad_part, pixels, *to_timestep_part = _backward_part(
            grad[i], x[i], _rows_of(table, rows, len(x[i])), _of(scale, i), _of(shift, i), mean[i], rstd[i], silu
        )
        _pixels(grad_x[i]).copy_(grad_part)
        to_timestep.append(to_timestep_part)
        if rows is None:
            grad_table += pixels.sum((0, 1))
        else:
            grad_table += torch.zeros_like(grad_table).index_add_(0, rows, pixels.flatten(0, 1))
    summed = [None if scale is None else torch.cat(values) for values in zip(*to_timestep, strict=True)]
    return grad_x, grad_table, *summed


def _parts(x: torch.Tensor, level: Level | None) -> list[tuple[slice, torch.Tensor | None]]:
    """Slices of a few images of x, and the rows of their pixels."""
    pixels = x.shape[2] * x.shape[3]
    count = max(1, VALUES_AT_ONCE // x[0].numel())
    return [
        (slice(i, i + count), None if level is None else level.row_of_pixel[i * pixels : (i + count) * pixels])
        for i in range(0, len(x), count)
    ]


def _of(vector: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    """[n, 1, C] float32, or None without a timestep."""
    return None if vector is None else vector[part, None].float()


def _forward_part(x, rows, scale, shift, silu):
    """out [n, P, C], and mean and reciprocal deviation [n, groups] float32."""
    gamma1, beta = rows
    one_row = (gamma1[0, 0], beta[0, 0]) if gamma1.shape[:2] == (1, 1) else (None, None)
    sizes = len(x), x.shape[1], x.shape[2] * x.shape[3], NORM_GROUPS
    normalised, mean, rstd = torch.native_group_norm(_for_kernel(x), *one_row, *sizes, NORM_EPS)
    h = _pixels(normalised)
    if one_row[0] is None:
        h = torch.addcmul(beta, h, gamma1)
    if scale is not None:
        h = torch.addcmul(shift, h, 1 + scale)
    if silu:
        h = F.silu(h, inplace=True)
    return h, mean, rstd


def _backward_part(grad, x, rows, scale, shift, mean, rstd, silu):
    """Gradients of x [n, P, C]; of the rows' two values by pixel [n, P, 2 C]; of scale and shift [n, C] or None."""
    channels = x.shape[1]
    factor, offset = _by_channel(rstd, channels), _by_channel(mean * rstd, channels)
    normalised = torch.addcmul(-offset, _pixels(x).float(), factor)
    gamma1, beta = rows
    grad, grad_scale, grad_shift = _pixels(grad).float(), None, None
    if silu or scale is not None:
        modulated = torch.addcmul(beta, normalised, gamma1)
    if silu:
        y = modulated if scale is None else torch.addcmul(shift, modulated, 1 + scale)
        grad = torch.ops.aten.silu_backward(grad, y)
    pixels = torch.empty(*grad.shape[:2], 2 * channels, device=grad.device)
    to_gamma1, to_beta = pixels.chunk(2, dim=2)
    if scale is None:
        grad = to_beta.copy_(grad)
    else:
        grad_shift = grad.sum(1)
        grad_scale = modulated.mul_(grad).sum(1)
        grad = torch.mul(grad, 1 + scale, out=to_beta)
    torch.mul(grad, normalised, out=to_gamma1)
    grad_x = _through_normalisation(grad * gamma1, normalised, factor)
    return grad_x, pixels, grad_scale, grad_shift


def _through_normalisation(grad, normalised, factor):
    """Gradient of x from that of the normalised x, all [n, P, C]; factor [n, 1, C], the reciprocal deviation.

    grad_x = factor * (grad - mean(grad) - normalised * mean(grad * normalised)), each mean over a group's values.
    """

    def group_means(values):
        means = values.sum(1).view(len(values), NORM_GROUPS, -1).mean(2) / values.shape[1]
        return _by_channel(means, values.shape[2])

    offset, slope = factor * group_means(grad), factor * group_means(grad * normalised)
    return torch.addcmul(torch.addcmul(-offset, normalised, -slope), grad, factor)


def _by_channel(by_group: torch.Tensor, channels: int) -> torch.Tensor:
    """[n, groups] as [n, 1, C]: each value for all channels of its group."""
    return by_group[:, None, :, None].expand(-1, -1, -1, channels // NORM_GROUPS).reshape(-1, 1, channels)


def _rows_of(table: torch.Tensor, rows: torch.Tensor | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """gamma1 and beta of each pixel of `count` images, [n, P, C] float32, or [1, 1, C] for all."""
    taken = table[None] if rows is None else table.index_select(0, rows).view(count, -1, table.shape[1])
    gamma1, beta = taken.float().chunk(2, dim=2)
    return gamma1, beta


def _for_kernel(image: torch.Tensor) -> torch.Tensor:
    """float32, and on a GPU channels first: not every version's kernel takes another layout."""
    return image.float().contiguous() if image.is_cuda else image.float()


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """[n, C, h, w], channels last in memory, as [n, P, C] without a copy."""
    return images.flatten(2).transpose(1, 2)

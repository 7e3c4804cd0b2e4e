"""Semantic modulation (SPADE, Park et al. 2019): normalised features, scaled and shifted by the label map.

    out = normalise(x) * (1 + gamma(labels)) + beta(labels),    gamma, beta = conv(relu(conv(labels)))

Two ways to the same values. Dense: convolve the label map at each pixel. Table: gamma and beta depend on the 5 x 5
labels around a pixel: compute them once for each distinct neighbourhood of the batch, as rows of a table, and let each
pixel take its row. Exactness needs care in three places: a label outside the image is nothing, not class 0; the hidden
activation outside the image is 0, not relu(bias); a dropped label is an all-zero vector inside the image.
"""

import torch
import torch.nn.functional as F
from torch import nn

from guided_diffusion.condition import Condition, Level

NORM_GROUPS = 32
NORM_EPS = 1e-5
HIDDEN_CHANNELS = 128


class SPADE(nn.Module):
    """Group normalisation of x [N, C, h, w], modulated by the condition at its resolution."""

    def __init__(self, channels: int, condition_channels: int):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, HIDDEN_CHANNELS, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN_CHANNELS, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN_CHANNELS, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, condition: Condition) -> torch.Tensor:
        size = tuple(x.shape[-2:])
        if condition.maps is None and condition.level(size).uses_table:
            level = condition.level(size)
            return modulate_by_table(x, self._table(condition, level, size), level)
        hidden = self.mlp_shared(condition.maps_at(size, x.dtype))
        gamma, beta = self.mlp_gamma(hidden), self.mlp_beta(hidden)
        return torch.addcmul(beta, F.group_norm(x.float(), NORM_GROUPS, eps=NORM_EPS).type_as(x), 1 + gamma)

    def _table(self, condition: Condition, level: Level, size: tuple[int, int]) -> torch.Tensor:
        if condition.tables is None or torch.is_grad_enabled():
            return self.table(level)
        key = (id(self), size)
        if key not in condition.tables:
            condition.tables[key] = self.table(level)
        return condition.tables[key]

    def table(self, level: Level) -> torch.Tensor:
        """[U, 2 C]: 1 + gamma and beta of each distinct neighbourhood."""
        shared = self.mlp_shared[0]
        hidden = F.linear(level.patch_vectors, _as_rows(shared.weight), shared.bias).relu() * level.patch_inside
        windows = hidden[level.patch_of_row].flatten(1)  # [U, 9 * HIDDEN_CHANNELS]
        weight = torch.cat([_as_rows(self.mlp_gamma.weight), _as_rows(self.mlp_beta.weight)])
        return F.linear(windows, weight, torch.cat([self.mlp_gamma.bias + 1, self.mlp_beta.bias]))


def _as_rows(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weight [out, in, 3, 3] as a matrix [out, 9 * in] over windows with the channel last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def modulate_by_table(x: torch.Tensor, table: torch.Tensor, level: Level) -> torch.Tensor:
    """normalise(x) * scale + shift, where each pixel of x [N, C, h, w] takes scale and shift from its row of `table`.

    table: [U, 2 C], scale beside shift. Returns x's shape and type, channels last in memory.
    """
    return _ModulateByTable.apply(x, table, level)


class _ModulateByTable(torch.autograd.Function):
    """Keeps x and the table for the backward pass, where autograd would keep full-size scales and shifts as well."""

    @staticmethod
    def forward(ctx, x, table, level):
        x = x.contiguous(memory_format=torch.channels_last)
        normalised, mean, rstd = _normalise(x)
        scale, shift = table.to(x.dtype).chunk(2, dim=1)
        out = torch.addcmul(shift[level.row_of_pixel], _pixels(normalised), scale[level.row_of_pixel])
        ctx.save_for_backward(x, table, mean, rstd)
        ctx.level = level
        return _image(out, x.shape)

    @staticmethod
    def backward(ctx, grad_out):
        x, table, mean, rstd = ctx.saved_tensors
        level, channels = ctx.level, x.shape[1]
        grad = _pixels(grad_out.contiguous(memory_format=torch.channels_last))
        normalised = _pixels(_normalised_again(x, mean, rstd))
        grad_table = torch.cat([sum_rows(grad * normalised, level), sum_rows(grad, level)], dim=1)
        scale = table[:, :channels].to(x.dtype)[level.row_of_pixel]
        grad_normalised = _image(grad * scale, x.shape)
        grad_x, _, _ = torch.ops.aten.native_group_norm_backward(
            grad_normalised, x, mean, rstd, None, *_norm_sizes(x), [True, False, False]
        )
        return grad_x, grad_table.to(table.dtype), None


def sum_rows(values: torch.Tensor, level: Level) -> torch.Tensor:
    """Sum `values` [pixels, C] over the pixels of each table row: [U, C] float32.

    Sorted segments, summed in two steps of bounded length: no two writers of a row, the same result at each run.
    """
    if level.order is None:
        raise RuntimeError("this condition was made with training=False: it has no plan for the backward pass")
    parts = F.embedding_bag(level.order, values.float(), level.part_starts, mode="sum")
    every_part = torch.arange(len(parts), device=parts.device)
    return F.embedding_bag(every_part, parts, level.row_starts, mode="sum")


def _norm_sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    return len(x), x.shape[1], x.shape[2] * x.shape[3], NORM_GROUPS


def _normalise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Group-normalised x, and the mean and reciprocal deviation [N, groups], in float32 inside."""
    return torch.native_group_norm(x, None, None, *_norm_sizes(x), NORM_EPS)


def _normalised_again(x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
    per_channel = x.shape[1] // NORM_GROUPS
    shift, scale = (
        part.repeat_interleave(per_channel, 1)[:, :, None, None].to(x.dtype) for part in (mean * rstd, rstd)
    )
    return x * scale - shift


def _pixels(image: torch.Tensor) -> torch.Tensor:
    """[N, C, h, w], channels last in memory, as [N * h * w, C] without a copy."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _image(pixels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    count, channels, height, width = shape
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)

"""The step of `modulation.py` on a GPU, by kernels that touch each feature as seldom as they can.

Forward, x is read twice and the result written once: statistics, then the whole step. Backward, x and dL/dout are read
twice and dL/dx is written once. The first of these passes sums over parts: pixels of one image that share one row of
the table. Within a part everything but x and dL/dout is the same for all pixels, so two sums for each channel,

    A = sum of dL/dy,    B = sum of dL/dy * normalise(x),

give the gradients of the row, of scale and of shift, and the two means in the gradient of the normalisation. Nothing is
added atomically: the same input gives the same bits.
"""

import torch
import triton

from guided_diffusion import modulation_kernels as kernels
from guided_diffusion.condition import Condition, Level
from guided_diffusion.modulation import NORM_EPS, NORM_GROUPS, Plain

TILE = 4096  # values of each tensor that a program of four warps holds at once
PART_TILE = 512  # the same of one warp that sums over a part: most parts are a few pixels
PROGRAMS = 2048  # to aim at where pixels may be divided at will: several for each processor of a GPU
ROWS_AT_ONCE = 16, 64  # partial sums, and channels of each, that a program adds up at once
IMAGES_AT_ONCE = 64, 32
OPTIONS = {"enable_fp_fusion": True}  # said, because Triton changes its default
ONE_WARP = {"num_warps": 1, **OPTIONS}


def forward(x, table, level: Level | None, scale, shift, silu: bool):
    """As `Plain.forward`, for x [N, C, h, w] channels last."""
    count, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    width = _width(channels)
    tile = TILE // width
    block = _block(pixels, tile, count * channels // width)
    blocks = triton.cdiv(pixels, block)
    means, squares = x.new_empty(2, count, blocks, channels, dtype=torch.float32)
    kernels.moments[blocks, channels // width, count](
        x, means, squares, pixels, channels, block, tile, width, **OPTIONS
    )
    mean, rstd = x.new_empty(2, count, NORM_GROUPS, dtype=torch.float32)
    per_group = triton.next_power_of_2(channels // NORM_GROUPS)
    kernels.merge_moments[NORM_GROUPS, count](
        means, squares, mean, rstd, pixels, channels, block, blocks, NORM_EPS, 32, per_group, **OPTIONS
    )
    out = torch.empty_like(x)
    rows = None if level is None else level.row_of_pixel
    scale, shift = _dense(scale), _dense(shift)
    grid = triton.cdiv(pixels, tile), channels // width, count
    kernels.step[grid](x, out, rows, table, scale, shift, mean, rstd, pixels, channels, silu, tile, width, **OPTIONS)
    return out, mean, rstd


def backward(grad, x, table, level: Level | None, scale, shift, mean, rstd, silu: bool):
    """As `Plain.backward`, for x and grad [N, C, h, w] channels last."""
    count, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    width = _width(channels)
    scale, shift = _dense(scale), _dense(shift)
    features = x, grad, table, scale, shift, mean, rstd, pixels, channels

    tile = PART_TILE // width
    if level is None:  # one row for all: the parts are blocks of pixels
        plan, rows, part_rows, image_starts = (None,) * 4, None, None, None
        block = _block(pixels, tile, count * channels // width)
        per_image = triton.cdiv(pixels, block)
        parts = count * per_image
    else:
        rows, part_rows, image_starts = level.row_of_pixel, level.plan.part_rows, level.plan.image_starts
        plan = level.plan.order, level.plan.part_starts, part_rows, level.plan.part_images
        block, per_image, parts = 0, 0, len(part_rows)
    a, b = x.new_empty(2, parts, channels, dtype=torch.float32)
    kernels.part_sums[parts, channels // width](*features, *plan, a, b, block, per_image, silu, tile, width, **ONE_WARP)

    by_image = x.new_empty(5, count, channels, dtype=torch.float32)
    kernels.image_sums[count, channels // IMAGES_AT_ONCE[1]](
        a, b, table, part_rows, image_starts, per_image, by_image, channels, *IMAGES_AT_ONCE, **OPTIONS
    )
    factor = 1.0 if scale is None else 1 + scale.float()
    if level is None:
        grad_table = (factor * by_image[:2]).sum(1).flip(0).view(1, 2 * channels)
    else:
        grad_table = torch.empty_like(table, dtype=torch.float32)
        by_row = level.plan.part_images, level.plan.parts_by_row, level.plan.row_starts
        at_once = ROWS_AT_ONCE[0], min(width, ROWS_AT_ONCE[1])
        kernels.row_sums[len(table), channels // at_once[1]](
            a, b, scale, *by_row, grad_table, channels, *at_once, **ONE_WARP
        )
    mean_a, mean_b = (factor * by_image[2:4]).view(2, count, NORM_GROUPS, -1).mean(-1) / pixels

    grad_x = torch.empty_like(x)
    tile = TILE // width
    grid = triton.cdiv(pixels, tile), channels // width, count
    kernels.input_gradient[grid](*features, rows, mean_a, mean_b, grad_x, silu, tile, width, **OPTIONS)
    return grad_x, grad_table, *((None, None) if scale is None else (by_image[3] + by_image[4], by_image[0]))


def check(device: torch.device) -> None:
    """Compile the kernels and compare them with the plain form on a small example. Raises whatever is wrong."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device=device)

    x, grad = (normal(2, 64, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(2))
    labels = torch.arange(128).view(2, 8, 8) // 16 % 3
    level = Condition.from_labels(labels, 3, mode="table").to(device).level((8, 8))
    for rows in (None, level):
        table = normal(1 if rows is None else len(rows.patch_of_row), 128)
        arguments = table, rows, normal(2, 64), normal(2, 64)
        expected = Plain.forward(x, *arguments, True)
        torch.testing.assert_close(forward(x, *arguments, True), expected, atol=1e-3, rtol=1e-3)
        arguments = grad, x, *arguments, *expected[1:], True
        torch.testing.assert_close(backward(*arguments), Plain.backward(*arguments), atol=1e-3, rtol=1e-3)


def _dense(vector: torch.Tensor | None) -> torch.Tensor | None:
    return None if vector is None else vector.contiguous()


def _width(channels: int) -> int:
    """Channels that a program takes: 128, or fewer where that does not divide all, which are a multiple of 32."""
    return next(width for width in (128, 64, 32) if channels % width == 0)


def _block(pixels: int, tile: int, others: int) -> int:
    """Pixels of an image that a program sums, in whole tiles: PROGRAMS in all, of which `others` share each block."""
    tiles = triton.cdiv(pixels, tile)
    return tile * triton.cdiv(tiles, min(tiles, triton.cdiv(PROGRAMS, others)))

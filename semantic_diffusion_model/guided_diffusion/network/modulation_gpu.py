"""The step of `modulation.py` on a GPU, by kernels that touch each feature as seldom as they can.

Forward, x is read twice and the result written once: statistics, then the whole step. Backward, x and dL/dout are read
twice and dL/dx is written once. The first of these passes sums over parts: pixels of one image that share one row of
the table. Within a part everything but x and dL/dout is the same for all pixels, so two sums for each channel,

    A = sum of dL/dy,    B = sum of dL/dy * normalise(x),

give the gradients of the row, of scale and of shift, and the two means in the gradient of the normalisation. Nothing is
added atomically: the same input gives the same bits.
"""

import functools
import itertools
from collections.abc import Callable

import torch
import triton

from guided_diffusion.network import modulation_kernels as kernels
from guided_diffusion.network import modulation_plain as plain
from guided_diffusion.network.condition import Condition, Level
from guided_diffusion.network.modulation_plain import NORM_EPS, NORM_GROUPS

TILE = 4096  # values of each tensor that a program of four warps holds at once
PART_TILE = 512  # the same of one warp that sums over a part: most parts are a few pixels
# Programs to aim at where pixels may be divided at will: enough to fill a GPU, four times as many if each is one warp.
PROGRAMS, PROGRAMS_OF_ONE_WARP = 2048, 8192
GROUP_BLOCKS = 32  # partial statistics that are merged at once
ROWS_AT_ONCE = 16, 64  # partial sums, and channels of each, that a program adds up at once
IMAGES_AT_ONCE = 64, 32
OPTIONS = {"enable_fp_fusion": True}  # said, because Triton changes its default
ONE_WARP = {"num_warps": 1, **OPTIONS}


def _on_its_device(function: Callable) -> Callable:
    """Triton launches on the current device, which need not be that of the first argument."""

    @functools.wraps(function)
    def run(x, *arguments):
        with torch.cuda.device_of(x):
            return function(x, *arguments)

    return run


@_on_its_device
def forward(x, table, level: Level | None, scale, shift, silu: bool):
    """As `modulation_plain.forward`, for x [N, C, h, w] channels last."""
    count, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    width = _width(channels)
    tile = TILE // width
    block = _block(pixels, tile, count * channels // width, PROGRAMS)
    blocks = triton.cdiv(pixels, block)
    means, squares = x.new_empty(2, count, blocks, channels, dtype=torch.float32)
    kernels.moments[blocks, channels // width, count](
        x, means, squares, pixels, channels, block, tile, width, **OPTIONS
    )
    mean, rstd = x.new_empty(2, count, NORM_GROUPS, dtype=torch.float32)
    per_group = triton.next_power_of_2(channels // NORM_GROUPS)
    kernels.merge_moments[NORM_GROUPS, count](
        means, squares, mean, rstd, pixels, channels, block, blocks, NORM_EPS, GROUP_BLOCKS, per_group, **OPTIONS
    )
    out = torch.empty_like(x)
    rows = None if level is None else level.row_of_pixel
    scale, shift = _dense(scale), _dense(shift)
    grid = triton.cdiv(pixels, tile), channels // width, count
    kernels.step[grid](x, out, rows, table, scale, shift, mean, rstd, pixels, channels, silu, tile, width, **OPTIONS)
    return out, mean, rstd


@_on_its_device
def backward(grad, x, table, level: Level | None, scale, shift, mean, rstd, silu: bool):
    """As `modulation_plain.backward`, for x and grad [N, C, h, w] channels last.

    Raises RuntimeError if `level` has no plan.
    """
    if level is not None and level.plan is None:
        raise RuntimeError("this condition was made with training=False: it has no plan for the backward pass")
    count, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    width = _width(channels)
    scale, shift = _dense(scale), _dense(shift)
    features = x, grad, table, scale, shift, mean, rstd, pixels, channels

    tile = PART_TILE // width
    if level is None:  # one row for all: the parts are blocks of pixels
        plan, rows, part_rows, image_starts = (None,) * 4, None, None, None
        block = _block(pixels, tile, count * channels // width, PROGRAMS_OF_ONE_WARP)
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


def check(device: torch.device, dtype: torch.dtype, channels: int = 256) -> None:
    """Compile the kernels for features of `dtype`, and compare them with the plain form. Raises whatever is wrong.

    All forms that the network has are tried, so that what is compiled here is what it needs.
    """
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    x, grad = normal(2, 2, 8, 8, channels).permute(0, 1, 4, 2, 3)
    labels = torch.arange(128).view(2, 8, 8) // 16 % 3
    level = Condition.from_labels(labels, 3, mode="table").to(device).level((8, 8))
    tolerance = 1e-3 if dtype == torch.float32 else 1e-2
    for with_table, with_timestep, silu in itertools.product((True, False), repeat=3):
        table = normal(len(level.patch_of_row), 2 * channels) if with_table else normal(1, 2 * channels).float()
        timestep = normal(2, 2, channels) if with_timestep else (None, None)
        arguments = table, level if with_table else None, *timestep
        expected = plain.forward(x, *arguments, silu)
        found = forward(x, *arguments, silu)
        gradients = (form(grad, x, *arguments, *expected[1:], silu) for form in (backward, plain.backward))
        for ours, theirs in zip((*found, *next(gradients)), (*expected, *next(gradients)), strict=True):
            if theirs is not None and not (ours - theirs).float().norm() <= tolerance * theirs.float().norm():
                raise RuntimeError(f"they differ from the plain form on this GPU ({device}, {dtype})")


def _dense(vector: torch.Tensor | None) -> torch.Tensor | None:
    return None if vector is None else vector.contiguous()


def _width(channels: int) -> int:
    """Channels that a program takes: 128, or fewer where that does not divide all, which are a multiple of 32."""
    return next(width for width in (128, 64, 32) if channels % width == 0)


def _block(pixels: int, tile: int, others: int, programs: int) -> int:
    """How many pixels, in whole tiles, a program sums, so that there are about `programs`.

    others: how many programs one block of pixels has already, for its images and channels.
    """
    tiles = triton.cdiv(pixels, tile)
    return tile * triton.cdiv(tiles, min(tiles, triton.cdiv(programs, others)))

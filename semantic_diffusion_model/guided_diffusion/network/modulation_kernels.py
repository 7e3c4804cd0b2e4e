"""Triton kernels of the modulation on a GPU; `modulation_gpu.py` says what they do together, and launches them.

n counts images, c channels, pixel and part what their names say. x, grad: [N, h, w, C] in memory. table: [U, 2 C].
scale, shift: [N, C] or None. mean, rstd: [N, groups]. TILE pixels (or PARTS) times WIDTH channels are held at once.
"""

import triton
import triton.language as tl

GROUPS = tl.constexpr(32)


@triton.jit
def moments(x, means, squares, pixels, channels, block, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """For each channel of a block of pixels: mean, and sum of squared deviations from it, [N, blocks, C]."""
    b, n = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first, last = b * block, tl.minimum((b + 1) * block, pixels)
    image = x + n.to(tl.int64) * pixels * channels
    # Sums of deviations from about the mean, that of the first tile: sums of squares would lose digits to the mean.
    pixel = (first + tl.arange(0, TILE))[:, None]
    value = tl.load(image + pixel.to(tl.int64) * channels + c[None], pixel < last, other=0.0).to(tl.float32)
    pivot = tl.sum(value, 0) / tl.minimum(TILE, last - first).to(tl.float32)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    total_squared = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(first, last, TILE):
        pixel = (start + tl.arange(0, TILE))[:, None]
        value = tl.load(image + pixel.to(tl.int64) * channels + c[None], pixel < last, other=0.0).to(tl.float32)
        deviation = tl.where(pixel < last, value - pivot[None], 0.0)
        total += deviation
        total_squared += deviation * deviation
    amount = (last - first).to(tl.float32)
    offset = tl.sum(total, 0) / amount
    index = (n * tl.num_programs(0) + b) * channels + c
    tl.store(means + index, pivot + offset)
    tl.store(squares + index, tl.maximum(tl.sum(total_squared, 0) - offset * offset * amount, 0.0))


@triton.jit
def merge_moments(
    means, squares, mean, rstd, pixels, channels, block, blocks,
    EPS: tl.constexpr, AT_ONCE: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation of each group of channels, [N, groups], from `moments` (Chan et al. 1983)."""
    g, n = tl.program_id(0), tl.program_id(1)
    per_group = channels // tl.num_programs(0)
    inside = tl.arange(0, PER)[None] < per_group
    c = g * per_group + tl.arange(0, PER)[None]
    amount = (per_group * pixels).to(tl.float32)
    total = tl.zeros([AT_ONCE, PER], tl.float32)
    for start in range(0, blocks, AT_ONCE):
        block_of = (start + tl.arange(0, AT_ONCE))[:, None]
        here = inside & (block_of < blocks)
        weight = tl.minimum(block, pixels - block_of * block).to(tl.float32)
        total += weight * tl.load(means + (n * blocks + block_of) * channels + c, here, other=0.0)
    centre = tl.sum(total) / amount
    total = tl.zeros([AT_ONCE, PER], tl.float32)
    for start in range(0, blocks, AT_ONCE):
        block_of = (start + tl.arange(0, AT_ONCE))[:, None]
        here = inside & (block_of < blocks)
        weight = tl.minimum(block, pixels - block_of * block).to(tl.float32)
        index = (n * blocks + block_of) * channels + c
        offset = tl.load(means + index, here, other=0.0) - centre
        total += tl.where(here, tl.load(squares + index, here, other=0.0) + weight * offset * offset, 0.0)
    index = n * tl.num_programs(0) + g
    tl.store(mean + index, centre)
    tl.store(rstd + index, 1 / tl.sqrt(tl.sum(total) / amount + EPS))


@triton.jit
def _row_values(table, row, c, channels):
    """gamma1 and beta of `row` in channels c."""
    index = table + row.to(tl.int64) * 2 * channels + c
    return tl.load(index).to(tl.float32), tl.load(index + channels).to(tl.float32)


@triton.jit
def _image_values(scale, shift, mean, rstd, n, c, channels):
    """1 + scale, shift, mean and rstd of image n in channels c."""
    group = n * GROUPS + c // (channels // GROUPS)
    factor = tl.full(c.shape, 1.0, tl.float32)
    offset = tl.zeros(c.shape, tl.float32)
    if scale is not None:
        factor += tl.load(scale + n * channels + c).to(tl.float32)
        offset += tl.load(shift + n * channels + c).to(tl.float32)
    return factor, offset, tl.load(mean + group), tl.load(rstd + group)


@triton.jit
def _before_silu(grad, y, SILU: tl.constexpr):
    """dL/dy from dL/dout."""
    if SILU:
        sigmoid = tl.sigmoid(y)
        grad = grad * sigmoid * (1 + y * (1 - sigmoid))
    return grad


@triton.jit
def step(
    x, out, rows, table, scale, shift, mean, rstd, pixels, channels,
    SILU: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    pixel = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    inside = pixel < pixels
    pixel = n.to(tl.int64) * pixels + pixel
    factor, offset, centre, inverse = _image_values(scale, shift, mean, rstd, n, c, channels)
    row = tl.zeros([1, 1], tl.int32)
    if rows is not None:
        row = tl.load(rows + pixel, inside, other=0)
    gamma1, beta = _row_values(table, row, c[None], channels)
    index = pixel * channels + c[None]
    value = tl.load(x + index, inside, other=0.0).to(tl.float32)
    y = ((value - centre[None]) * inverse[None] * gamma1 + beta) * factor[None] + offset[None]
    if SILU:
        y *= tl.sigmoid(y)
    tl.store(out + index, y.to(out.dtype.element_ty), inside)


@triton.jit
def part_sums(
    x, grad, table, scale, shift, mean, rstd, pixels, channels,
    order, part_starts, part_rows, part_images, sums_a, sums_b, block, per_image,
    SILU: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A and B of each part, [parts, C]; without an order the parts are blocks of pixels, and the table has one row."""
    part = tl.program_id(0)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if order is None:
        n = part // per_image
        first = n * pixels + (part % per_image) * block
        last = tl.minimum(first + block, (n + 1) * pixels)
        row = n * 0
    else:
        n = tl.load(part_images + part)
        first, last = tl.load(part_starts + part), tl.load(part_starts + part + 1)
        row = tl.load(part_rows + part)
    gamma1, beta = _row_values(table, row, c, channels)
    factor, offset, centre, inverse = _image_values(scale, shift, mean, rstd, n, c, channels)
    a = tl.zeros([TILE, WIDTH], tl.float32)
    b = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(first, last, TILE):
        pixel = (start + tl.arange(0, TILE))[:, None]
        inside = pixel < last
        if order is not None:
            pixel = tl.load(order + pixel, inside, other=0)
        index = pixel.to(tl.int64) * channels + c[None]
        normalised = (tl.load(x + index, inside, other=0.0).to(tl.float32) - centre[None]) * inverse[None]
        y = (normalised * gamma1[None] + beta[None]) * factor[None] + offset[None]
        to_y = _before_silu(tl.load(grad + index, inside, other=0.0).to(tl.float32), y, SILU)
        a += to_y
        b += to_y * normalised
    index = part.to(tl.int64) * channels + c
    tl.store(sums_a + index, tl.sum(a, 0))
    tl.store(sums_b + index, tl.sum(b, 0))


@triton.jit
def image_sums(
    sums_a, sums_b, table, part_rows, image_starts, per_image, by_image, channels,
    PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Over the parts of each image, the sums of A, B, gamma1 A, gamma1 B and beta A: [5, N, C]."""
    n = tl.program_id(0)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first, last = n * per_image, (n + 1) * per_image
    if image_starts is not None:
        first, last = tl.load(image_starts + n), tl.load(image_starts + n + 1)
    total_a = tl.zeros([PARTS, WIDTH], tl.float32)
    total_b = tl.zeros([PARTS, WIDTH], tl.float32)
    total_gamma_a = tl.zeros([PARTS, WIDTH], tl.float32)
    total_gamma_b = tl.zeros([PARTS, WIDTH], tl.float32)
    total_beta_a = tl.zeros([PARTS, WIDTH], tl.float32)
    for start in range(first, last, PARTS):
        part = (start + tl.arange(0, PARTS))[:, None]
        inside = part < last
        row = part * 0
        if part_rows is not None:
            row = tl.load(part_rows + part, inside, other=0)
        gamma1, beta = _row_values(table, row, c[None], channels)
        index = part.to(tl.int64) * channels + c[None]
        a = tl.load(sums_a + index, inside, other=0.0)
        b = tl.load(sums_b + index, inside, other=0.0)
        total_a += a
        total_b += b
        total_gamma_a += gamma1 * a
        total_gamma_b += gamma1 * b
        total_beta_a += beta * a
    index = by_image + n * channels + c
    one = tl.num_programs(0) * channels
    tl.store(index, tl.sum(total_a, 0))
    tl.store(index + one, tl.sum(total_b, 0))
    tl.store(index + 2 * one, tl.sum(total_gamma_a, 0))
    tl.store(index + 3 * one, tl.sum(total_gamma_b, 0))
    tl.store(index + 4 * one, tl.sum(total_beta_a, 0))


@triton.jit
def row_sums(
    sums_a, sums_b, scale, part_images, parts_by_row, row_starts, grad_table, channels,
    PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of each row of the table, [U, 2 C]: over its parts, the sums of B (1 + scale) and A (1 + scale)."""
    row = tl.program_id(0)
    c = (tl.program_id(1) * WIDTH + tl.arange(0, WIDTH))[None]
    first, last = tl.load(row_starts + row), tl.load(row_starts + row + 1)
    total_a = tl.zeros([PARTS, WIDTH], tl.float32)
    total_b = tl.zeros([PARTS, WIDTH], tl.float32)
    for start in range(first, last, PARTS):
        position = (start + tl.arange(0, PARTS))[:, None]
        inside = position < last
        part = tl.load(parts_by_row + position, inside, other=0)
        index = part.to(tl.int64) * channels + c
        a = tl.load(sums_a + index, inside, other=0.0)
        b = tl.load(sums_b + index, inside, other=0.0)
        if scale is not None:
            n = tl.load(part_images + part, inside, other=0)
            factor = 1 + tl.load(scale + n * channels + c, inside, other=0.0).to(tl.float32)
            a *= factor
            b *= factor
        total_a += a
        total_b += b
    index = grad_table + row.to(tl.int64) * 2 * channels + tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    tl.store(index, tl.sum(total_b, 0))
    tl.store(index + channels, tl.sum(total_a, 0))


@triton.jit
def input_gradient(
    x, grad, table, scale, shift, mean, rstd, pixels, channels, rows, mean_a, mean_b, grad_x,
    SILU: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dL/dx = rstd (g - mean(g) - normalised mean(g normalised)), where g = dL/dnormalised; means over the group."""
    n = tl.program_id(2)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    pixel = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    inside = pixel < pixels
    pixel = n.to(tl.int64) * pixels + pixel
    factor, offset, centre, inverse = _image_values(scale, shift, mean, rstd, n, c, channels)
    group = n * GROUPS + c // (channels // GROUPS)
    of_a, of_b = tl.load(mean_a + group), tl.load(mean_b + group)
    row = tl.zeros([1, 1], tl.int32)
    if rows is not None:
        row = tl.load(rows + pixel, inside, other=0)
    gamma1, beta = _row_values(table, row, c[None], channels)
    index = pixel * channels + c[None]
    normalised = (tl.load(x + index, inside, other=0.0).to(tl.float32) - centre[None]) * inverse[None]
    y = (normalised * gamma1 + beta) * factor[None] + offset[None]
    to_y = _before_silu(tl.load(grad + index, inside, other=0.0).to(tl.float32), y, SILU)
    to_normalised = to_y * factor[None] * gamma1
    to_x = inverse[None] * (to_normalised - of_a[None] - normalised * of_b[None])
    tl.store(grad_x + index, to_x.to(grad_x.dtype.element_ty), inside)

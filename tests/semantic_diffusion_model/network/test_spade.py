"""The look-up table of semantic modulation equals the dense convolutions, in values and in every gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.modulation import modulate
from guided_diffusion.network.neighbourhoods import PIXELS_PER_PART, find_neighbourhoods, summation_plan
from guided_diffusion.network.spade import SPADE


def spade(channels=32, condition_channels=5, seed=0):
    torch.manual_seed(seed)
    module = SPADE(channels, condition_channels)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def run(module, x, condition, weight):
    """Output, and gradients of x and all parameters."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = module(x, condition)
    (out * weight).sum().backward()
    return [out.detach(), x.grad, *(parameter.grad.clone() for parameter in module.parameters())]


def assert_same(table, dense):
    assert (table[0] - dense[0]).abs().max() <= 1e-5 * max(1.0, dense[0].abs().max().item())
    for ours, theirs in zip(table[1:], dense[1:], strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-5


label_maps = st.tuples(
    st.integers(1, 3),  # images
    st.integers(2, 9),  # height
    st.integers(3, 9),  # width
    st.integers(1, 5),  # size of the patches of one class
    st.integers(0, 10**6),  # seed
    st.booleans(),  # instance edges
    st.booleans(),  # one label dropped
)


@settings(max_examples=40, deadline=None)
@given(label_maps)
def test_table_equals_dense(drawn):
    count, height, width, block, seed, with_edges, with_drop = drawn
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (count, -(-height // block), -(-width // block)))
    labels = coarse.repeat(block, 1).repeat(block, 2)[:, :height, :width]
    edges = rng.random(labels.shape) < 0.2 if with_edges else None
    dropped = np.arange(count) == 0 if with_drop else None
    module = spade(64, 5 + with_edges)
    x = torch.from_numpy(rng.standard_normal((count, 64, height, width), dtype=np.float32)) * 2 + 0.5
    weight = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    results = [
        run(module, x, Condition.from_labels(labels, 5, edges, dropped, mode=mode), weight)
        for mode in ("table", "dense")
    ]
    assert_same(*results)


def test_images_of_one_pixel_have_each_its_own_label():
    labels = np.arange(3).reshape(3, 1, 1)
    module, x, weight = spade(64), torch.randn(3, 64, 1, 1), torch.randn(3, 64, 1, 1)
    assert_same(*(run(module, x, Condition.from_labels(labels, 5, mode=mode), weight) for mode in ("table", "dense")))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_resolution_takes_every_fth_pixel(factor):
    labels = torch.arange(16).view(1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2) % 5
    module = spade()
    x = torch.randn(1, 32, 8 // factor, 8 // factor)
    maps = torch.nn.functional.one_hot(labels, 5).permute(0, 3, 1, 2).float()
    hidden = module.mlp_shared(torch.nn.functional.interpolate(maps, size=x.shape[2:], mode="nearest"))
    normalised = torch.nn.functional.group_norm(x, 32)
    expected = normalised * (1 + module.mlp_gamma(hidden)) + module.mlp_beta(hidden)
    for mode in ("table", "dense"):
        condition = Condition.from_labels(labels, 5, factors=(1, 2, 4), mode=mode)
        torch.testing.assert_close(module(x, condition), expected, atol=1e-5, rtol=1e-5)
        from_maps = Condition.from_maps(maps, factors=(1, 2, 4), mode=mode)
        torch.testing.assert_close(module(x, from_maps), expected, atol=1e-5, rtol=1e-5)


def test_condition_that_is_not_zeros_and_ones_is_taken_densely():
    maps = torch.rand(2, 5, 6, 6)
    condition = Condition.from_maps(maps, factors=(1,), mode="table")
    assert condition.maps is not None and not condition.levels
    module = spade()
    x = torch.randn(2, 32, 6, 6)
    hidden = module.mlp_shared(maps)
    expected = torch.nn.functional.group_norm(x, 32) * (1 + module.mlp_gamma(hidden)) + module.mlp_beta(hidden)
    torch.testing.assert_close(module(x, condition), expected)


def test_auto_chooses_by_how_many_pixels_share_a_neighbourhood():
    piecewise = np.zeros((1, 32, 32), int)
    piecewise[:, 8:20] = 1
    noisy = np.random.default_rng(0).integers(0, 5, (1, 32, 32))
    assert Condition.from_labels(piecewise, 5).level((32, 32)).uses_table
    assert not Condition.from_labels(noisy, 5).level((32, 32)).uses_table
    condition = Condition.from_labels(piecewise, 5, factors=(1, 8))
    assert not condition.level((4, 4)).uses_table
    # Twice the same noise: each neighbourhood is there twice, but its parts are too many to multiply each at once.
    twice = np.random.default_rng(0).integers(0, 5, (1, 128, 128)).repeat(2, 0)
    assert not Condition.from_labels(twice, 5).level((128, 128)).uses_table
    assert Condition.from_labels(twice[:, :32, :32], 5).level((32, 32)).uses_table


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(2, 300), st.integers(0, 10**6))
def test_neighbourhoods_are_those_of_a_plain_search(count, height, width, values, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, values, (count, height, width)) * (rng.random((count, height, width)) < 0.5)
    found = find_neighbourhoods(ids, outside=values)
    padded = np.pad(ids, ((0, 0), (2, 2), (2, 2)), constant_values=values)
    plain = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2)).reshape(-1, 5, 5)
    assert len(found.patch_of_row) == len(np.unique(plain.reshape(-1, 25), axis=0))
    parts = found.patches[found.patch_of_row[found.row_of_pixel]].reshape(-1, 3, 3, 3, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(parts[:, i, j], plain[:, i : i + 3, j : j + 3])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5000), st.integers(0, 10**6))
def test_each_pixel_is_in_one_part_of_its_image_and_row(images, rows, pixels, seed):
    rng = np.random.default_rng(seed)
    row_of_pixel = np.minimum(rng.geometric(0.6, (images, pixels)) - 1, rows - 1).astype(np.int32).ravel()
    plan = summation_plan(row_of_pixel, images, rows)
    np.testing.assert_array_equal(np.sort(plan.order), np.arange(images * pixels))
    lengths = np.diff(plan.part_starts)
    assert lengths.min() > 0 and lengths.max() <= PIXELS_PER_PART and lengths.sum() == images * pixels
    part_of_position = np.repeat(np.arange(len(lengths)), lengths)
    np.testing.assert_array_equal(plan.part_rows[part_of_position], row_of_pixel[plan.order])
    np.testing.assert_array_equal(plan.part_images[part_of_position], plan.order // pixels)
    for image in range(images):
        assert set(np.flatnonzero(plan.part_images == image)) == set(range(*plan.image_starts[image : image + 2]))
    for row in range(rows):
        ours = plan.parts_by_row[slice(*plan.row_starts[row : row + 2])]
        np.testing.assert_array_equal(ours, np.flatnonzero(plan.part_rows == row))


def test_a_remembered_table_is_used_again_but_never_in_training():
    labels = np.zeros((1, 8, 8), int)
    module, x = spade(), torch.randn(1, 32, 8, 8)
    condition = Condition.from_labels(labels, 5, mode="table").remember_tables()
    with torch.no_grad():
        first = module(x, condition)
        module.mlp_beta.bias.add_(1)
        torch.testing.assert_close(module(x, condition), first)
    torch.testing.assert_close(module(x, condition), first + 1)


def test_the_backward_pass_keeps_no_full_size_scales():
    labels = np.zeros((2, 16, 16), int)
    condition = Condition.from_labels(labels, 5, mode="table")
    module, x = spade(), torch.randn(2, 32, 16, 16, requires_grad=True)
    table = module.table(condition.level((16, 16)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        modulate(x, table, condition.level((16, 16)))
    assert sum(size >= x.numel() for size in kept) == 1  # x itself


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="0 .. 4, found 0 .. 7"):
        Condition.from_labels(np.array([[[0, 7]]]), 5)


def test_half_precision_trains_the_table_too():
    condition = Condition.from_labels(np.zeros((2, 8, 8), int), 5, mode="table")
    module, x = spade(), torch.randn(2, 32, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(x.bfloat16(), condition, silu=True).float().square().sum().backward()
    expected = module.mlp_beta.weight.grad.clone()
    module.zero_grad()
    module(x, condition, silu=True).square().sum().backward()
    difference = module.mlp_beta.weight.grad - expected
    assert difference.norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("mode", ["table", "dense"])
def test_timestep_and_silu_follow_the_modulation(mode):
    labels = np.random.default_rng(0).integers(0, 5, (2, 4, 4)).repeat(2, 1).repeat(2, 2)
    condition = Condition.from_labels(labels, 5, mode=mode)
    module, x = spade(), torch.randn(2, 32, 8, 8)
    scale, shift = torch.randn(2, 2, 32).requires_grad_()
    fused = module(x, condition, scale, shift, silu=True)
    plain = torch.nn.functional.silu(module(x, condition) * (1 + scale[..., None, None]) + shift[..., None, None])
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad((fused * weight).sum(), (scale, shift)),
        torch.autograd.grad((plain * weight).sum(), (scale, shift)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels on a device need a GPU")
def test_table_equals_dense_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as in training and sampling
    labels = np.zeros((2, 32, 32), int)
    labels[:, 8:20, 5:25] = 2
    module = spade(64).cuda()
    x, weight = torch.randn(2, 2, 64, 32, 32, device="cuda")
    results = [
        run(module, x, Condition.from_labels(labels, 5, mode=mode).to("cuda"), weight) for mode in ("table", "dense")
    ]
    assert_same(*results)

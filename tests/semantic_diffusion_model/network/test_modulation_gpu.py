"""The kernels of the modulation compute what the plain form computes: on a GPU, or, without one, interpreted.

Triton's interpreter runs each program with NumPy, on a CPU: it shows that the arithmetic, the indices and the masks are
right, not that a GPU agrees. That the kernels compile for GPUs is a test of tests/pipeline/test_benchmarks.py.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch

from guided_diffusion.network import modulation, neighbourhoods
from guided_diffusion.network import modulation_plain as plain
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.modulation import modulate

modulation_gpu = pytest.importorskip("guided_diffusion.network.modulation_gpu", reason="PyTorch came without Triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.gpu  # without one, all of it runs too


def example(count, channels, height, width, dtype=torch.float32, classes=3):
    """x and a gradient, channels last, far from zero mean; a level whose rows have from one pixel to many."""
    torch.manual_seed(0)
    x, grad = (
        (deviation * torch.randn(count, channels, height, width) + mean)
        .to(DEVICE, dtype)
        .contiguous(memory_format=torch.channels_last)
        for deviation, mean in ((2, 5), (1, 0))
    )
    labels = np.zeros((count, height, width), int)
    labels[:, height // 3 :, : width // 2] = 1
    labels[0, -2:, -3:] = classes - 1
    return x, grad, Condition.from_labels(labels, classes, mode="table").to(DEVICE).level((height, width))


def both(x, grad, level, with_timestep=True, silu=True):
    """Everything that comes out of forward and backward, by the kernels and plainly; the statistics are shared."""
    count, channels = x.shape[:2]
    rows = 1 if level is None else len(level.patch_of_row)
    table = torch.randn(rows, 2 * channels, device=DEVICE)
    # As the network gives them: two halves of one tensor, so not contiguous.
    scale, shift = torch.randn(count, 2 * channels, device=DEVICE).chunk(2, 1) if with_timestep else (None, None)
    arguments = table, level, scale, shift
    expected = plain.forward(x, *arguments, silu)
    ours = modulation_gpu.forward(x, *arguments, silu)
    gradients = (form.backward(grad, x, *arguments, *expected[1:], silu) for form in (modulation_gpu, plain))
    ours_back, expected_back = gradients
    return [*ours, *ours_back], [*expected, *expected_back]


def assert_close(ours, expected, tolerance):
    for one, other in zip(ours, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape and one.dtype == other.dtype
            assert (one.float() - other.float()).norm() <= tolerance * other.float().norm()


@pytest.mark.parametrize(("one_row", "timestep", "silu"), list(itertools.product((True, False), repeat=3)))
def test_every_form_equals_the_plain_one(one_row, timestep, silu):
    x, grad, level = example(2, 64, 6, 5)
    assert_close(*both(x, grad, None if one_row else level, timestep, silu), 5e-6)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 256, 1, 1),  # a single pixel
        (1, 96, 12, 14),  # channels that no power of two holds; several blocks of an image and parts of a row
    ],
)
@pytest.mark.parametrize("one_row", [True, False])
def test_every_size_equals_the_plain_one(shape, one_row, monkeypatch):
    monkeypatch.setattr(neighbourhoods, "PIXELS_PER_PART", 20)
    x, grad, level = example(*shape)
    assert_close(*both(x, grad, None if one_row else level), 5e-6)


def test_half_precision_comes_out_as_it_went_in():
    x, grad, level = example(2, 64, 8, 8, torch.bfloat16)
    assert_close(*both(x, grad, level), 1e-2)  # the interpreter cuts bits off where a GPU rounds


def test_a_large_mean_does_not_spoil_the_statistics():
    x = (torch.randn(1, 32, 16, 16) + 3000).to(DEVICE).contiguous(memory_format=torch.channels_last)
    table = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)], 1).to(DEVICE)
    out, mean, rstd = modulation_gpu.forward(x, table, None, None, None, False)
    exact = torch.nn.functional.group_norm(x.double(), 32)
    assert (out.double() - exact).abs().max() <= 1e-3  # of values to 4; a sum of squares would lose all digits


def test_an_odd_first_pixel_does_not_spoil_the_statistics(monkeypatch):
    monkeypatch.setattr(modulation_gpu, "PROGRAMS", 1)
    x = torch.full((1, 32, 64, 64), 0.3, device=DEVICE).contiguous(memory_format=torch.channels_last)
    x[:, :, 0, 0] = 100
    table = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)], 1).to(DEVICE)
    _, mean, rstd = modulation_gpu.forward(x, table, None, None, None, False)
    exact = x.double().flatten(2)
    torch.testing.assert_close(mean.double(), exact.mean(2), rtol=1e-5, atol=0)
    torch.testing.assert_close(rstd.double(), (exact.var(2, correction=0) + 1e-5).rsqrt(), rtol=1e-4, atol=0)


def test_the_check_before_use_passes_and_finds_a_wrong_result(monkeypatch):
    modulation_gpu.check(DEVICE, torch.float32, 32)
    right = modulation_gpu.backward
    monkeypatch.setattr(modulation_gpu, "backward", lambda *args: (2 * right(*args)[0], *right(*args)[1:]))
    with pytest.raises(RuntimeError, match="differ from the plain form"):
        modulation_gpu.check(DEVICE, torch.float32, 32)


@pytest.fixture
def failing_check(monkeypatch):
    """A check that raises what it is given."""

    def fail_with(error: Exception):
        def check(device, dtype):
            raise error

        monkeypatch.setattr(modulation_gpu, "check", check)

    modulation._kernels.cache_clear()
    yield fail_with
    modulation._kernels.cache_clear()


def test_where_the_kernels_fail_the_plain_form_runs_after_one_warning(failing_check):
    failing_check(RuntimeError("Failed to find C compiler.\nand more"))
    with pytest.warns(UserWarning, match="slower: Failed to find C compiler.$"):
        assert modulation._kernels(DEVICE, torch.float32) is plain
    with warnings.catch_warnings(action="error"):
        assert modulation._kernels(DEVICE, torch.float32) is plain


def test_a_full_memory_says_nothing_about_the_kernels(failing_check):
    failing_check(torch.cuda.OutOfMemoryError())
    with pytest.raises(torch.cuda.OutOfMemoryError):
        modulation._kernels(DEVICE, torch.float32)


def test_a_condition_without_its_plan_is_refused():
    x, grad, level = example(1, 32, 4, 4)
    table = torch.ones(len(level.patch_of_row), 64, device=DEVICE)
    level.plan = None
    out, mean, rstd = modulation_gpu.forward(x, table, level, None, None, False)
    with pytest.raises(RuntimeError, match="training=False"):
        modulation_gpu.backward(grad, x, table, level, None, None, mean, rstd, False)


def test_autograd_reaches_every_input_through_the_kernels(monkeypatch):
    x, grad, level = example(2, 64, 6, 6)
    leaves = [x, torch.randn(len(level.patch_of_row), 128, device=DEVICE), *torch.randn(2, 2, 64, device=DEVICE)]
    found = []
    for form in (modulation_gpu, plain):
        monkeypatch.setattr(modulation, "_implementation", lambda _, form=form: form)
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        out = modulate(inputs[0], inputs[1], level, *inputs[2:], silu=True)
        found.append([out, *torch.autograd.grad((out * grad).sum(), inputs)])
    assert_close(*found, 5e-6)


def test_the_same_input_gives_the_same_bits():
    """Nothing is added in an order that the device is free to choose."""
    first, again = (both(*example(2, 64, 10, 10))[0] for _ in range(2))
    assert all(map(torch.equal, first, again))

"""The faster gradient of wide convolutions on small maps equals that of nn.Conv2d."""

import pytest
import torch
from torch import nn

from convolution import Conv2d, _Convolution, with_fast_gradients
from model import Architecture, build_network


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 1, 1, (2, 2)), (3, 2, 1, (4, 4)), (3, 1, 1, (3, 5)), (1, 2, 0, (4, 4)), (5, (2, 1), (2, 0), (7, 6))],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_all_gradients_equal_those_of_the_library(kernel, stride, padding, size, memory_format):
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 8, kernel, stride, padding).double().to(memory_format=memory_format)
    x = torch.randn(3, 6, *size, dtype=torch.double).to(memory_format=memory_format).requires_grad_()
    inputs = x, convolution.weight, convolution.bias
    expected = convolution(x)
    value = _Convolution.apply(*inputs, convolution.stride, convolution.padding)
    assert torch.equal(value, expected)
    towards = torch.randn_like(expected)
    gradients = torch.autograd.grad(value, inputs, towards)
    for gradient, library in zip(gradients, torch.autograd.grad(expected, inputs, towards), strict=True):
        torch.testing.assert_close(gradient, library)


def test_a_step_of_the_network_is_the_same_and_takes_the_product(monkeypatch):
    architecture = Architecture("unet", 4, "resnet18", (64, 48, 32, 16, 8))
    network = build_network(architecture).to(memory_format=torch.channels_last).train()
    x = torch.randn(2, 1, 64, 64)

    def gradients() -> dict[str, torch.Tensor]:
        network.zero_grad()
        network(x).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    seen = []
    apply = _Convolution.apply
    monkeypatch.setattr(_Convolution, "apply", lambda *inputs: seen.append(inputs[1].shape) or apply(*inputs))
    fast = gradients()
    assert seen == [(512, 256, 3, 3)] + 3 * [(512, 512, 3, 3)]  # the last level, whose maps are 2 x 2 pixels
    monkeypatch.setattr(Conv2d, "_suits", lambda *_: False)
    for name, gradient in gradients().items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-3, atol=1e-6 + 1e-4 * gradient.abs().max().item())


def test_parameters_stay_the_objects_they_are():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    before = {name: id(value) for name, value in plain.named_parameters()}
    fast = with_fast_gradients(plain)
    assert [type(layer) for layer in fast] == [Conv2d, Conv2d]
    assert {name: id(value) for name, value in fast.named_parameters()} == before


@pytest.mark.parametrize(
    ("options", "size", "suits"),
    [
        ({}, 4, True),
        ({}, 5, False),
        ({"stride": 2}, 8, True),
        ({"groups": 2}, 4, False),
        ({"dilation": 2}, 4, False),
        ({"padding": "same"}, 4, False),
        ({"padding_mode": "reflect"}, 4, False),
    ],
)
def test_where_the_product_is_taken(options, size, suits):
    convolution = Conv2d(512, 1024, 3, **{"padding": 1, **options})
    x = torch.zeros(1, 512, size, size)
    assert convolution._suits(x, convolution.weight) is suits
    assert not convolution.requires_grad_(False)._suits(x, convolution.weight)

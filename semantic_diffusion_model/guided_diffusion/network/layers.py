"""The plain layers of the network: normalisation, convolution, and a last layer's start at zero."""

import torch
from torch import nn

from guided_diffusion.network.modulation import modulate
from guided_diffusion.network.modulation_plain import NORM_EPS, NORM_GROUPS

WIDE = 64  # channels


class GroupNorm32(nn.GroupNorm):
    """Group normalisation in float32, whatever the type of the features, with what may follow it in the same pass."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels, NORM_EPS)

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        silu: bool = False,
    ) -> torch.Tensor:
        """Normalised x [N, C, h, w]; then times 1 + scale plus shift [N, C], if given; then SiLU, if asked for."""
        return modulate(x, torch.cat([self.weight, self.bias])[None], None, scale, shift, silu)


def zero_parameters(module: nn.Module) -> nn.Module:
    """Last layers start at zero, so that each residual branch, and the network, starts as nothing added."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Conv2d(nn.Conv2d):
    """nn.Conv2d, with a faster gradient of the weights on CPUs."""

    def _conv_forward(self, x, weight, bias):
        if x.device.type == "cpu" and weight.requires_grad and not torch.is_autocast_enabled("cpu"):
            return _Convolution.apply(x, weight, bias, self.stride, self.padding)
        return super()._conv_forward(x, weight, bias)


class Float32Conv2d(Conv2d):
    """A convolution that stays in float32 under autocast: what follows it is the image itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class _Convolution(torch.autograd.Function):
    """Channels last suits everything but the weights' gradient of wide layers, which oneDNN computes at a half to a
    third of the speed in that layout: copying both its inputs to channels first costs much less than it saves."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.options = list(stride), list(padding), [1, 1], False, [0, 0], 1
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors

        def gradients(grad, x, wanted):
            return torch.ops.aten.convolution_backward(grad, x, weight, None, *ctx.options, wanted)

        grad_x = gradients(grad, x, [True, False, False])[0] if ctx.needs_input_grad[0] else None
        inputs = (grad.contiguous(), x.contiguous()) if min(weight.shape[:2]) >= WIDE else (grad, x)
        return grad_x, gradients(*inputs, [False, True, False])[1], grad.sum((0, 2, 3)), None, None

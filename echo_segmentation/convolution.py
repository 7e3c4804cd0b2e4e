"""The gradient of wide convolutions on small maps, where a CPU spends a third of a training step at 64 x 64 pixels."""

import torch
import torch.nn.functional as F
from torch import nn

WIDE = 2**20  # weights
SMALL = 16  # pixels that a map has


class Conv2d(nn.Conv2d):
    """nn.Conv2d, with a faster gradient of the weights on CPUs, where many weights meet few pixels.

    Weights, their names and their start are those of nn.Conv2d, and the gradient is the same but for rounding.
    """

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self._suits(x, weight):
            return _Convolution.apply(x, weight, bias, self.stride, self.padding)
        return super()._conv_forward(x, weight, bias)

    def _suits(self, x: torch.Tensor, weight: torch.Tensor) -> bool:
        if x.device.type != "cpu" or not weight.requires_grad or torch.is_autocast_enabled("cpu"):
            return False
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str) or weight.numel() < WIDE or x.ndim != 4:
            return False
        return x.shape[2] * x.shape[3] <= SMALL * self.stride[0] * self.stride[1]


class _Convolution(torch.autograd.Function):
    """oneDNN takes ten times as long for this gradient as for the other two passes, where maps are 2 x 2 pixels; as
    one product of the windows that were seen and what came back for each, it takes as long as they."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        (kernel_y, kernel_x), (step_y, step_x), (pad_y, pad_x) = weight.shape[2:], *ctx.geometry
        options = [step_y, step_x], [pad_y, pad_x], [1, 1], False, [0, 0], 1, [True, False, False]
        to_x = (
            torch.ops.aten.convolution_backward(grad, x, weight, None, *options)[0] if ctx.needs_input_grad[0] else None
        )
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad_x, pad_x, pad_y, pad_y))
        windows = padded.unfold(1, kernel_y, step_y).unfold(2, kernel_x, step_x)  # [N, h, w, C, kernel_y, kernel_x]
        windows = windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)  # the order of channels-last weights
        to_weight = grad.permute(0, 2, 3, 1).flatten(0, 2).t() @ windows
        to_weight = to_weight.view(len(weight), kernel_y, kernel_x, -1).permute(0, 3, 1, 2)
        return to_x, to_weight, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None


def with_fast_gradients(network: nn.Module) -> nn.Module:
    """`network`, its plain convolutions made those of this file; its parameters stay the objects they are."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
    return network

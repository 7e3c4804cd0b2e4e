"""In which precision the network computes: chosen once per run, the same for training and sampling."""

from collections.abc import Callable

import torch
from torch import nn

from command import UserError
from config import Settings
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.layers import Float32Conv2d

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(settings: Settings, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16": as settings.precision says; for "auto", what use_fp16 and the device allow."""
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on a CPU take fp32 or bf16")
    if settings.precision != "auto":
        return settings.precision
    if not settings.use_fp16 or device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def round_weights(network: nn.Module, precision: str) -> nn.Module:
    """Round once, for sampling, the weights that `autocast` would round at each step; the output stays the same."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear) and not isinstance(module, Float32Conv2d):
            module.weight.data = module.weight.data.to(DTYPES[precision])
    return network


def predictor(
    network: nn.Module, condition: Condition | None, precision: str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The network's output in float32, as a function of x_t [N, C, H, W] and its timesteps [N], for one condition."""

    def predict(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with autocast(precision, x_t.device):
            return network(x_t, timesteps, condition).float()

    return predict

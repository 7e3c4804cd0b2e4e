"""One update of the weights: learning rate, loss scale, clipping, skipping; nothing here waits for the device."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from config import Settings
from guided_diffusion.training.saved_state import check_optimiser_state

FIRST_LG_LOSS_SCALE = 20.0
BAD_STEPS_IN_A_ROW = 20


def learning_rate(step: int, settings: Settings) -> float:
    """Rate of the update after `step` updates: from lr at 0, on a line or half a cosine, to 0 at lr_anneal_steps (0:
    constant); of which the first lr_warmup_steps updates take a share that grows by as much each."""
    share = min(1.0, (step + 1) / settings.lr_warmup_steps) if settings.lr_warmup_steps else 1.0
    if not settings.lr_anneal_steps:
        return settings.lr * share
    left = max(0.0, 1 - step / settings.lr_anneal_steps)
    if settings.lr_schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return settings.lr * left * share


class Optimiser:
    """AdamW that skips a step with inf or NaN gradients, on the device: its counters are read only at a log.

    In fp16 the loss is scaled by 2 ** lg_loss_scale, which grows by `fp16_scale_growth` a step and falls by 1 at an
    overflow.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Settings, precision: str, device: torch.device):
        self.parameters = list(parameters)
        self.max_grad_norm = settings.max_grad_norm
        self.scaled = precision == "fp16"
        self.growth = settings.fp16_scale_growth
        self.adamw = torch.optim.AdamW(self.parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        first = FIRST_LG_LOSS_SCALE if self.scaled else 0.0
        self.lg_loss_scale = torch.tensor(first, dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss` (a scalar), scaled in fp16."""
        (loss * self.scale() if self.scaled else loss).backward()

    def scale(self) -> torch.Tensor:
        return torch.exp2(self.lg_loss_scale).float()

    @torch.no_grad()
    def step(self, lr: float) -> torch.Tensor:
        """Update the weights with learning rate `lr`; return the gradient norm before clipping (scalar, on device)."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        divisor = self.scale()
        norm = nn.utils.get_total_norm(gradients, foreach=True) / divisor
        bad = ~norm.isfinite()
        if self.max_grad_norm > 0:
            divisor = divisor * (norm / self.max_grad_norm).clamp(min=1)
        # The fused kernel divides by grad_scale and does nothing where found_inf is 1: both are tensors on the device.
        self.adamw.grad_scale = divisor if self.scaled or self.max_grad_norm > 0 else None
        self.adamw.found_inf = bad.float()
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=False)
        self.skipped += bad
        self.skipped_in_a_row = torch.where(bad, self.skipped_in_a_row + 1, 0)
        if self.scaled:
            self.lg_loss_scale += torch.where(bad, -1.0, self.growth)
        return norm

    def bytes_to_come(self) -> int:
        """Memory that the first step will take: gradients, and AdamW's two averages if they are not there yet."""
        per_weight = 1 if self.adamw.state else 3
        return per_weight * sum(parameter.nbytes for parameter in self.parameters)

    @torch.no_grad()
    def parameter_norm(self) -> torch.Tensor:
        return nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters], foreach=True)

    def state_dict(self) -> dict:
        counters = {name: getattr(self, name) for name in ("lg_loss_scale", "skipped", "skipped_in_a_row")}
        return {"adamw": self.adamw.state_dict(), **counters}

    def load_state_dict(self, state: dict) -> None:
        """Raises UserError unless the state is that of an optimiser of these parameters."""
        check_optimiser_state(state, [tuple(parameter.shape) for parameter in self.parameters], "the optimiser's state")
        # Of the saved state only what the steps have added: rates and decay are those of the settings.
        self.adamw.load_state_dict(self.adamw.state_dict() | {"state": state["adamw"]["state"]})
        for parameter, averages in self.adamw.state.items():  # laid out like the weights, on whatever device they were
            for name, value in averages.items():
                if value.shape == parameter.shape:
                    averages[name] = torch.empty_like(parameter).copy_(value)
        for name in ("lg_loss_scale", "skipped", "skipped_in_a_row"):
            getattr(self, name).copy_(state[name])


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], ranks: int) -> None:
    """Replace each gradient by its mean over ranks, with one all-reduce."""
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:  # every rank must send the same parameters
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    parts = flat.div_(ranks).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view(parameter.shape))

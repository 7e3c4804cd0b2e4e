"""Exponential moving averages of the weights, in float32."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


class Averages:
    """For each rate, average <- rate * average + (1 - rate) * weights after every update.

    With `warmup`, the rate at update k (from 1) is min(rate, (1 + k) / (10 + k)): without it, the average of a short
    run is still mostly the initial weights. So a rate of 0.9999 is reached at update 89,990 only; at 50,000 the rate is
    0.99982. Until then update j of n has the share 9 (j + 2) ... (j + 9) / ((n + 2) ... (n + 10)) of the average, about
    9 / n (j / n)^8: the weights in it are n / 10 updates old on average, 5,000 at 50,000 (10,000 for 0.9999 alone).
    """

    def __init__(self, network: nn.Module, rates: Sequence[float], warmup: bool = True):
        self.names = [name for name, _ in network.named_parameters()]
        self.weights = [parameter.detach() for parameter in network.parameters()]
        self.rates = tuple(rates)
        self.warmup = warmup
        self.updates = 0
        self.averages = [[weight.clone() for weight in self.weights] for _ in self.rates]

    def rate_now(self, rate: float) -> float:
        return min(rate, (1 + self.updates) / (10 + self.updates)) if self.warmup else rate

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        for rate, average in zip(self.rates, self.averages, strict=True):
            torch._foreach_lerp_(average, self.weights, 1 - self.rate_now(rate))

    def state_dict(self, index: int) -> dict[str, torch.Tensor]:
        """The average of rates[index], by parameter name."""
        return dict(zip(self.names, self.averages[index], strict=True))

    @torch.no_grad()
    def load(self, index: int, state_dict: dict[str, torch.Tensor]) -> None:
        for name, average in zip(self.names, self.averages[index], strict=True):
            average.copy_(state_dict[name])

    @contextlib.contextmanager
    def applied(self, index: int = 0) -> Iterator[None]:
        """Within the block the network has the averaged weights of rates[index]; then its own again, bit for bit."""
        average = self.averages[index]
        with torch.no_grad():
            own = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, own)

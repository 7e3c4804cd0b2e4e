"""Moving averages of the weights, in float32: exponential ones, and power-function ones of which others can be made.

A power-function average (Karras et al. 2024, arXiv 2312.02696, section 3.1) counts the weights after update j of n with
j^gamma: it grows longer with the training. Averages of two gammas, saved now and then, make that of any gamma and
update afterwards, nearly: `combination` says how.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from config import Width, usual_average


class Averages:
    """For each rate, average <- rate * average + (1 - rate) * weights after every update.

    With `warmup`, the rate at update k (from 1) is min(rate, (1 + k) / (10 + k)): without it, the average of a short
    run is still mostly the initial weights. So a rate of 0.9999 is reached at update 89,990 only; at 50,000 the rate is
    0.99982. Until then update j of n has the share 9 (j + 2) ... (j + 9) / ((n + 2) ... (n + 10)) of the average, about
    9 / n (j / n)^8: the weights in it are n / 10 updates old on average, 5,000 at 50,000 (10,000 for 0.9999 alone).
    A `Width` among the rates stands for (1 - 1 / k)^(gamma + 1), the power-function average of that width.
    """

    def __init__(self, network: nn.Module, rates: Sequence[float], warmup: bool = True):
        self.names = [name for name, _ in network.named_parameters()]
        self.weights = [parameter.detach() for parameter in network.parameters()]
        self.rates = tuple(rates)
        self.warmup = warmup
        self.updates = 0
        self.usual = usual_average(self.rates)
        self.averages = [[weight.clone() for weight in self.weights] for _ in self.rates]

    def rate_now(self, rate: float) -> float:
        if isinstance(rate, Width):
            return (1 - 1 / self.updates) ** (gamma_of(rate) + 1)
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
    def applied(self) -> Iterator[None]:
        """Within the block the network has the `usual` averaged weights; then its own again, bit for bit."""
        average = self.averages[self.usual]
        with torch.no_grad():
            own = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, own)


@functools.cache
def gamma_of(width: float) -> float:
    """The exponent of a power-function average whose spread is `width` times the training (appendix C there)."""
    return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())


def combination(saved: Sequence[tuple[float, int]], width: float, updates: int) -> tuple[np.ndarray, float]:
    """How to add up averages of (width, updates) so that they come closest to that of `width` at `updates`.

    Returns the factors [n], whose sum is 1, and how far the sum's profile stays from the wanted one, relative to it
    (rms). Least squares of the profiles p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), 0 <= tau <= t (appendix C
    there), and the sum as a constraint: else the weights would come out larger or smaller than they were.
    """
    gammas = np.array([gamma_of(one) for one, _ in [*saved, (width, updates)]])
    times = np.array([float(one) for _, one in [*saved, (width, updates)]]) / updates
    a, b = gammas[:, None], gammas[None, :]
    first, second = times[:, None], times[None, :]
    # Of tau^a / first^(a + 1) times tau^b / second^(b + 1), integrated to the smaller end.
    end = np.minimum(first, second)
    products = (a + 1) * (b + 1) / (a + b + 1) * (end / first) ** a * (end / second) ** b * end / first / second
    wanted, count = products[:-1, -1], len(saved)
    constrained = np.ones((count + 1, count + 1))  # Lagrange: the products, and a row and a column for the sum
    constrained[:-1, :-1], constrained[-1, -1] = products[:-1, :-1], 0
    factors = np.linalg.lstsq(constrained, np.append(wanted, 1), rcond=1e-12)[0][:-1]
    rest = products[-1, -1] - 2 * factors @ wanted + factors @ products[:-1, :-1] @ factors
    return factors, float(np.sqrt(max(rest, 0) / products[-1, -1]))

"""Which timesteps are visited: respacings for sampling, draws for training.

`space_timesteps` gives the spacings of Nichol & Dhariwal 2021 (arXiv 2102.09672), `even_timesteps` ours. The classes
draw timesteps for training: from uniform numbers, so that the caller decides which random numbers a sample gets.
"""

import math
from itertools import accumulate, repeat

import torch

from command import UserError


def space_timesteps(num_timesteps: int, spec: str) -> list[int]:
    """The timesteps (ascending, within 0 .. num_timesteps - 1) that the published spacing `spec` keeps.

    `spec` is "" (all), a count, a comma list of counts (the process is cut into as many equal sections, and each
    count is spread over its section), or "ddimN" (N steps with a whole-number stride, starting at 0). "1" keeps the
    last timestep, from which one step can reach the image. Raises UserError if there is no such spacing.
    """
    spec = spec.strip()
    if not spec:
        return list(range(num_timesteps))
    if spec.startswith("ddim"):
        return _whole_stride(num_timesteps, _count(spec, spec.removeprefix("ddim")))
    counts = [_count(spec, part) for part in spec.split(",")]
    if counts == [1]:
        return [num_timesteps - 1]
    size, extra = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        if count > length:
            raise UserError(f"timestep_respacing {spec}: {count} steps do not fit a section of {length} timesteps")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # Added up rather than multiplied: the rounding of halves must come out as published.
        positions = accumulate(repeat(stride, count - 1), initial=0.0)
        kept += [start + round(position) for position in positions]
        start += length
    return kept


def _count(spec: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"timestep_respacing {spec!r} must be a count, a comma list of counts, or ddimN")
    return int(text)


def _whole_stride(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == count:
            return list(range(0, num_timesteps, stride))
    raise UserError(f"timestep_respacing ddim{count}: no whole-number stride gives {count} of {num_timesteps} steps")


def even_timesteps(num_timesteps: int, n: int) -> list[int]:
    """`n` evenly spaced timesteps, ascending, with both ends: 0 and num_timesteps - 1 (n = 1: the last one).

    Sampling must start at the last timestep, the only one where the image is nothing but noise. Raises UserError
    unless 1 <= n <= num_timesteps.
    """
    if not 1 <= n <= num_timesteps:
        raise UserError(f"{n} sampling steps: must be from 1 to the {num_timesteps} steps of the process")
    if n == 1:
        return [num_timesteps - 1]
    return [round(i * (num_timesteps - 1) / (n - 1)) for i in range(n)]


class UniformSampler:
    """Every timestep is as likely."""

    def __init__(self, num_timesteps: int, device: torch.device | str = "cpu"):
        self.num_timesteps = num_timesteps
        self.device = torch.device(device)

    def probabilities(self) -> torch.Tensor:
        """[T] float64, sum 1."""
        return torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64, device=self.device)

    def draw(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Timesteps [N] int64 and loss weights [N] float32 for `uniform` [N] in [0, 1): inverse transform sampling.

        The weight 1 / (T p_t) makes the weighted loss an unbiased estimate of the mean over all timesteps.
        """
        probabilities = self.probabilities()
        cumulative = probabilities.cumsum(0)
        t = torch.searchsorted(cumulative / cumulative[-1], uniform.double(), right=True)
        t = t.clamp_(max=self.num_timesteps - 1)
        return t, (1 / (self.num_timesteps * probabilities[t])).float()

    def update(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Learn from the losses [N] at timesteps `t` [N], which must be those of all ranks, in sample order."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        if state:
            raise ValueError("this sampler has no state")


class LossSecondMomentSampler(UniformSampler):
    """Timesteps in proportion to the root mean square of their last losses (improved DDPM, equation 18).

    Uniform until each timestep has `history` losses. A share `uniform_share` of the draws stays uniform, so that none
    is forgotten. Nothing here waits for the device.
    """

    def __init__(
        self, num_timesteps: int, device: torch.device | str = "cpu", history: int = 10, uniform_share: float = 1e-3
    ):
        super().__init__(num_timesteps, device)
        self.history = history
        self.uniform_share = uniform_share
        # One more column takes what must not be kept: a fixed place to write to, where a mask would need a sync.
        self.losses = torch.zeros(num_timesteps, history + 1, dtype=torch.float64, device=device)
        self.counts = torch.zeros(num_timesteps, dtype=torch.int64, device=device)

    def probabilities(self) -> torch.Tensor:
        root_mean_square = self.losses[:, :-1].square().mean(1).sqrt()
        weights = root_mean_square / root_mean_square.sum().clamp(min=math.ulp(0.0))
        weights = weights * (1 - self.uniform_share) + self.uniform_share / self.num_timesteps
        ready = (self.counts >= self.history).all()
        return torch.where(ready, weights, super().probabilities())

    def update(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        same = t[:, None] == t[None, :]
        later = torch.ones_like(same).triu(1)
        before = (same & later.T).sum(1)  # samples of the same timestep, earlier and later in this batch
        after = (same & later).sum(1)
        finite = losses.isfinite().all()
        slot = (self.counts[t] + before) % self.history
        slot = torch.where((after >= self.history) | ~finite, self.history, slot)
        self.losses.index_put_((t, slot), losses.double())
        self.counts.index_add_(0, t, torch.ones_like(t) * finite)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"losses": self.losses, "counts": self.counts}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


TRAINING_SAMPLERS = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentSampler}

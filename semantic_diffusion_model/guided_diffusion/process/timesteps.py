"""Which timesteps are visited: respacings for sampling, draws for training.

`space_timesteps` gives the spacings of Nichol & Dhariwal 2021 (arXiv 2102.09672), `few_timesteps` ours. The classes
draw timesteps for training: from uniform numbers, so that the caller decides which random numbers a sample gets.
"""

import math
import re
from collections.abc import Sequence
from itertools import accumulate, repeat

import numpy as np
import torch

from command import UserError

COUNT = re.compile(r"[0-9]{1,6}")


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
    if not COUNT.fullmatch(text.strip()) or int(text) < 1:
        raise UserError(f"timestep_respacing {spec[:60]!r} must be a count, a comma list of counts, or ddimN")
    return int(text)


def _whole_stride(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == count:
            return list(range(0, num_timesteps, stride))
    raise UserError(f"timestep_respacing ddim{count}: no whole-number stride gives {count} of {num_timesteps} steps")


# Ends of the spacings by noise level, chosen by measurement (benchmarks/results/few_steps*.txt), times the number of
# steps: alpha / sigma of the second timestep visited (the first step, out of pure noise, must err less where more steps
# follow), and sigma / alpha of the last one (below which a network that is to denoise has next to nothing left to do).
FIRST_SIGNAL, LAST_NOISE = 0.6, 0.4
KARRAS_RHO = 7.0


def few_timesteps(
    alphas_cumprod: np.ndarray, n: int, spacing: str, signal: float = FIRST_SIGNAL, noise: float = LAST_NOISE
) -> list[int]:
    """`n` timesteps, ascending, up to T - 1 (n = 1: that alone). alphas_cumprod: [T] float64, falling, 0 allowed.

    Sampling must start at T - 1, the only timestep where the image is nothing but noise. `spacing` places the others:
    even, from 0 in equal steps of t; logsnr, in equal steps of lambda = log(alpha / sigma), from log(`signal` / n) to
    log(n / `noise`), as far as the process has such levels (after Lu et al. 2022, arXiv 2206.00927); karras, in equal
    steps of (sigma / alpha)^(1/7) between the same ends (Karras et al. 2022, arXiv 2206.00364, equation 5). Levels are
    rounded to timesteps of the process, no two to the same: the network was trained at no others, and levels in between
    would not help (a test). Raises UserError unless 1 <= n <= T.
    """
    last = len(alphas_cumprod) - 1
    if not 1 <= n <= last + 1:
        raise UserError(f"{n} sampling steps: must be from 1 to the {last + 1} steps of the process")
    if n == 1:
        return [last]
    if spacing == "even":
        return [round(i * last / (n - 1)) for i in range(n)]
    # The last timestep has next to no signal, or none: it is visited, but its lambda sets no scale.
    levels = 0.5 * (np.log(alphas_cumprod[:-1]) - np.log1p(-alphas_cumprod[:-1]))
    ends = min(math.log(n / noise), levels[0]), max(math.log(signal / n), levels[-1])
    if spacing == "karras":
        wanted = -KARRAS_RHO * np.log(np.linspace(*(math.exp(-level / KARRAS_RHO) for level in ends), n - 1))
    else:
        wanted = np.linspace(*ends, n - 1)
    nearest = np.interp(-wanted, -levels, np.arange(last)).round().astype(int).tolist()
    return _distinct([*nearest, last])


def _distinct(timesteps: Sequence[int]) -> list[int]:
    """Ascending `timesteps` of which those that coincide are moved up, as few as possible; the last one stays."""
    moved = [timesteps[0]]
    for t in timesteps[1:]:
        moved.append(max(t, moved[-1] + 1))
    last = timesteps[-1]
    return [min(t, last - places) for places, t in zip(range(len(moved) - 1, -1, -1), moved, strict=True)]


UNIFORM_SHARE = 0.05  # of timesteps whose distribution is fixed


class UniformSampler:
    """Every timestep is as likely."""

    unbiased = True  # the loss is weighed such that its mean is that over all timesteps, however they are drawn

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

    def readable(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A saved `state` with 0 where nothing is ever read: older ones may hold a loss there that is not finite."""
        return state

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
        # One more column takes a 0 in place of what must not be kept: a place to write to, where a mask would need a
        # sync.
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
        spare = (after >= self.history) | ~finite
        kept = torch.where(spare, 0, losses.double())
        self.losses.index_put_((t, torch.where(spare, self.history, slot)), kept)
        self.counts.index_add_(0, t, torch.ones_like(t) * finite)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"losses": self.losses, "counts": self.counts}

    def readable(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        losses = state.get("losses")
        if losses is None or losses.layout != torch.strided or losses.shape != self.losses.shape:
            return state
        return state | {"losses": torch.cat([losses[:, :-1], torch.zeros_like(losses[:, -1:])], 1)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


class FixedSampler(UniformSampler):
    """Timesteps with given `probabilities` [T], which say what the training is to dwell on: the loss is not weighed.

    A share `uniform_share` of the draws is uniform: sampling starts at a timestep that would hardly ever be trained.
    """

    unbiased = False

    def __init__(
        self, probabilities: np.ndarray, device: torch.device | str = "cpu", uniform_share: float = UNIFORM_SHARE
    ):
        super().__init__(len(probabilities), device)
        mixed = (1 - uniform_share) * probabilities / probabilities.sum() + uniform_share / len(probabilities)
        self.fixed = torch.from_numpy(mixed).to(self.device)

    def probabilities(self) -> torch.Tensor:
        return self.fixed


def logit_normal(num_timesteps: int) -> np.ndarray:
    """Probabilities [T] of timesteps t where logit((t + 1/2) / T) is standard normal (Esser et al. 2024, arXiv
    2403.03206, section 3.1, with m = 0, s = 1)."""
    edges = np.arange(1, num_timesteps) / num_timesteps
    return _shares(np.log(edges) - np.log1p(-edges))


def log_snr_normal(alphas_cumprod: np.ndarray, mean: float = -1.2, deviation: float = 1.2) -> np.ndarray:
    """Probabilities [T] of timesteps where log(sigma / alpha) is normal (Karras et al. 2022, table 1, P_mean)."""
    levels = 0.5 * (np.log1p(-alphas_cumprod) - np.log(np.maximum(alphas_cumprod, np.finfo(float).tiny)))
    return _shares(((levels[1:] + levels[:-1]) / 2 - mean) / deviation)


def _shares(edges: np.ndarray) -> np.ndarray:
    """Of a standard normal variable, the shares [T] between the ascending `edges` [T - 1]; all are above 0."""
    below = np.array([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges])
    return np.diff(below, prepend=0, append=1) + np.finfo(float).eps


def training_sampler(name: str, alphas_cumprod: np.ndarray, device: torch.device | str) -> UniformSampler:
    """The sampler that the setting schedule_sampler names, for a process of alphas_cumprod [T]."""
    steps = len(alphas_cumprod)
    if name == "logit-normal":
        return FixedSampler(logit_normal(steps), device)
    if name == "log-snr":
        return FixedSampler(log_snr_normal(alphas_cumprod), device)
    return {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentSampler}[name](steps, device)

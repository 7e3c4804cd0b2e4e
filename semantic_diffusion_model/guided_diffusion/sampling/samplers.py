"""Samplers: from noise to images, as pure functions over a denoiser and the noise levels it visits.

Each takes `denoise(x, i) -> Prediction` for the i-th visited timestep, `alphas_cumprod` [n] (float64, falling, one for
each visited timestep), the noise x [N, 3, H, W], one generator for each sample, and returns x_0 [N, 3, H, W].
With alpha_bar = alphas_cumprod: alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from guided_diffusion.process.diffusion import Prediction
from guided_diffusion.process.random_streams import normal
from guided_diffusion.sampling.denoiser import Denoiser

Denoise = Callable[[torch.Tensor, int], Prediction]
Generators = Sequence[torch.Generator]


def ddpm(denoise: Denoise, alphas_cumprod: np.ndarray, x: torch.Tensor, generators: Generators) -> torch.Tensor:
    """Ancestral sampling with the predicted variance (Ho et al. 2020, algorithm 2; Nichol & Dhariwal 2021)."""
    for i in reversed(range(len(alphas_cumprod))):
        predicted = denoise(x, i)
        x = predicted.mean
        if i > 0:
            x = x + (0.5 * predicted.log_variance).exp() * normal(generators, x.shape[1:])
    return x


def ddim(
    denoise: Denoise, alphas_cumprod: np.ndarray, x: torch.Tensor, generators: Generators, eta: float = 0.0
) -> torch.Tensor:
    """DDIM (Song et al. 2021, equations 12 and 16); eta 0 follows the probability flow to first order."""
    for i in reversed(range(len(alphas_cumprod))):
        here, there = _alpha_bar(alphas_cumprod, i), _alpha_bar(alphas_cumprod, i - 1)
        x_start = denoise(x, i).x_start
        eps = (x - math.sqrt(here) * x_start) / math.sqrt(1 - here)
        deviation = eta * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        x = math.sqrt(there) * x_start + math.sqrt(max(1 - there - deviation**2, 0.0)) * eps
        if deviation > 0 and i > 0:
            x = x + deviation * normal(generators, x.shape[1:])
    return x


def dpmpp_2m(denoise: Denoise, alphas_cumprod: np.ndarray, x: torch.Tensor, generators: Generators) -> torch.Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2): second order, one evaluation a step, no fresh noise."""
    before, step_before = None, 0.0
    for i in reversed(range(len(alphas_cumprod))):
        x_start = denoise(x, i).x_start
        if i == 0:  # sigma falls to 0: the step ends at the prediction itself
            return x_start
        here, there = _alpha_bar(alphas_cumprod, i), _alpha_bar(alphas_cumprod, i - 1)
        step = _half_log_snr(there) - _half_log_snr(here)
        estimate = x_start
        if before is not None:
            estimate = torch.lerp(before, x_start, 1 + step / (2 * step_before))
        x = math.sqrt((1 - there) / (1 - here)) * x - math.sqrt(there) * math.expm1(-step) * estimate
        before, step_before = x_start, step
    return x


def _alpha_bar(alphas_cumprod: np.ndarray, i: int) -> float:
    return float(alphas_cumprod[i]) if i >= 0 else 1.0


def _half_log_snr(alpha_bar: float) -> float:
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


@torch.no_grad()
def sample(
    name: str,
    denoiser: Denoiser,
    noise: torch.Tensor,
    timesteps: list[int],
    generators: Generators | None = None,
    eta: float = 0.0,
    progress: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Images [N, 3, H, W] in [-1, 1] (if the denoiser clips) from `noise`, visiting `timesteps` (ascending).

    generators: one for each image; needed by samplers that draw fresh noise. progress is called after each step.
    """
    denoise = denoiser.respaced(timesteps)

    def step(x: torch.Tensor, i: int) -> Prediction:
        predicted = denoise(x, i)
        if progress is not None:
            progress()
        return predicted

    options = {"eta": eta} if name == "ddim" else {}
    return SAMPLERS[name](step, denoise.diffusion.alphas_cumprod, noise, generators or [], **options)

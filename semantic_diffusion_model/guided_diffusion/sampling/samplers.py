"""Samplers: from noise to images, as pure functions over a denoiser and the noise levels it visits.

Each takes `denoise(x, i) -> Prediction` for the i-th visited timestep, `alphas_cumprod` [n] (float64, falling, one for
each visited timestep), the noise x [N, C, H, W], one generator for each sample, and returns x_0 [N, C, H, W].
With alpha_bar = alphas_cumprod: alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from guided_diffusion.process.diffusion import Prediction
from guided_diffusion.process.random_streams import normal
from guided_diffusion.sampling.denoiser import Denoiser

LEAST_ALPHA_BAR = 1e-20  # where there is no signal at all, lambda must be finite still
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


def dpmpp_2m_sde(denoise: Denoise, alphas_cumprod: np.ndarray, x: torch.Tensor, generators: Generators) -> torch.Tensor:
    """SDE-DPM-Solver++ (2M) (Lu et al. 2022, section 5): as dpmpp_2m, with as much fresh noise as DDPM."""
    before, step_before = None, 0.0
    for i in reversed(range(len(alphas_cumprod))):
        x_start = denoise(x, i).x_start
        if i == 0:
            return x_start
        here, there = _alpha_bar(alphas_cumprod, i), _alpha_bar(alphas_cumprod, i - 1)
        step = _half_log_snr(there) - _half_log_snr(here)
        estimate = x_start
        if before is not None:
            estimate = torch.lerp(before, x_start, 1 + step / (2 * step_before))
        share = -math.expm1(-2 * step)  # of the noise at the end of the step that is fresh
        x = math.sqrt((1 - there) / (1 - here)) * math.exp(-step) * x + math.sqrt(there) * share * estimate
        x = x + math.sqrt((1 - there) * share) * normal(generators, x.shape[1:])
        before, step_before = x_start, step
    return x


def unipc(
    denoise: Denoise, alphas_cumprod: np.ndarray, x: torch.Tensor, generators: Generators, order: int = 3
) -> torch.Tensor:
    """UniPC with varying coefficients (Zhao et al. 2023, arXiv 2302.04867, appendix C), one evaluation a step.

    Each step is predicted from the last `order` predictions of x_0, and made again, corrected, once there is one at its
    end. Both integrate the polynomial through those predictions exactly.
    """
    known: list[tuple[float, torch.Tensor]] = []  # (lambda, x_0), the newest first
    start = x
    for i in reversed(range(len(alphas_cumprod))):
        x_start = denoise(x, i).x_start
        if i == 0:
            return x_start
        here, there = _alpha_bar(alphas_cumprod, i), _alpha_bar(alphas_cumprod, i - 1)
        known = [(_half_log_snr(here), x_start), *known]
        if len(known) > 1:
            x = _integrate(start, _alpha_bar(alphas_cumprod, i + 1), here, known)
        known, start = known[:order], x
        x = _integrate(x, here, there, known)
    return x


def _integrate(x: torch.Tensor, here: float, there: float, known: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """x at alpha_bar `there` from x at `here`, where x_0 is the polynomial in lambda through the points `known`.

    x' = sigma' / sigma x + alpha' int_0^h exp(u - h) x_0(lambda + u) du, h being the step of lambda (Lu et al. 2022,
    equation 8). The weights of the points are those that are exact for 1, u, u^2 ...
    """
    start = _half_log_snr(here)
    step = _half_log_snr(there) - start
    places = [level - start for level, _ in known]
    moments = [-math.expm1(-step)]
    for power in range(1, len(places)):
        moments.append(step**power - power * moments[-1])
    weights = np.linalg.solve(np.vander(places, increasing=True).T, moments)
    total = sum(float(weight) * x_start for weight, (_, x_start) in zip(weights, known, strict=True))
    return math.sqrt((1 - there) / (1 - here)) * x + math.sqrt(there) * total


def _alpha_bar(alphas_cumprod: np.ndarray, i: int) -> float:
    return float(alphas_cumprod[i]) if i >= 0 else 1.0


def _half_log_snr(alpha_bar: float) -> float:
    alpha_bar = max(alpha_bar, LEAST_ALPHA_BAR)
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde, "unipc": unipc}


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
    """Images [N, C, H, W] in [-1, 1] (if the denoiser clips) from `noise`, visiting `timesteps` (ascending).

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

"""The diffusion process: how images become noise, and what the network's output says about the way back.

Notation of improved DDPM (Nichol & Dhariwal 2021, arXiv 2102.09672): beta_t, alpha_bar_t = prod(1 - beta),
q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I). Images lie in [-1, 1]. Everything here is a function of
tensors; schedules are float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from command import UserError
from guided_diffusion.process.predictions import loss_weights, target_of, x_start_of


def make_betas(noise_schedule: str, steps: int) -> np.ndarray:
    """beta_t for t = 0 .. steps - 1, float64.

    linear: Ho et al. 2020 (1e-4 to 0.02 over 1000 steps, scaled to other counts). cosine: improved DDPM, equation 17,
    with beta at most 0.999. Raises UserError.
    """
    if steps < 1:
        raise UserError(f"diffusion_steps must be at least 1, not {steps}")
    if noise_schedule == "linear":
        betas = np.linspace(0.1 / steps, 20 / steps, steps)
        if betas[-1] > 1:
            raise UserError(f"the linear schedule needs diffusion_steps of at least 20, not {steps}")
        return betas
    if noise_schedule == "cosine":
        alpha_bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return np.array(
            [min(1 - after / before, 0.999) for before, after in zip(alpha_bar, alpha_bar[1:], strict=False)]
        )
    raise UserError(f"noise_schedule {noise_schedule!r} is neither linear nor cosine")


@dataclass
class Prediction:
    """What the network says at (x_t, t): the clean image, and mean and variance of x_{t-1}; all [N, C, H, W]."""

    x_start: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    log_variance: torch.Tensor


class GaussianDiffusion:
    """A process of T steps, or the part of it that visits only `timesteps` (ascending; default: all).

    `learn_sigma`: the network's output has twice the channels, its second half places the variance between its bounds.
    `prediction_type` is what the first half predicts: epsilon, sample (x_0) or v_prediction. `use_kl` trains on the
    variational bound alone; otherwise `vb_weight` of it (times T / 1000, if `rescale_learned_sigmas`) is added to the
    squared error, which `loss_weighting`, `snr_gamma` and `snr_floor` weigh by timestep (`loss_weights`).

    Indices t count the visited timesteps: 0 .. num_timesteps - 1. A respaced process has betas that give the same
    alpha_bar at the visited timesteps; the network is always handed timesteps of the full process.
    """

    def __init__(
        self,
        betas: np.ndarray,
        timesteps: Sequence[int] | None = None,
        learn_sigma: bool = True,
        prediction_type: str = "epsilon",
        use_kl: bool = False,
        rescale_timesteps: bool = False,
        rescale_learned_sigmas: bool = False,
        vb_weight: float = 1e-3,
        loss_weighting: str = "none",
        snr_gamma: float = 5.0,
        snr_floor: float = 0.0,
    ):
        self.full_betas = np.asarray(betas, np.float64)
        full = np.cumprod(1 - self.full_betas)
        self.full_num_timesteps = len(full)
        self.timesteps = np.arange(len(full)) if timesteps is None else np.asarray(timesteps)
        self.num_timesteps = len(self.timesteps)
        self.learn_sigma = learn_sigma
        self.prediction_type = prediction_type
        self.use_kl = use_kl
        self.rescale_timesteps = rescale_timesteps
        self.rescale_learned_sigmas = rescale_learned_sigmas
        self.vb_weight = vb_weight
        self.weighting = loss_weighting, snr_gamma, snr_floor

        every_step = self.num_timesteps == len(full)
        self.alphas_cumprod = full[self.timesteps]
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.betas = self.full_betas if every_step else 1 - self.alphas_cumprod / self.alphas_cumprod_prev
        # q(x_{t-1} | x_t, x_0): equations 10 and 11 (DDPM equations 6 and 7).
        self.posterior_variance = self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        # The variance is 0 at t = 0: its logarithm is taken at t = 1 there.
        first = self.posterior_variance[1] if self.num_timesteps > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(first, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)
        # The fixed variance: beta ("larger"), whose first value would leave no noise to predict.
        self.fixed_variance = np.append(first, self.betas[1:])
        self.loss_weights = loss_weights(prediction_type, *self.weighting, self.alphas_cumprod)
        self._cache: dict = {}

    def respaced(self, timesteps: Sequence[int]) -> "GaussianDiffusion":
        """The same process, visiting only `timesteps` of the full one (ascending)."""
        loss_weighting, snr_gamma, snr_floor = self.weighting
        return GaussianDiffusion(
            self.full_betas,
            timesteps,
            learn_sigma=self.learn_sigma,
            prediction_type=self.prediction_type,
            use_kl=self.use_kl,
            rescale_timesteps=self.rescale_timesteps,
            rescale_learned_sigmas=self.rescale_learned_sigmas,
            vb_weight=self.vb_weight,
            loss_weighting=loss_weighting,
            snr_gamma=snr_gamma,
            snr_floor=snr_floor,
        )

    def model_timesteps(self, t: torch.Tensor) -> torch.Tensor:
        """The timesteps [N] that the network is handed for indices t [N]."""
        original = self._lookup("timesteps", torch.int64, t)
        return original * (1000.0 / self.full_num_timesteps) if self.rescale_timesteps else original

    def q_sample(self, x_start: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t of x_0 and standard noise, all [N, C, H, W] (equation 8)."""
        alpha_bar = self.coefficient("alphas_cumprod", t)
        return (alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * noise).float()

    def q_posterior_mean(self, x_start: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (equation 11)."""
        return (
            self.coefficient("posterior_mean_coef1", t) * x_start + self.coefficient("posterior_mean_coef2", t) * x_t
        ).float()

    def interpret(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, clip: bool) -> Prediction:
        """Read the network's output [N, C or 2 C, H, W] (float32 inside). `clip` keeps x_0 within [-1, 1]."""
        output = output.float()
        first, values = output.chunk(2, dim=1) if self.learn_sigma else (output, None)
        x_start = x_start_of(self.prediction_type, first, x_t, self.coefficient("alphas_cumprod", t))
        if clip:
            x_start = x_start.clamp(-1, 1)
        if values is None:
            log_variance = self.coefficient("fixed_variance", t).log().float().expand_as(x_t)
        else:  # between the smallest and largest sensible variance, on a log scale (equation 15)
            low, high = self.coefficient("posterior_log_variance_clipped", t), self.coefficient("betas", t).log()
            share = (values + 1) / 2
            log_variance = (share * high + (1 - share) * low).float()
        mean = self.q_posterior_mean(x_start, x_t, t)
        return Prediction(x_start, mean, log_variance.exp(), log_variance)

    def training_losses(
        self,
        predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        x_start: torch.Tensor,
        t: torch.Tensor,
        noise: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Loss of each sample [N]: `loss`, and the parts it is made of, `mse` and `vb` (bits per dimension).

        predict(x_t, model_timesteps) runs the network. loss = weight * mse + vb_weight * vb, where mse is the mean
        squared error of what the network predicts, and the weight that of `loss_weights`. The bound trains the variance
        alone: the mean is detached in it (L_hybrid, equation 16, with `vb_weight` for lambda). `x_start_mse` is told
        beside: the squared error of x_0, clipped to [-1, 1], the same measure whatever is predicted and weighed.
        """
        x_t = self.q_sample(x_start, t, noise)
        output = predict(x_t, self.model_timesteps(t)).float()
        first = output.chunk(2, dim=1)[0] if self.learn_sigma else output
        alpha_bar = self.coefficient("alphas_cumprod", t)
        predicted = x_start_of(self.prediction_type, first.detach(), x_t, alpha_bar).clamp(-1, 1)
        losses = {"x_start_mse": _mean_of_sample((x_start - predicted) ** 2)}
        if self.use_kl:
            return losses | {"loss": self.num_timesteps * self.variational_bound(output, x_start, x_t, t)}
        target = target_of(self.prediction_type, x_start, noise, alpha_bar)
        losses["mse"] = _mean_of_sample((target - first) ** 2)
        losses["loss"] = losses["mse"] * self._lookup("loss_weights", torch.float32, t)
        if self.learn_sigma:
            detached = torch.cat([first.detach(), output.chunk(2, dim=1)[1]], dim=1)
            losses["vb"] = self.variational_bound(detached, x_start, x_t, t)
            if self.rescale_learned_sigmas:
                losses["vb"] = losses["vb"] * (self.num_timesteps / 1000)
            losses["loss"] = losses["loss"] + self.vb_weight * losses["vb"]
        return losses

    def variational_bound(
        self, output: torch.Tensor, x_start: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p), and -log p(x_0 | x_1) at t = 0: [N] bits per dimension."""
        predicted = self.interpret(output, x_t, t, clip=False)
        true_mean = self.q_posterior_mean(x_start, x_t, t)
        true_log_variance = self.coefficient("posterior_log_variance_clipped", t).float()
        kl = gaussian_kl(true_mean, true_log_variance, predicted.mean, predicted.log_variance)
        nll = -discretised_log_likelihood(x_start, predicted.mean, 0.5 * predicted.log_variance)
        return torch.where(t == 0, _mean_of_sample(nll), _mean_of_sample(kl)) / math.log(2)

    def coefficient(self, name: str, t: torch.Tensor) -> torch.Tensor:
        """The schedule `name` at indices t [N], as float64 [N, 1, 1, 1] on t's device."""
        return self._lookup(name, torch.float64, t)[:, None, None, None]

    def _lookup(self, name: str, dtype: torch.dtype, t: torch.Tensor) -> torch.Tensor:
        key = (name, t.device)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(getattr(self, name), dtype=dtype, device=t.device)
        return self._cache[key][t]


def _mean_of_sample(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1)


def gaussian_kl(
    mean1: torch.Tensor, log_variance1: torch.Tensor, mean2: torch.Tensor, log_variance2: torch.Tensor
) -> torch.Tensor:
    """KL divergence of two normal distributions per element, in nats."""
    ratio = (log_variance1 - log_variance2).exp()
    return 0.5 * (log_variance2 - log_variance1 - 1 + ratio + (mean1 - mean2) ** 2 * (-log_variance2).exp())


def discretised_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Log probability (nats) of 8-bit grey levels x in [-1, 1] under a normal distribution, per element.

    Each level stands for the interval of half a level to both sides; the first and last extend to infinity. The
    distribution function is the tanh approximation of improved DDPM's code, so that losses agree with it.
    """
    inverse_deviation = (-log_scale).exp()
    above = _normal_cdf((x - mean + 1 / 255) * inverse_deviation)
    below = _normal_cdf((x - mean - 1 / 255) * inverse_deviation)
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

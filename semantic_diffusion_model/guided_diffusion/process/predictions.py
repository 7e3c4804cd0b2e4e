"""What a network may predict of x_t = alpha x_0 + sigma eps, and how its error is weighed.

alpha^2 = alpha_bar, sigma^2 = 1 - alpha_bar, SNR = alpha_bar / (1 - alpha_bar). Three kinds of output: epsilon, the
noise (Ho et al. 2020); sample, x_0 itself; v_prediction, v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv
2202.00512, appendix D). Each gives the other two where x_t is known, but x_0 from epsilon divides by alpha: where that
is 0, the noise says nothing about the image, and what comes out is large but finite.
"""

import numpy as np
import torch

from command import UserError

LEAST_ALPHA = 1e-9  # of the square root of alpha_bar: the linear schedule of 20 steps ends at 0; the cosine one at 5e-5


def x_start_of(kind: str, output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_0 [N, C, H, W] float32 from an `output` of that `kind` at x_t; alpha_bar [N, 1, 1, 1] float64."""
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return (alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output).float()
    return ((x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt().clamp(min=LEAST_ALPHA)).float()


def target_of(kind: str, x_start: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """What a network of that `kind` should put out for x_0 and the noise in x_t, all [N, C, H, W]."""
    if kind == "sample":
        return x_start
    if kind == "v_prediction":
        return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_start).float()
    return noise


def loss_weights(kind: str, weighting: str, gamma: float, floor: float, alphas_cumprod: np.ndarray) -> np.ndarray:
    """The factor [T] float64 on the mean squared error of what is predicted, for each of alphas_cumprod [T].

    none: 1. A squared error of x_0 then counts SNR times (epsilon), once (sample) or SNR + 1 times (v_prediction).
    min_snr: the squared error of x_0 counts min(max(SNR, floor), gamma) times, whatever is predicted (Hang et al. 2023,
    arXiv 2303.09556, section 3.4; they have no floor). Raises UserError for a gamma or floor that cannot be.
    """
    if weighting == "none":
        return np.ones(len(alphas_cumprod))
    if not 0 <= floor <= gamma or gamma == 0:
        raise UserError(f"snr_floor {floor:g} and snr_gamma {gamma:g}: 0 <= snr_floor <= snr_gamma, and snr_gamma > 0")
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if kind == "epsilon":
        if floor > 0:  # SNR is 2e-9 at the end of the cosine schedule: that timestep alone would be trained
            raise UserError("snr_floor needs --prediction_type sample or v_prediction: noise cannot carry it")
        return gamma / np.maximum(snr, gamma)
    weight = np.clip(snr, floor, gamma)
    # sigma v = alpha x_t - x_0, so an error of v is one of x_0 over sigma, and 1 / sigma^2 = SNR + 1.
    return weight * (1 - alphas_cumprod) if kind == "v_prediction" else weight

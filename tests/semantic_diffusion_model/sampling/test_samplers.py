"""Samplers against closed forms: for Gaussian data the ideal denoiser, and so every solution, is known."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, Prediction, make_betas
from guided_diffusion.process.random_streams import stream
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m, sample

MEAN, DEVIATION = 0.3, 0.5  # of the data: every pixel normal, independent


def levels(n, first=-4.0, last=5.0):
    """alphas_cumprod of n timesteps, evenly spaced in lambda = log(alpha / sigma), ascending in t."""
    return 1 / (1 + np.exp(-2 * np.linspace(last, first, n)))


def ideal(alphas_cumprod):
    """E[x_0 | x_t] of the Gaussian data, with the true mean and variance of x_{t-1} given x_t."""
    process = GaussianDiffusion(1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1]))

    def denoise(x, i):
        x = x.double()
        alpha_bar = alphas_cumprod[i]
        spread = alpha_bar * DEVIATION**2 + 1 - alpha_bar
        x_start = MEAN + math.sqrt(alpha_bar) * DEVIATION**2 / spread * (x - math.sqrt(alpha_bar) * MEAN)
        uncertain = DEVIATION**2 * (1 - alpha_bar) / spread
        mean = process.posterior_mean_coef1[i] * x_start + process.posterior_mean_coef2[i] * x
        variance = process.posterior_variance[i] + process.posterior_mean_coef1[i] ** 2 * uncertain
        log_variance = torch.full_like(x, math.log(variance))
        return Prediction(x_start, mean, log_variance.exp(), log_variance)

    return denoise


def flow(x, start, end):
    """The probability flow of the Gaussian data from alpha_bar `start` to `end`, exactly."""
    deviation = [math.sqrt(bar * DEVIATION**2 + 1 - bar) for bar in (start, end)]
    return math.sqrt(end) * MEAN + (x - math.sqrt(start) * MEAN) * deviation[1] / deviation[0]


def errors(sampler, counts):
    """Distance from the exact flow to x_0 of solutions with n steps."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    found = []
    for n in counts:
        bars = levels(n, last=9.0)  # so little noise at the end that the last step to x_0 does not count
        found.append((sampler(ideal(bars), bars, x, []) - flow(x, bars[-1], 1.0)).abs().max().item())
    return found


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2)])
def test_error_falls_at_the_order_of_the_solver(sampler, order):
    counts = (40, 80, 160)
    found = errors(sampler, counts)
    for coarse, fine in zip(found, found[1:], strict=False):
        assert order - 0.3 <= math.log2(coarse / fine) <= order + 0.5
    assert found[-1] < {1: 3e-2, 2: 6e-4}[order]


def test_second_order_wins_with_twenty_steps():
    assert errors(dpmpp_2m, [20])[0] < 0.2 * errors(ddim, [20])[0]


def generators(n):
    return [stream("cpu", "test", i) for i in range(n)]


@pytest.mark.parametrize("sampler", [ddpm, lambda *args: ddim(*args, eta=1.0)])
def test_ancestral_samples_have_the_distribution_of_the_data(sampler):
    bars = levels(300)
    x = torch.randn(4, 1, 64, 64, generator=stream("cpu", "start"), dtype=torch.float64)
    samples = sampler(ideal(bars), bars, x, generators(4))
    count = samples.numel()
    assert abs(samples.mean().item() - MEAN) < 5 * DEVIATION / math.sqrt(count) + 2e-3
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.03)
    third, fourth = (((samples - samples.mean()) / samples.std()) ** k for k in (3, 4))
    assert abs(third.mean().item()) < 0.1 and abs(fourth.mean().item() - 3) < 0.2


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_deterministic_samplers_carry_noise_to_the_data(name):
    bars = levels(50)
    x = torch.randn(2, 1, 64, 64, generator=stream("cpu", "start"), dtype=torch.float64)
    samples = SAMPLERS[name](ideal(bars), bars, x, [])
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.05)
    torch.testing.assert_close(samples, SAMPLERS[name](ideal(bars), bars, x, []))


def test_one_step_is_the_prediction_itself():
    bars = levels(1, first=-3)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    expected = ideal(bars)(x, 0).x_start
    for sampler in (ddim, dpmpp_2m, ddpm):
        torch.testing.assert_close(sampler(ideal(bars), bars, x, generators(1)), expected)


def test_samples_do_not_depend_on_the_batch():
    bars = levels(20)
    x = torch.randn(3, 1, 8, 8, generator=stream("cpu", "start"), dtype=torch.float64)
    together = ddpm(ideal(bars), bars, x, generators(3))
    alone = [ddpm(ideal(bars), bars, x[i : i + 1], generators(3)[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_ten_ddim_steps_equal_the_golden_loop(reference, name):
    folder = reference / name
    golden = np.load(folder / "ddim10_loop.npz")
    network = UNetModel(**json.loads((folder / "unet_config.json").read_text()))
    weights = torch.load(folder / "unet_state_dict_fp16.pt", weights_only=True)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    y = F.one_hot(torch.tensor(golden["label"]), 5).permute(0, 3, 1, 2).float()
    from guided_diffusion.network.condition import Condition

    condition = Condition.from_maps(y, network.factors, training=False)
    denoiser = Denoiser(network.eval(), GaussianDiffusion(make_betas("cosine", 1000)), condition)
    calls = []
    timesteps = sorted(golden["timesteps"].tolist())
    x = sample("ddim", denoiser, torch.tensor(golden["noise"]), timesteps, progress=lambda: calls.append(1))
    assert len(calls) == 10
    assert (x - torch.tensor(golden["sample"])).abs().max() <= 1e-3

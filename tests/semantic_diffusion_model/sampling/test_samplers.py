"""Samplers against closed forms: for Gaussian data, and a mixture of two, ideal denoiser and flow are known."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, Prediction, make_betas
from guided_diffusion.process.random_streams import stream
from guided_diffusion.process.timesteps import few_timesteps
from guided_diffusion.sampling import samplers
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, sample, unipc

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


def unipc_1(*args):
    return unipc(*args, order=1)


def unipc_2(*args):
    return unipc(*args, order=2)


# The corrector adds one to UniPC's order, but for its first steps, which know less: they hold it below 4.
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2), (unipc_1, 2), (unipc_2, 3), (unipc, 3.5)])
def test_error_falls_at_the_order_of_the_solver(sampler, order):
    counts = (80, 160, 320)
    found = errors(sampler, counts)
    for coarse, fine in zip(found, found[1:], strict=False):
        assert order - 0.3 <= math.log2(coarse / fine) <= order + 0.3
    assert found[-1] < {1: 2e-2, 2: 3e-4, 3: 1e-5, 3.5: 2e-7}[order]


@pytest.mark.parametrize("degree", range(4))
def test_a_step_is_exact_where_the_prediction_is_a_polynomial_of_lambda(degree):
    """Against the exact solution of the flow, its integral taken numerically."""
    start, end = -0.4, 0.9
    here, there = (1 / (1 + math.exp(-2 * level)) for level in (start, end))
    known = [(level, torch.tensor(level**degree, dtype=torch.float64)) for level in (0.9, -0.4, -1.1, -1.5)]
    level = torch.linspace(start, end, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(torch.exp(level - end) * level**degree, level).item()
    expected = math.sqrt((1 - there) / (1 - here)) * 0.7 + math.sqrt(there) * integral
    x = torch.tensor(0.7, dtype=torch.float64)
    assert samplers._integrate(x, here, there, known).item() == pytest.approx(expected, abs=1e-8)
    if degree == 3:  # three points do not suffice for a cubic
        assert abs(samplers._integrate(x, here, there, known[1:]).item() - expected) > 1e-3


def test_second_order_wins_with_twenty_steps():
    assert errors(dpmpp_2m, [20])[0] < 0.2 * errors(ddim, [20])[0]


def generators(n):
    return [stream("cpu", "test", i) for i in range(n)]


@pytest.mark.parametrize("sampler", [ddpm, lambda *args: ddim(*args, eta=1.0), dpmpp_2m_sde])
def test_ancestral_samples_have_the_distribution_of_the_data(sampler):
    bars = levels(300)
    x = torch.randn(4, 1, 64, 64, generator=stream("cpu", "start"), dtype=torch.float64)
    samples = sampler(ideal(bars), bars, x, generators(4))
    count = samples.numel()
    assert abs(samples.mean().item() - MEAN) < 5 * DEVIATION / math.sqrt(count) + 2e-3
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.03)
    third, fourth = (((samples - samples.mean()) / samples.std()) ** k for k in (3, 4))
    assert abs(third.mean().item()) < 0.1 and abs(fourth.mean().item() - 3) < 0.2


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc"])
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
    for sampler in SAMPLERS.values():
        torch.testing.assert_close(sampler(ideal(bars), bars, x, generators(1)), expected)


@pytest.mark.parametrize("sampler", [ddpm, dpmpp_2m_sde])
def test_samples_do_not_depend_on_the_batch(sampler):
    bars = levels(20)
    x = torch.randn(3, 1, 8, 8, generator=stream("cpu", "start"), dtype=torch.float64)
    together = sampler(ideal(bars), bars, x, generators(3))
    alone = [sampler(ideal(bars), bars, x[i : i + 1], generators(3)[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def moments(n, monkeypatch):
    """Mean and standard deviation of what dpmpp_2m_sde draws in n steps, exactly: it is linear in all the noise."""
    bars = levels(n, last=9.0)
    step = iter(range(1, n))
    rows = torch.arange(n + 1).view(-1, 1, 1, 1)  # row 0: no noise; row k: 1 in the k-th step; row n: 1 at the start
    monkeypatch.setattr(samplers, "normal", lambda _, shape: (rows == next(step)).double().expand(-1, *shape))
    answers = dpmpp_2m_sde(ideal(bars), bars, (rows == n).double(), []).flatten()
    return answers[0].item(), (answers[1:] - answers[0]).norm().item()


def test_moments_of_the_stochastic_solver_converge_at_its_order(monkeypatch):
    found = [moments(n, monkeypatch) for n in (40, 80, 160)]
    assert all(mean == pytest.approx(MEAN, abs=1e-4) for mean, _ in found)
    too_far = [abs(deviation - DEVIATION) for _, deviation in found]
    for coarse, fine in zip(too_far, too_far[1:], strict=False):
        assert 1.7 <= math.log2(coarse / fine) <= 2.3
    assert too_far[-1] < 1e-3


# --- Few steps of the cosine schedule ---------------------------------------------------------------------------------

COSINE = np.cumprod(1 - make_betas("cosine", 1000))
SPACINGS = ("logsnr", "even")
# Two kinds of pixels, in [-1, 1]: weight, mean and standard deviation of each.
MIXTURE = ((0.4, -0.6, 0.1), (0.6, 0.4, 0.25))


def starting_noise():
    """2000 pixels at the quantiles of the standard normal distribution."""
    return torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000).view(1, 1, 40, 50)


def ideal_of_a_mixture(parts):
    """alphas_cumprod -> the exact E[x_0 | x_t] of independent pixels from a mixture of normal distributions."""

    def denoise(bars, x, i):
        alpha, variance = math.sqrt(bars[i]), 1 - bars[i]
        log_weights, means = [], []
        for weight, mean, deviation in parts:
            spread = bars[i] * deviation**2 + variance
            log_weights.append(math.log(weight) - 0.5 * math.log(spread) - (x - alpha * mean) ** 2 / (2 * spread))
            means.append(mean + alpha * deviation**2 / spread * (x - alpha * mean))
        x_start = (torch.stack(log_weights).softmax(0) * torch.stack(means)).sum(0)
        return Prediction(x_start, x_start, x_start, x_start)

    return lambda bars: lambda x, i: denoise(bars, x, i)


def flow_of_a_mixture(parts, x, start):
    """Where the probability flow takes x from alpha_bar `start` to x_0: on a line, each point keeps its quantile."""

    def quantile_of(x, alpha_bar):
        spreads = [math.sqrt(alpha_bar * deviation**2 + 1 - alpha_bar) for *_, deviation in parts]
        each = zip(parts, spreads, strict=True)
        return sum(w * torch.special.ndtr((x - math.sqrt(alpha_bar) * mean) / s) for (w, mean, _), s in each)

    grid = torch.linspace(-3, 3, 200_001, dtype=torch.float64)
    found = np.interp(quantile_of(x, start).flatten(), quantile_of(grid, 1.0), grid)
    return torch.tensor(found).view(x.shape)


def rms_error(name, bars, parts):
    x = starting_noise()
    drawn = SAMPLERS[name](ideal_of_a_mixture(parts)(bars), bars, x, [])
    return (drawn - flow_of_a_mixture(parts, x, bars[-1])).square().mean().sqrt().item()


def spaced(n, spacing):
    return COSINE[few_timesteps(COSINE, n, spacing)]


def test_the_flow_of_a_mixture_of_one_is_the_known_one():
    x = starting_noise()
    bars = COSINE[[-1]]
    expected = flow(x, bars[-1], 1.0)
    torch.testing.assert_close(flow_of_a_mixture(((1.0, MEAN, DEVIATION),), x, bars[-1]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "limits"), [("dpmpp_2m", (0.03, 0.005)), ("unipc", (0.03, 0.007))])
def test_steps_by_log_snr_bring_the_error_down(name, limits):
    """Relative rms error for a Gaussian of variance 0.04; evenly spaced steps leave a quarter with 10 and 20 steps."""
    for n, most in zip((10, 20), limits, strict=True):
        by_level, even = (rms_error(name, spaced(n, spacing), ((1.0, 0.0, 0.2),)) / 0.2 for spacing in SPACINGS)
        assert by_level < most and by_level < even / 3, (n, by_level, even)


@pytest.mark.parametrize(("name", "limits"), [("dpmpp_2m", (4.5, 3.5, 1.2)), ("unipc", (4.5, 2.5, 0.5))])
def test_error_for_two_kinds_of_pixels_in_few_steps(name, limits):
    """In grey levels of 255; with even steps it is three times as much and more."""
    for n, most in zip((8, 10, 20), limits, strict=True):
        by_level, even = (127.5 * rms_error(name, spaced(n, spacing), MIXTURE) for spacing in SPACINGS)
        assert by_level < most and by_level < even / 3, (n, by_level, even)


@pytest.mark.parametrize("parts", [MIXTURE, ((1.0, 0.0, 0.2),)], ids=["two kinds", "one"])
@pytest.mark.parametrize("n", [8, 10, 20, 50])
def test_levels_between_timesteps_would_not_help(n, parts):
    """Rounding to timesteps of the process costs less than a quarter of a grey level."""
    bars = spaced(n, "logsnr")
    ends = (0.5 * np.log(bar / (1 - bar)) for bar in (bars[0], bars[-2]))
    exact = np.append(1 / (1 + np.exp(-2 * np.linspace(*ends, n - 1))), bars[-1])
    rounded, between = (127.5 * rms_error("unipc", levels, parts) for levels in (bars, exact))
    assert rounded < between + 0.25


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

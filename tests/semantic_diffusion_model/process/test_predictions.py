"""What is predicted, and how its error is weighed: conversions there and back, weights against their closed forms."""

import math

import numpy as np
import pytest
import torch

from command import UserError
from guided_diffusion.process.diffusion import GaussianDiffusion, make_betas
from guided_diffusion.process.predictions import loss_weights, target_of, x_start_of

KINDS = ("epsilon", "sample", "v_prediction")
COSINE = np.cumprod(1 - make_betas("cosine", 1000))
LINEAR_OF_20 = np.cumprod(1 - make_betas("linear", 20))  # ends at exactly 0


def batch(bars):
    """x_0, noise and x_t at each of alphas_cumprod `bars`, and those as [N, 1, 1, 1]."""
    generator = torch.Generator().manual_seed(0)
    x_start = torch.rand(len(bars), 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(len(bars), 3, 4, 4, generator=generator, dtype=torch.float64)
    alpha_bar = torch.tensor(bars)[:, None, None, None]
    return x_start, noise, alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * noise, alpha_bar


@pytest.mark.parametrize("kind", KINDS)
def test_x_start_comes_back_from_each_kind_of_target(kind):
    x_start, noise, x_t, alpha_bar = batch(COSINE[[0, 1, 500, 900, 990]])
    read = x_start_of(kind, target_of(kind, x_start, noise, alpha_bar), x_t, alpha_bar)
    torch.testing.assert_close(read.double(), x_start, atol=1e-4, rtol=0)


def test_v_is_a_rotation_of_image_and_noise():
    """(x_t, v) is (x_0, eps) turned by the angle whose cosine is alpha: lengths stay, and turning back gives both."""
    x_start, noise, x_t, alpha_bar = batch(COSINE[[0, 300, 700, 999]])
    v = target_of("v_prediction", x_start, noise, alpha_bar).double()
    torch.testing.assert_close(x_t**2 + v**2, x_start**2 + noise**2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((1 - alpha_bar).sqrt() * x_t + alpha_bar.sqrt() * v, noise, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bars", [COSINE, LINEAR_OF_20], ids=["cosine", "linear of 20"])
def test_the_ends_of_a_schedule_give_finite_images(kind, bars):
    x_start, noise, x_t, alpha_bar = batch(bars[[0, -1]])
    output = target_of(kind, x_start, noise, alpha_bar).float()
    read = x_start_of(kind, output + 1e-3, x_t.float(), alpha_bar)
    assert read.isfinite().all()
    if kind != "epsilon":  # which cannot tell the image where there is nothing but noise
        torch.testing.assert_close(read.double(), x_start, atol=2e-3, rtol=0)


@pytest.mark.parametrize("bars", [COSINE, LINEAR_OF_20], ids=["cosine", "linear of 20"])
@pytest.mark.parametrize(("gamma", "floor"), [(5.0, 0.0), (5.0, 0.1), (1.0, 1.0), (20.0, 0.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weighs_the_error_of_x_start_as_its_formula_says(kind, gamma, floor, bars):
    """Hang et al. 2023 give, for epsilon, min(SNR, gamma) / SNR; for v, min(SNR, gamma) / (SNR + 1)."""
    if kind == "epsilon" and floor:
        with pytest.raises(UserError, match="snr_floor"):
            loss_weights(kind, "min_snr", gamma, floor, bars)
        return
    weights = loss_weights(kind, "min_snr", gamma, floor, bars)
    assert np.isfinite(weights).all()
    for weight, bar in zip(weights, bars, strict=True):
        snr = bar / (1 - bar)
        on_x_start = min(max(snr, floor), gamma)
        expected = {
            "epsilon": on_x_start / snr if snr else 1.0,
            "sample": on_x_start,
            "v_prediction": on_x_start / (snr + 1),
        }
        assert weight == pytest.approx(expected[kind])


def test_without_weighting_every_timestep_counts_alike():
    for kind in KINDS:
        assert loss_weights(kind, "none", 5.0, 0.0, COSINE).tolist() == [1.0] * 1000


@pytest.mark.parametrize(("gamma", "floor"), [(0.0, 0.0), (5.0, 6.0), (5.0, -1.0), (-1.0, 0.0), (math.nan, 0.0)])
def test_a_gamma_and_floor_that_cannot_be_are_refused(gamma, floor):
    with pytest.raises(UserError, match="snr_gamma"):
        loss_weights("sample", "min_snr", gamma, floor, COSINE)


def gradient(kind, weighting, t, learn_sigma=False):
    """d loss / d x_0, where the network's output is what its prediction x_0 amounts to in that kind."""
    process = GaussianDiffusion(
        make_betas("cosine", 1000), learn_sigma=learn_sigma, prediction_type=kind, loss_weighting=weighting
    )
    generator = torch.Generator().manual_seed(1)
    x_start, noise, predicted = (torch.randn(1, 3, 4, 4, generator=generator).clamp(-1, 1) for _ in range(3))
    predicted.requires_grad_()
    t = torch.tensor([t])
    alpha_bar = process.coefficient("alphas_cumprod", t)

    def network(x_t, _):
        eps = (x_t - alpha_bar.sqrt() * predicted) / (1 - alpha_bar).sqrt()
        output = target_of(kind, predicted, eps, alpha_bar).float()
        return torch.cat([output, torch.zeros_like(output)], dim=1) if learn_sigma else output

    process.training_losses(network, x_start, t, noise)["loss"].sum().backward()
    return predicted.grad


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("t", [10, 300, 900])
def test_weighed_by_min_snr_all_kinds_have_the_same_gradient(t, learn_sigma):
    grads = [gradient(kind, "min_snr", t, learn_sigma) for kind in KINDS]
    assert grads[0].abs().max() > 0
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=2e-3, atol=1e-6 * grads[0].abs().max().item())


@pytest.mark.parametrize("t", [10, 300, 900])
def test_the_plain_loss_of_v_is_that_of_x_start_times_snr_plus_one(t):
    snr = COSINE[t] / (1 - COSINE[t])
    plain = gradient("v_prediction", "none", t)
    torch.testing.assert_close(plain, gradient("sample", "none", t) * (snr + 1), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(
        gradient("epsilon", "none", t), gradient("sample", "none", t) * snr, rtol=2e-3, atol=1e-5
    )


def test_the_error_of_x_start_is_told_alike_whatever_is_predicted_and_weighed():
    generator = torch.Generator().manual_seed(2)
    x_start, noise, wrong = (torch.randn(4, 3, 4, 4, generator=generator).clamp(-1, 1) for _ in range(3))
    t, told = torch.tensor([5, 200, 600, 950]), []
    for kind, weighting, use_kl in (
        ("epsilon", "none", False),
        ("sample", "min_snr", False),
        ("v_prediction", "min_snr", False),
        ("v_prediction", "none", True),
    ):
        process = GaussianDiffusion(
            make_betas("cosine", 1000), learn_sigma=False, prediction_type=kind, loss_weighting=weighting, use_kl=use_kl
        )
        alpha_bar = process.coefficient("alphas_cumprod", t)

        def network(x_t, _, kind=kind, alpha_bar=alpha_bar):
            eps = (x_t - alpha_bar.sqrt() * wrong) / (1 - alpha_bar).sqrt()
            return target_of(kind, wrong, eps, alpha_bar).float()

        told.append(process.training_losses(network, x_start, t, noise)["x_start_mse"])
    for one in told:
        torch.testing.assert_close(one, ((wrong - x_start) ** 2).mean((1, 2, 3)), rtol=1e-3, atol=1e-5)

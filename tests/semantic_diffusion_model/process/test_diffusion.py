"""The process against the published schedules and steps, and against closed forms."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from command import UserError
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, discretised_log_likelihood, gaussian_kl, make_betas
from guided_diffusion.process.predictions import target_of
from guided_diffusion.process.timesteps import space_timesteps


@pytest.mark.parametrize("steps", [100, 1000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_equal_the_published_ones(reference, schedule, steps):
    golden = np.load(reference / "schedules.npz")
    process = GaussianDiffusion(make_betas(schedule, steps))
    names = ("betas", "alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped")
    for name in (*names, "posterior_mean_coef1", "posterior_mean_coef2"):
        np.testing.assert_allclose(getattr(process, name), golden[f"{schedule}{steps}/{name}"], rtol=0, atol=1e-10)


def relative_error(ours, golden):
    golden = torch.as_tensor(golden)
    return ((ours - golden).norm() / golden.norm()).item()


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_losses_and_steps_equal_the_golden_vectors(reference, name):
    folder = reference / name
    network = UNetModel(**json.loads((folder / "unet_config.json").read_text()))
    weights = torch.load(folder / "unet_state_dict_fp16.pt", weights_only=True)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    golden = np.load(folder / "diffusion_steps.npz")
    x_start, noise = torch.tensor(golden["x_start"]), torch.tensor(golden["noise"])
    y = F.one_hot(torch.tensor(golden["label"]), 5).permute(0, 3, 1, 2).float()
    for case, config in json.loads((folder / "diffusion_steps_config.json").read_text()).items():
        process = GaussianDiffusion(
            make_betas(config["noise_schedule"], config["steps"]),
            space_timesteps(config["steps"], config.get("timestep_respacing", "")),
            learn_sigma=config["learn_sigma"],
            use_kl=config.get("use_kl", False),
            rescale_learned_sigmas=config.get("rescale_learned_sigmas", False),
        )
        t = torch.tensor(golden[f"{case}/t"])
        with torch.no_grad():
            losses = process.training_losses(lambda x, model_t: network(x, model_t, y=y), x_start, t, noise)
            output = network(noise, process.model_timesteps(t), y=y)
        expected = {key.split("/")[1] for key in golden if key.startswith(f"{case}/")} & {"loss", "mse", "vb"}
        assert set(losses) == expected | {"x_start_mse"}
        for key, value in ((key, losses[key]) for key in expected):
            assert (abs(value - torch.tensor(golden[f"{case}/{key}"])) / abs(value)).max() <= 1e-3, (case, key)
        step = process.interpret(output, noise, t, clip=True)
        assert relative_error(step.mean, golden[f"{case}/p_mean"]) <= 1e-3
        assert relative_error(step.variance, golden[f"{case}/p_variance"]) <= 1e-3
        assert relative_error(step.log_variance, golden[f"{case}/p_log_variance"]) <= 1e-3
        assert relative_error(step.x_start, golden[f"{case}/p_pred_xstart"]) <= 1e-3


def process(**settings):
    return GaussianDiffusion(make_betas("cosine", 50), **settings)


def test_noise_can_be_read_back_from_x_t():
    diffusion = process()
    x_start, noise = torch.rand(50, 3, 4, 4) * 2 - 1, torch.randn(50, 3, 4, 4)
    t = torch.arange(50)
    x_t = diffusion.q_sample(x_start, t, noise)
    read = diffusion.interpret(torch.cat([noise, noise], dim=1), x_t, t, clip=False).x_start
    torch.testing.assert_close(read[:45], x_start[:45], atol=1e-4, rtol=1e-4)
    alpha_bar = torch.tensor(diffusion.alphas_cumprod[20], dtype=torch.float32)
    torch.testing.assert_close(x_t[20], alpha_bar.sqrt() * x_start[20] + (1 - alpha_bar).sqrt() * noise[20])


def test_posterior_is_bayes_rule():
    """For scalars: q(x_{t-1} | x_t, x_0) from the two normal densities it is made of."""
    diffusion, t, x0, xt = process(), 20, 0.3, -0.7
    beta, previous = diffusion.betas[t], diffusion.alphas_cumprod[t - 1]
    precision = 1 / (1 - previous) + (1 - beta) / beta
    mean = (math.sqrt(previous) * x0 / (1 - previous) + math.sqrt(1 - beta) * xt / beta) / precision
    assert diffusion.posterior_variance[t] == pytest.approx(1 / precision)
    index = torch.tensor([t])
    ours = diffusion.q_posterior_mean(torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), xt), index)
    assert ours.item() == pytest.approx(mean, rel=1e-5)


def test_learned_variance_lies_between_its_bounds():
    diffusion = process()
    t = torch.tensor([20])
    x = torch.zeros(1, 3, 2, 2)
    for value, expected in ((-1.0, diffusion.posterior_variance[20]), (1.0, diffusion.betas[20])):
        output = torch.cat([torch.zeros_like(x), torch.full_like(x, value)], dim=1)
        assert diffusion.interpret(output, x, t, clip=False).variance[0, 0, 0, 0].item() == pytest.approx(expected)


def test_fixed_variance_is_beta_but_at_the_first_step():
    diffusion = process(learn_sigma=False)
    x = torch.zeros(2, 3, 2, 2)
    variance = diffusion.interpret(x, x, torch.tensor([0, 30]), clip=False).variance[:, 0, 0, 0]
    assert variance.tolist() == pytest.approx([diffusion.posterior_variance[1], diffusion.betas[30]])


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_what_is_predicted_does_not_change_what_it_means(kind):
    x_start, noise, t = torch.rand(3, 3, 4, 4) * 2 - 1, torch.randn(3, 3, 4, 4), torch.tensor([2, 20, 40])
    by_noise, other = process(learn_sigma=False), process(learn_sigma=False, prediction_type=kind)
    x_t = by_noise.q_sample(x_start, t, noise)
    output = target_of(kind, x_start, noise, other.coefficient("alphas_cumprod", t))
    torch.testing.assert_close(
        by_noise.interpret(noise, x_t, t, clip=True).mean, other.interpret(output, x_t, t, clip=True).mean
    )


def test_a_respaced_process_has_the_same_noise_levels():
    diffusion = process()
    kept = [3, 17, 49]
    respaced = diffusion.respaced(kept)
    np.testing.assert_allclose(np.cumprod(1 - respaced.betas), diffusion.alphas_cumprod[kept])
    assert respaced.model_timesteps(torch.tensor([0, 1, 2])).tolist() == kept
    rescaled = process(rescale_timesteps=True).respaced(kept)
    assert rescaled.model_timesteps(torch.tensor([1])).item() == pytest.approx(17 * 1000 / 50)


def test_the_bound_trains_the_variance_alone():
    output = torch.randn(2, 6, 4, 4, requires_grad=True)
    x, noise, t = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4), torch.tensor([5, 30])
    process().training_losses(lambda *_: output, x, t, noise)["vb"].sum().backward()
    assert not output.grad[:, :3].any() and output.grad[:, 3:].abs().sum() > 0


@pytest.mark.parametrize(("setting", "factor"), [({"vb_weight": 1.0}, 1.0), ({"vb_weight": 0.25}, 0.25)])
def test_the_loss_weighs_the_bound_as_set(setting, factor):
    output, x = torch.randn(1, 6, 4, 4), torch.rand(1, 3, 4, 4)
    losses = process(**setting).training_losses(lambda *_: output, x, torch.tensor([7]), torch.randn(1, 3, 4, 4))
    torch.testing.assert_close(losses["loss"], losses["mse"] + factor * losses["vb"])


def test_kl_of_normal_distributions():
    zero, log_two = torch.tensor(0.0), torch.tensor(math.log(2.0))
    assert gaussian_kl(zero, zero, zero, zero).item() == 0
    # KL(N(0, 1) || N(1, 2)) = (ln 2 + (1 + 1) / 2 - 1) / 2
    assert gaussian_kl(zero, zero, torch.tensor(1.0), log_two).item() == pytest.approx(math.log(2) / 2)


def test_probabilities_of_the_grey_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 256)
    probability = discretised_log_likelihood(levels, torch.tensor(0.2), torch.tensor(math.log(0.1))).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-4)
    centre, scale = 128, math.sqrt(2) * 0.1
    exact = 0.5 * (
        math.erf((levels[centre] - 0.2 + 1 / 255) / scale) - math.erf((levels[centre] - 0.2 - 1 / 255) / scale)
    )
    assert probability[centre].item() == pytest.approx(exact, rel=2e-2)


def test_unknown_schedules_are_refused():
    with pytest.raises(UserError, match="neither linear nor cosine"):
        make_betas("square", 10)
    with pytest.raises(UserError, match="at least 20"):
        make_betas("linear", 10)

"""Respacing against the published spacings; the timestep samplers of training against their definitions."""

import numpy as np
import pytest
import torch

from command import UserError
from guided_diffusion.process.diffusion import make_betas
from guided_diffusion.process.timesteps import (
    LossSecondMomentSampler,
    UniformSampler,
    few_timesteps,
    space_timesteps,
    training_sampler,
)


def test_published_spacings(reference):
    golden = np.load(reference / "schedules.npz")
    cases = [name.split("/")[1:] for name in golden if name.startswith("respace/")]
    assert len(cases) == 6
    for steps, spec in cases:
        expected = golden[f"respace/{steps}/{spec}"].tolist()
        assert space_timesteps(int(steps), spec) == expected, (steps, spec)


def test_spacing_of_all_and_of_one():
    assert space_timesteps(7, "") == list(range(7))
    assert space_timesteps(1000, "1") == [999]
    assert space_timesteps(10, "2,3") == [0, 4, 5, 7, 9]


@pytest.mark.parametrize("spec", ["0", "-3", "x", "5,", "11", "6,1", "ddim", "ddim7", "ddim0"])
def test_spacings_that_do_not_exist_are_refused(spec):
    with pytest.raises(UserError, match="timestep_respacing"):
        space_timesteps(10, spec)


def alphas_cumprod(steps: int = 1000, schedule: str = "cosine") -> np.ndarray:
    return np.cumprod(1 - make_betas(schedule, steps))


@pytest.mark.parametrize("n", [2, 3, 10, 50, 999, 1000])
def test_even_timesteps_have_both_ends_and_equal_gaps(n):
    steps = few_timesteps(alphas_cumprod(), n, "even")
    gaps = np.diff(steps)
    assert (steps[0], steps[-1], len(steps)) == (0, 999, n)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("total", [20, 50, 1000])
@pytest.mark.parametrize("spacing", ["even", "logsnr", "karras"])
def test_every_number_of_steps_has_as_many_timesteps_up_to_the_last(spacing, total, schedule):
    bars = alphas_cumprod(total, schedule)  # linear with 20 steps ends at 0
    for n in {1, 2, 3, 5, 20, total // 2, total - 1, total}:
        steps = few_timesteps(bars, n, spacing)
        assert len(steps) == n and steps[-1] == total - 1 and steps[0] >= 0
        assert all(isinstance(t, int) for t in steps) and (n == 1 or np.diff(steps).min() >= 1)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_levels_are_evenly_spaced_as_the_spacing_says(schedule):
    """In a process of so many steps that rounding to them does not show."""
    bars = alphas_cumprod(200_000, schedule)
    noise = np.sqrt((1 - bars) / bars)  # sigma / alpha
    for spacing, scale in (("logsnr", -np.log(noise)), ("karras", noise ** (1 / 7))):
        steps = few_timesteps(bars, 9, spacing, signal=0.45, noise=0.54)
        assert noise[steps[0]] == pytest.approx(0.54 / 9, rel=1e-3)
        assert 1 / noise[steps[-2]] == pytest.approx(0.45 / 9, rel=1e-3)
        np.testing.assert_allclose(np.diff(scale[steps[:-1]]), np.diff(scale[steps[:-1]]).mean(), rtol=1e-2)


def test_many_steps_go_down_to_the_first_timestep():
    assert few_timesteps(alphas_cumprod(), 250, "logsnr")[0] == 0


def test_even_timesteps_at_the_limits():
    bars = alphas_cumprod(5)
    assert few_timesteps(bars, 1, "even") == [4]
    assert few_timesteps(bars, 5, "even") == [0, 1, 2, 3, 4]
    for n in (0, 6):
        with pytest.raises(UserError):
            few_timesteps(bars, n, "even")


def test_uniform_sampler_inverts_the_distribution():
    sampler = UniformSampler(8)
    t, weights = sampler.draw(torch.tensor([0.0, 0.124, 0.126, 0.5001, 0.99999994]))
    assert t.tolist() == [0, 0, 1, 4, 7]
    assert weights.tolist() == [1.0] * 5


@pytest.mark.parametrize(("name", "mean", "deviation"), [("logit-normal", 0, 1), ("log-snr", -1.2, 1.2)])
def test_fixed_samplers_draw_normal_noise_levels(name, mean, deviation):
    bars = np.cumprod(1 - make_betas("cosine", 1000))
    sampler = training_sampler(name, bars, "cpu")
    n = 20001
    t, weights = sampler.draw((torch.arange(n) + 0.5) / n)
    places = (t.numpy() + 0.5) / 1000
    levels = np.log(places / (1 - places)) if name == "logit-normal" else 0.5 * np.log((1 - bars[t]) / bars[t])
    alike = np.arange(1000) + 0.5
    all_levels = np.log(alike / (1000 - alike)) if name == "logit-normal" else 0.5 * np.log((1 - bars) / bars)
    for z, share in ((-1, 0.1587), (0, 0.5), (1, 0.8413)):
        below = mean + z * deviation
        expected = 0.95 * share + 0.05 * np.mean(all_levels < below)
        assert np.mean(levels < below) == pytest.approx(expected, abs=0.005)
    assert float(sampler.probabilities().min()) >= 0.05 / 1000 * (1 - 1e-9)
    assert not sampler.unbiased and UniformSampler.unbiased
    # The logged means are over all timesteps alike: the mean of a function of t by these weights is its plain mean.
    assert float((weights * t).mean()) == pytest.approx(499.5, rel=0.05)
    probabilities = sampler.probabilities()
    assert float(probabilities.sum()) == pytest.approx(1) and float(probabilities.min()) > 0


def test_a_process_that_ends_in_pure_noise_has_a_log_snr_sampler():
    probabilities = training_sampler("log-snr", np.array([0.99, 0.5, 0.0]), "cpu").probabilities()
    assert probabilities.isfinite().all() and float(probabilities.sum()) == pytest.approx(1)


def in_order(history: int, num_timesteps: int, batches) -> list[list[float]]:
    """The last `history` losses of each timestep, sample by sample: what the vectorised update must keep."""
    kept: list[list[float]] = [[] for _ in range(num_timesteps)]
    for t, losses in batches:
        for step, loss in zip(t, losses, strict=True):
            kept[step] = [*kept[step], loss][-history:]
    return kept


def test_second_moment_sampler_keeps_the_last_losses_of_each_timestep():
    generator = np.random.default_rng(0)
    batches = [(generator.integers(0, 4, 9).tolist(), generator.random(9).tolist()) for _ in range(20)]
    batches.append(([2] * 9, list(range(9))))  # more of one timestep at once than the history holds
    sampler = LossSecondMomentSampler(4, history=3, uniform_share=0.01)
    for t, losses in batches:
        sampler.update(torch.tensor(t), torch.tensor(losses))
    expected = in_order(3, 4, batches)
    assert [sorted(row) for row in sampler.losses[:, :-1].tolist()] == [pytest.approx(sorted(row)) for row in expected]
    root_mean_square = np.array([np.sqrt(np.mean(np.square(row))) for row in expected])
    p = root_mean_square / root_mean_square.sum() * 0.99 + 0.01 / 4
    assert sampler.probabilities().numpy() == pytest.approx(p)


def test_second_moment_sampler_is_uniform_until_it_knows_every_timestep():
    sampler = LossSecondMomentSampler(3, history=2)
    sampler.update(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([9.0, 9, 1, 1, 1]))
    assert sampler.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    sampler.update(torch.tensor([2]), torch.tensor([1.0]))
    assert sampler.probabilities()[0] > 0.8


def test_second_moment_sampler_ignores_batches_that_are_not_finite():
    sampler = LossSecondMomentSampler(2, history=1)
    sampler.update(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    before = sampler.probabilities()
    sampler.update(torch.tensor([0, 1]), torch.tensor([5.0, torch.nan]))
    assert torch.equal(sampler.probabilities(), before)
    assert sampler.losses.tolist() == [[1, 0], [3, 0]]  # what is not kept leaves no trace in the state


def test_what_older_states_hold_in_the_column_that_is_never_read_is_put_right():
    sampler = LossSecondMomentSampler(2, history=1)
    old = {"losses": torch.tensor([[1.0, torch.inf], [torch.nan, 5]]), "counts": torch.tensor([1, 1])}
    found = sampler.readable(old)
    assert found["losses"].nan_to_num(7).tolist() == [[1, 0], [7, 0]]  # what is read is not
    assert found["counts"] is old["counts"]
    for other in ({}, {"losses": torch.ones(3)}, {"losses": torch.ones(2, 2).to_sparse()}):
        assert sampler.readable(other) is other  # whoever loads it looks at that


def test_weights_make_the_estimate_unbiased():
    sampler = LossSecondMomentSampler(4, history=1)
    sampler.update(torch.arange(4), torch.tensor([1.0, 2.0, 4.0, 8.0]))
    value = torch.tensor([3.0, -1.0, 2.0, 10.0])  # any function of t: its mean over t is 3.5
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    t, weights = sampler.draw(uniform)
    assert float((weights * value[t]).double().mean()) == pytest.approx(3.5, rel=1e-3)
    assert (torch.bincount(t) / 100_000).tolist() == pytest.approx(sampler.probabilities().tolist(), abs=1e-4)


def test_state_of_the_sampler_survives():
    one, other = LossSecondMomentSampler(3, history=2), LossSecondMomentSampler(3, history=2)
    one.update(torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2, 3, 4, 5, 6]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.probabilities(), other.probabilities())
    other.update(torch.tensor([0]), torch.tensor([50.0]))
    assert not torch.equal(one.probabilities(), other.probabilities())

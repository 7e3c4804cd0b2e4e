"""Updates, skipping, clipping, loss scale and averages against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from command import UserError
from config import Settings, Width
from guided_diffusion.network.precision import choose_precision
from guided_diffusion.training.ema import Averages, combination, gamma_of
from guided_diffusion.training.optimisation import Optimiser, learning_rate

CPU = torch.device("cpu")


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([[0.5]]))]


def test_learning_rate_falls_on_a_line_to_zero():
    settings = Settings(lr=2e-4, lr_anneal_steps=100)
    assert learning_rate(0, settings) == 2e-4
    assert learning_rate(25, settings) == pytest.approx(1.5e-4)
    assert learning_rate(99, settings) == pytest.approx(2e-6)
    assert learning_rate(100, settings) == learning_rate(150, settings) == 0
    assert learning_rate(10**6, Settings(lr=2e-4, lr_anneal_steps=0)) == 2e-4


def test_learning_rate_falls_on_half_a_cosine_to_zero():
    settings = Settings(lr=2e-4, lr_anneal_steps=100, lr_schedule="cosine")
    assert learning_rate(0, settings) == pytest.approx(2e-4)
    assert learning_rate(50, settings) == pytest.approx(1e-4)
    for step in (10, 25, 70):  # the published form: (1 + cos(pi step / steps)) / 2 (SGDR, equation 5)
        assert learning_rate(step, settings) == pytest.approx(1e-4 * (1 + math.cos(math.pi * step / 100)))
    assert learning_rate(100, settings) == learning_rate(150, settings) == 0
    assert learning_rate(10**6, Settings(lr=2e-4, lr_anneal_steps=0, lr_schedule="cosine")) == 2e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate_warms_up_to_what_it_would_be(schedule):
    cold = Settings(lr=2e-4, lr_anneal_steps=100, lr_schedule=schedule)
    warm = Settings(lr=2e-4, lr_anneal_steps=100, lr_schedule=schedule, lr_warmup_steps=10)
    for step in range(100):
        assert learning_rate(step, warm) == pytest.approx(learning_rate(step, cold) * min(1, (step + 1) / 10))
    assert learning_rate(4, Settings(lr=2e-4, lr_anneal_steps=0, lr_warmup_steps=10)) == pytest.approx(1e-4)


def test_updates_are_those_of_adamw():
    ours, theirs = parameters(), parameters()
    optimiser = Optimiser(ours, Settings(lr=0.1, weight_decay=0.3), "fp32", CPU)
    reference = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.3)
    for step in range(5):
        for group, backward in ((ours, optimiser.backward), (theirs, torch.Tensor.backward)):
            backward(sum((p**2).sum() * (step + 1) for p in group))
        norm = optimiser.step(0.1)
        assert float(norm) == pytest.approx(float(nn.utils.get_total_norm([p.grad for p in theirs])))
        reference.step()
        reference.zero_grad()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
    values = parameters()
    optimiser = Optimiser(values, Settings(lr=0.1), "fp32", CPU)
    optimiser.backward(sum(p.sum() for p in values))
    optimiser.step(0.1)
    before = [p.detach().clone() for p in values], str(optimiser.adamw.state_dict())
    for count in (1, 2):
        optimiser.backward(values[0].sum() * bad + values[1].sum())
        assert not optimiser.step(0.1).isfinite()
        assert int(optimiser.skipped) == int(optimiser.skipped_in_a_row) == count
    assert all(torch.equal(a, b) for a, b in zip(before[0], values, strict=True))
    assert str(optimiser.adamw.state_dict()) == before[1]
    optimiser.backward(sum(p.sum() for p in values))
    optimiser.step(0.1)
    assert (int(optimiser.skipped), int(optimiser.skipped_in_a_row)) == (2, 0)
    assert not torch.equal(before[0][0], values[0])


def test_clipping_scales_the_gradient_to_the_norm():
    def moved(scale: float, limit: float) -> list[torch.Tensor]:
        values = parameters()
        optimiser = Optimiser(values, Settings(max_grad_norm=limit), "fp32", CPU)
        optimiser.backward(sum((p * scale).sum() for p in values))
        norm = float(optimiser.step(0.1))
        assert norm == pytest.approx(scale * 3**0.5)  # what is told is the norm before clipping
        return [optimiser.adamw.state[p]["exp_avg"] for p in values]

    free, clipped, loose = moved(3.0, 0), moved(3.0, 0.6), moved(3.0, 6.0)
    norm = float(nn.utils.get_total_norm(clipped)) / 0.1  # the first moment is a tenth of the gradient
    assert norm == pytest.approx(0.6)
    assert all(torch.allclose(a, b) for a, b in zip(free, loose, strict=True))


def test_the_loss_scale_leaves_updates_alone_grows_and_falls():
    plain, scaled = parameters(), parameters()
    optimisers = [
        Optimiser(plain, Settings(), "fp32", CPU),
        Optimiser(scaled, Settings(fp16_scale_growth=0.25), "fp16", CPU),
    ]
    for _ in range(2):
        for values, optimiser in zip((plain, scaled), optimisers, strict=True):
            optimiser.backward(sum((p**2).sum() for p in values))
        norms = [float(optimiser.step(0.1)) for optimiser in optimisers]
        assert norms[0] == pytest.approx(norms[1])
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(plain, scaled, strict=True))
    assert float(optimisers[0].lg_loss_scale) == 0
    assert float(optimisers[1].lg_loss_scale) == 20.5
    optimisers[1].backward(scaled[0].sum() * 1e38)  # overflows with the scale alone
    optimisers[1].step(0.1)
    assert float(optimisers[1].lg_loss_scale) == 19.5


def test_state_survives():
    one, other = parameters(), parameters()
    first, second = (Optimiser(values, Settings(), "fp16", CPU) for values in (one, other))
    for factor in (1.0, torch.nan, 2.0):
        first.backward(sum((p * factor).sum() for p in one))
        first.step(0.1)
    second.load_state_dict(first.state_dict())
    assert second.lg_loss_scale == first.lg_loss_scale != 20
    assert (second.skipped, second.skipped_in_a_row) == (1, 0)
    assert torch.equal(first.adamw.state[one[0]]["exp_avg"], second.adamw.state[other[0]]["exp_avg"])


def test_precision():
    assert choose_precision(Settings(), CPU) == "fp32"
    assert choose_precision(Settings(precision="bf16"), CPU) == "bf16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        choose_precision(Settings(precision="fp16"), CPU)


def walk(network: nn.Module, averages: Averages, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
        averages.update()


def test_averages_without_warmup_are_the_closed_form():
    network = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.fill_(10.0)
    averages = Averages(network, (0.9, 0.5), warmup=False)
    values = [1.0, 2.0, 4.0]
    walk(network, averages, values)
    for index, rate in enumerate((0.9, 0.5)):
        expected = rate**3 * 10 + sum((1 - rate) * rate ** (2 - k) * value for k, value in enumerate(values))
        assert averages.state_dict(index)["weight"].flatten().tolist() == pytest.approx([expected] * 4)


def test_warmup_follows_the_weights_of_a_short_run():
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(10.0)
    averages = Averages(network, (0.9999,), warmup=True)
    expected = 10.0
    for k in range(1, 21):
        walk(network, averages, [float(k)])
        rate = (1 + k) / (10 + k)
        expected = rate * expected + (1 - rate) * k
    assert float(averages.state_dict(0)["weight"]) == pytest.approx(expected, rel=1e-5)
    assert averages.rate_now(0.3) == 0.3


def test_the_rate_and_the_shares_of_a_warmup_are_those_that_its_description_gives():
    network = nn.Linear(1, 1, bias=False)
    averages = Averages(network, (0.9999,), warmup=True)
    for updates, rate in ((50_000, 0.99982), (89_989, 0.999899), (89_990, 0.9999), (200_000, 0.9999)):
        averages.updates = updates
        assert averages.rate_now(0.9999) == pytest.approx(rate, abs=1e-6)
    n, shares = 60, []
    for j in range(1, n + 1):  # the share of update j: the average of weights that are 1 then and 0 at all others
        with torch.no_grad():
            network.weight.fill_(0.0)
        averages = Averages(network, (0.9999,), warmup=True)
        walk(network, averages, [float(k == j) for k in range(1, n + 1)])
        shares.append(float(averages.state_dict(0)["weight"]))
        expected = 9 * math.prod(range(j + 2, j + 10)) / math.prod(range(n + 2, n + 11))
        assert shares[-1] == pytest.approx(expected, rel=1e-4)
    age = sum(share * (n - j) for j, share in enumerate(shares, start=1)) / sum(shares)
    assert age == pytest.approx(n / 10, rel=0.02)


def test_power_function_averages_count_updates_by_a_power():
    """Against the definition: the share of update j of n is about that of j^gamma, with the spread asked for."""
    network, n = nn.Linear(1, 1, bias=False), 2000
    averages = Averages(network, (Width(0.1), Width(0.05)), warmup=True)
    path = np.sin(np.arange(1, n + 1) / 300)
    walk(network, averages, path.tolist())
    for index, width in enumerate((0.1, 0.05)):
        times = (np.arange(1, n + 1) - 0.5) / n
        profile = times ** gamma_of(width)
        profile /= profile.sum()
        mean = profile @ times
        assert np.sqrt(profile @ (times - mean) ** 2) == pytest.approx(width, rel=1e-3)
        assert float(averages.averages[index][0]) == pytest.approx(profile @ path, abs=2e-3)
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01) and gamma_of(0.1) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize(("width", "updates"), [(0.05, 980), (0.08, 1000), (0.15, 900), (0.2, 1000)])
def test_two_lengths_saved_now_and_then_make_any_length(width, updates):
    """Profiles summed numerically, with no closed form: the combination is the wanted one as nearly as it says."""
    saved = [(one, step) for one in (0.05, 0.1) for step in range(updates % 50 + 50, updates + 1, 50)]
    factors, rest = combination(saved, width, updates)
    tau = (np.arange(20000) + 0.5) / 20000 * updates

    def profile(one: float, t: float) -> np.ndarray:
        gamma = gamma_of(one)
        return np.where(tau <= t, (gamma + 1) / t * (np.minimum(tau, t) / t) ** gamma, 0)

    wanted = profile(width, updates)
    made = factors @ np.array([profile(*one) for one in saved])
    assert np.sqrt(np.mean((made - wanted) ** 2) / np.mean(wanted**2)) == pytest.approx(rest, abs=0.01)
    assert rest < 0.05 and factors.sum() == pytest.approx(1, abs=1e-9)


def test_a_saved_average_is_made_of_itself():
    factors, rest = combination([(0.05, 10), (0.1, 10), (0.1, 20)], 0.1, 20)
    assert factors == pytest.approx([0, 0, 1], abs=1e-6) and rest == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("text", ["w0", "w0.3", "wide", "0.9,1.0", "w", "0.9,w", "ww0.1", "w1e-160", "w0.001", "w1e-2"])
def test_widths_and_rates_out_of_range_are_refused(text):
    with pytest.raises(UserError, match="ema_rate"):
        Settings(ema_rate=text).ema_rates()


def test_applied_averages_and_back_again():
    network = nn.Linear(3, 3)
    averages = Averages(network, (0.5,), warmup=False)
    walk(network, averages, [7.0])
    own = network.weight.detach().clone()
    with averages.applied():
        assert torch.equal(network.weight, averages.state_dict(0)["weight"])
        assert not torch.equal(network.weight, own)
    assert torch.equal(network.weight, own)

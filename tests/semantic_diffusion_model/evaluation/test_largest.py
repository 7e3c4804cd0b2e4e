"""The law of the largest of m correlations: closed forms, and limits that keep their promise."""

import numpy as np
import pytest
from scipy.stats import gumbel_r, norm

from guided_diffusion.evaluation import largest


def expected(count: int, m: int, place: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """[1, count]: ascending values, each where it is expected."""
    return place + scale * largest.quantile((np.arange(count) + 0.5) / count, m)[None]


def drawn(samples: int, count: int, m: int, seed: int = 0) -> np.ndarray:
    """Ascending values [samples, count], each the largest of m normal ones."""
    return np.sort(largest.quantile(np.random.default_rng([7, seed]).random((samples, count)), m), 1)


def test_quantiles_are_those_of_the_largest_of_m():
    p = np.array([1e-6, 0.1, 0.5, 0.999999])
    assert largest.quantile(p, 1) == pytest.approx(norm.ppf(p))
    assert norm.cdf(largest.quantile(p, 50)) ** 50 == pytest.approx(p)
    normal = np.random.default_rng(0).normal(size=(20_000, 30)).max(1)
    shares = np.array([0.1, 0.5, 0.9])
    assert np.quantile(normal, shares) == pytest.approx(largest.quantile(shares, 30), abs=0.02)


def test_for_large_m_the_law_is_gumbels():
    """Place and scale as extreme-value theory has them: b_m = Phi^-1(1 - 1 / m), a_m = 1 / b_m."""
    m, p = 10**12, np.array([0.05, 0.5, 0.95])
    place = norm.isf(1 / m)
    assert largest.quantile(p, m) == pytest.approx(gumbel_r.ppf(p, place, 1 / place), abs=0.02)


@pytest.mark.parametrize("m", [1, 2, 120, 3200])
def test_the_fit_finds_place_and_scale_whatever_the_highest_fifth_is(m):
    values = expected(50, m, 0.3, 0.06)
    values[0, 40:] += 5
    place, scale = largest.fit(values, m)
    assert (place[0], scale[0]) == (pytest.approx(0.3), pytest.approx(0.06))


def test_values_bend_as_their_law_does():
    assert largest.bend(expected(200, 1))[0] == pytest.approx(0, abs=1e-9)
    bends = [largest.bend(expected(200, m, 5, 2))[0] for m in (1, 2, 10, 100, 3000)]
    assert bends == sorted(bends) and bends[-1] > 0.05
    squares = norm.ppf((np.arange(200) + 0.5) / 200)
    assert largest.bend((3 + 2 * squares + 0.5 * squares**2)[None])[0] == pytest.approx(0.25)


@pytest.mark.parametrize(("count", "m", "least"), [(400, 1, 1), (400, 120, 120), (20, 120, 120), (12, 1, 1)])
def test_the_longest_tail_that_does_not_contradict_the_values_is_taken(count, m, least):
    found = np.array([largest.shape(values[None], 3200) for values in drawn(60, count, m)])
    assert (found >= least).mean() >= 0.88  # 0.95 is promised
    assert set(found) <= {3200, *(2**power for power in range(12))}
    if (count, m) == (400, 1):
        assert np.median(found) <= 16 and (found == 3200).mean() < 0.1
    if count == 12:
        assert np.median(found) > 100  # too few to tell: the longest tail


def test_a_handful_of_values_or_equal_ones_leave_the_longest_tail():
    assert largest.shape(expected(9, 1), 120) == 120
    assert largest.shape(np.full((1, 40), 0.5), 120) == 120
    one, same = (largest.limit(values, 120, 10, 0.01) for values in (np.array([0.5]), np.full(40, 0.5)))
    assert 0.5 < same < one < 0.75  # a spread is assumed, and of few values more doubt


@pytest.mark.parametrize(("count", "m"), [(12, 100), (40, 1), (200, 1000)])
def test_so_many_samples_as_promised_have_a_value_beyond_their_limit(count, m):
    """Place, scale and limit all from the sample itself; the chance of one in ten can be counted."""
    samples, draws, chance = 4000, 50, 0.1
    place, scale = largest.fit(drawn(samples, count, m), m)
    beyond = drawn(samples, draws, m, seed=1)[:, -1] > place + largest.reach(count, m, draws, chance) * scale
    assert beyond.mean() == pytest.approx(chance, abs=3 * np.sqrt(chance * (1 - chance) / samples))


def test_many_values_leave_little_doubt_and_more_draws_reach_farther():
    known = float(largest.quantile(np.array(1 - 0.001 / 1000), 100))
    assert known < largest.reach(400, 100, 1000, 0.001) < 1.05 * known
    assert largest.reach(30, 100, 1000, 0.001) > 1.1 * known
    assert largest.reach(30, 100, 10, 0.001) < largest.reach(30, 100, 1000, 0.001)


def test_limits_follow_the_scale_and_place_of_the_values():
    values = drawn(1, 60, 120)[0]
    first, second = largest.limit(values, 120, 500, 0.001), largest.limit(3 + 2 * values, 120, 500, 0.001)
    assert second == pytest.approx(3 + 2 * first)

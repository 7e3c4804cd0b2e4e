"""Intervals, yardsticks, and the paired comparison."""

import dataclasses

import numpy as np
import pytest

from command import UserError
from guided_diffusion.evaluation import comparison, resampling
from guided_diffusion.evaluation.image_sets import Frame


def frames(*maps: str) -> list[Frame]:
    return [Frame(f"{name}_{i}", "", "", name.split("_")[0], name, "") for i, name in enumerate(maps)]


def test_label_maps_of_one_name_but_other_content_are_not_paired():
    unknown = frames("p1", "p2")  # without a manifest nobody knows
    first, second = (
        [dataclasses.replace(frame, label_sha256=digest) for frame, digest in zip(unknown, digests, strict=True)]
        for digests in ("ab", "ac")
    )
    assert all(len(comparison.pair_by_label_map(*pair).patients) == 2 for pair in ((first, first), (first, unknown)))
    with pytest.raises(UserError, match="--compare: 1 label maps of the same name are others .*such as p2"):
        comparison.pair_by_label_map(first, second)


def test_means_by_patient_leave_out_what_is_not_there():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [10.0, 4.0]])
    found = resampling.by_patient(values, ["b", "b", "a"])
    assert found[0].tolist() == [10, 4] and found[1, 0] == 2 and np.isnan(found[1, 1])


def test_every_patient_counts_alike_however_many_frames_it_has():
    values = np.array([0.0, 0, 0, 0, 10])[:, None]
    assert resampling.mean_of(resampling.by_patient(values, list("aaaab")))[0] == 5


def test_a_set_against_itself_differs_by_nothing():
    values = np.random.default_rng(0).normal(size=(50, 3))
    draws = resampling.draw(50, 50, 500, 0)
    for one in resampling.compare_means(values, values, draws):
        assert one.difference == 0 and not one.outside and one.interval[0] < 0 < one.interval[1]
    histograms = np.random.default_rng(0).dirichlet(np.ones(256), (50, 2))
    for one in resampling.histogram_distances(histograms, histograms, draws):
        assert one.difference == 0 and not one.outside


def test_the_interval_and_the_yardstick_are_those_of_normal_means():
    generator = np.random.default_rng(0)
    real, synthetic = generator.normal(0, 1, (400, 1)), generator.normal(0.5, 1, (100, 1))
    (one,) = resampling.compare_means(real, synthetic, resampling.draw(400, 100, 4000, 0))
    half_width = 1.96 * np.hypot(real.std() / 20, synthetic.std() / 10)
    assert one.interval[1] - one.interval[0] == pytest.approx(2 * half_width, rel=0.06)
    assert one.yardstick == pytest.approx(1.96 * 2 * real.std() / 20, rel=0.15)  # two halves of 200
    assert one.outside


def test_wasserstein_of_shifted_grey_levels_is_the_shift():
    shares = np.zeros((20, 1, 256))
    shares[:, 0, 100:110] = 0.1
    (one,) = resampling.histogram_distances(shares, np.roll(shares, 7, -1), resampling.draw(20, 20, 100, 0))
    assert one.difference == pytest.approx(7) and one.yardstick == pytest.approx(0) and one.outside


def test_a_class_that_is_nowhere_is_not_compared():
    nowhere = np.full((5, 1, 256), np.nan)
    (one,) = resampling.histogram_distances(nowhere, nowhere, resampling.draw(5, 5, 100, 0))
    assert np.isnan(one.difference) and not one.outside


def test_the_seed_decides_what_is_drawn():
    first, again, other = (resampling.draw(10, 10, 100, seed).real for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_label_maps_pair_what_is_drawn_for_them_whatever_the_order():
    first, second = frames("p1_0", "p2_0", "p2_0", "p3_0"), frames("p3_0", "p1_0", "p2_0", "p9_0")
    pairing = comparison.pair_by_label_map(first, second)
    assert pairing.patients == ["p1", "p2", "p3"]
    a = pairing.values(0, np.array([[1.0], [2.0], [4.0], [5.0]]))
    b = pairing.values(1, np.array([[5.0], [1.0], [3.0], [99.0]]))
    assert a[:, 0].tolist() == [1, 3, 5] and b[:, 0].tolist() == [1, 3, 5]


def test_the_set_that_is_nearer_to_real_is_told_only_beyond_chance():
    generator = np.random.default_rng(0)
    real = generator.normal(0, 1, (100, 2))
    shared = generator.normal(0, 1, (80, 2))
    near, far = shared + [0.0, 0.0], shared + [3.0, 0.0] + generator.normal(0, 0.3, (80, 2))
    told = comparison.compare_numbers(real, far, near, 500, 0)
    assert [one["closer_to_real"] for one in told] == ["B", "neither"]
    swapped = comparison.compare_numbers(real, near, far, 500, 0)
    assert swapped[0]["closer_to_real"] == "A" and swapped[0]["b_minus_a"] == pytest.approx(3, abs=0.1)
    # Paired: the interval is that of the differences (0.3), not of two sets (1).
    assert np.diff(swapped[0]["interval"])[0] == pytest.approx(2 * 1.96 * 0.3 / np.sqrt(80), rel=0.25)


def test_paired_dice():
    first = np.full((30, 3), 0.8)
    (one, *_) = comparison.compare_dice(first, first + 0.1, 200, 0)
    assert one["b_minus_a"] == pytest.approx(0.1) and one["interval"] == pytest.approx((0.1, 0.1))

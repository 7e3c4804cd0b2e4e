"""Intervals, yardsticks, and the paired comparison."""

import dataclasses

import numpy as np
import pytest

from command import UserError
from guided_diffusion.evaluation import comparison, report, resampling
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
    assert np.isnan(one.difference) and one.outside is None and one.as_dict()["outside"] is None


def test_without_a_yardstick_nothing_is_judged():
    """One real patient shows the class: the difference is there, two halves never are."""
    real = np.full((20, 2), np.nan)
    real[3], real[:, 1] = 5, np.arange(20)
    one, other = resampling.compare_means(real, np.full((20, 2), 90.0), resampling.draw(20, 20, 100, 0))
    assert one.difference == pytest.approx(85) and np.isnan(one.yardstick) and one.outside is None
    assert other.outside is True


def test_the_page_says_what_was_not_judged_and_does_not_count_it(monkeypatch):
    monkeypatch.setattr(report, "sentence", lambda _: "No copies.")
    one = resampling.Difference(1.0, 4.0, 3.0, (2.0, 4.0), 1.0)
    others = [dataclasses.replace(one, **change) for change in ({"yardstick": np.nan}, {"difference": np.nan})]
    rows = {f"class {i}": {"mean": other.as_dict() | {"unit": ""}} for i, other in enumerate([one, *others])}
    told = [line.split(" | ")[-1].rstrip(" |") for line in report.differences_table(rows).splitlines()[2:]]
    assert told == ["**outside**", "not judged", "not there"]
    entry = dict.fromkeys(report.READING, {}) | {"grey_levels": rows, "memorisation": None}
    assert report._summary(entry).startswith("**In short:** 1 of 1 differences are outside the yardstick")


@pytest.mark.parametrize(("real", "synthetic"), [(500, 50), (300, 20), (400, 400)])
def test_as_many_differences_as_promised_are_outside_by_chance(real, synthetic):
    """Of sets of one population: 5 % at most, however few synthetic patients there are."""
    generator, outside, distances_outside = np.random.default_rng(0), [], []
    for seed in range(20):
        draws = resampling.draw(real, synthetic, 100, seed)
        sides = (generator.normal(5, 2, (count, 60)) for count in (real, synthetic))
        outside += [one.outside for one in resampling.compare_means(*sides, draws)]
        sides = (generator.multinomial(30, np.full(256, 1 / 256), (count, 2)) / 30 for count in (real, synthetic))
        distances_outside += [one.outside for one in resampling.histogram_distances(*sides, draws)]
    assert len(outside) == 1200 and sum(outside) <= 0.065 * 1200  # within two standard errors of 5 %
    assert sum(outside) >= 0.035 * 1200 or synthetic == real  # and no more generous than that
    assert sum(distances_outside) <= 6  # of 40


def test_the_yardstick_follows_the_numbers_of_patients():
    values = np.random.default_rng(0).normal(size=(60, 3))
    values[:30, 2] = np.nan
    draws = resampling.draw(60, 5, 100, 0)
    halves = np.abs(np.subtract(*(resampling.weighted_means(half, values) for half in draws.halves)))
    plain = np.array([resampling.upper(halves[:, k]) for k in range(3)])

    def scales(synthetic: np.ndarray) -> np.ndarray:
        drawn = dataclasses.replace(draws, synthetic=np.full((100, len(synthetic)), 1 / len(synthetic)))
        return np.array([one.yardstick for one in resampling.compare_means(values, synthetic, drawn)]) / plain

    few = np.ones((5, 3))
    few[0, 1] = np.nan  # 60 against 5, 60 against 4, and 30 against 5
    assert scales(few) == pytest.approx(np.sqrt([(1 + 12) / 4, (1 + 15) / 4, (1 + 6) / 4]))
    for count in (20, 60, 500):  # a third as many, as many, many more: as the halves are
        assert scales(np.ones((count, 3))).tolist() == [1, 1, 1]


def test_the_seed_decides_what_is_drawn():
    first, again, other = (resampling.draw(10, 10, 100, seed).real for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_label_maps_pair_what_is_drawn_for_them_whatever_the_order():
    first, second = frames("p1_0", "p2_0", "p2_0", "p3_0"), frames("p3_0", "p1_0", "p2_0", "p9_0")
    pairing = comparison.pair_by_label_map(first, second)
    assert pairing.patients == ["p1", "p2", "p3"]
    a, b = pairing.values(np.array([[1.0], [2.0], [4.0], [5.0]]), np.array([[5.0], [1.0], [3.0], [99.0]]))
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


def test_what_is_undefined_in_one_set_is_left_out_of_both():
    """A's second map shows no atrium; in B it is 3 larger in each: without pairing the sets would differ by 53."""
    first, second = frames("p1_0", "p1_1", "p2_0", "p3_0"), frames("p1_0", "p1_1", "p2_0", "p3_0")
    pairing = comparison.pair_by_label_map(first, second)
    a = np.array([[10.0], [np.nan], [20.0], [np.nan]])
    b = np.array([[13.0], [103.0], [23.0], [203.0]])
    one, other = pairing.values(a, b)
    assert one[:2, 0].tolist() == [10, 20] and other[:2, 0].tolist() == [13, 23] and np.isnan([one[2], other[2]]).all()
    (told,) = comparison.compare_numbers(np.full((5, 1), 15.0), one, other, 100, 0)
    assert (told["a"], told["b"], told["b_minus_a"], told["interval"]) == (15, 18, 3, (3, 3))
    (dice,) = comparison.compare_dice(*pairing.values(b / 300, a / 300), 100, 0)
    assert dice["b"] - dice["a"] == pytest.approx(dice["b_minus_a"]) and dice["a"] == pytest.approx(18 / 300)


def test_which_set_is_nearer_is_not_judged_of_what_is_not_there():
    nowhere = np.full((5, 1), np.nan)
    for real, made in ((np.ones((5, 1)), nowhere), (nowhere, np.ones((5, 1)))):
        (told,) = comparison.compare_numbers(real, made, made, 100, 0)
        assert told["closer_to_real"] is None
    shares = np.full((5, 1, 256), np.nan)
    assert comparison.compare_histograms(shares, shares, shares, 100, 0)[0]["closer_to_real"] is None


def test_paired_dice():
    first = np.full((30, 3), 0.8)
    (one, *_) = comparison.compare_dice(first, first + 0.1, 200, 0)
    assert one["b_minus_a"] == pytest.approx(0.1) and one["interval"] == pytest.approx((0.1, 0.1))

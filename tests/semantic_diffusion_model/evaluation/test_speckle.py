"""Texture measures against closed forms."""

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter1d

from dataset_description import camus
from guided_diffusion.evaluation import speckle
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.frame_numbers import BANDS, band_powers, frame_numbers, grey_histograms, quantities

LEVELS = np.arange(256)
CAMUS = Classes(camus())


def counts_of(grey: np.ndarray) -> np.ndarray:
    return np.bincount(grey.astype(int).ravel(), minlength=256)


@pytest.mark.parametrize(("m", "omega"), [(0.4, 0.02), (1.0, 0.01), (2.5, 0.05)])
def test_nakagami_parameters_come_back_from_drawn_grey_levels(m, omega):
    drawn = stats.nakagami.rvs(m, scale=np.sqrt(omega), size=200_000, random_state=1)
    decibels = 20 * np.log10(drawn)
    grey = np.rint((decibels / 100 + 1) * 255).clip(0, 255)
    found_m, found_omega = speckle.nakagami(counts_of(grey), speckle.envelope(100.0))
    assert found_m == pytest.approx(m, rel=0.02)
    assert found_omega == pytest.approx(omega, rel=0.02)


def test_nakagami_is_the_maximum_likelihood_of_scipy():
    amplitudes = stats.nakagami.rvs(0.8, scale=2.0, size=500, random_state=2)
    m, omega = speckle.nakagami(np.ones(500), amplitudes)
    shape, _, scale = stats.gamma.fit(amplitudes**2, floc=0)
    assert m == pytest.approx(shape, rel=1e-4)
    assert omega == pytest.approx(shape * scale, rel=1e-4)


def test_nakagami_of_one_level_or_too_few_pixels_is_not_defined():
    for counts in (np.eye(256)[100] * 500, np.eye(256)[100] * 5 + np.eye(256)[90] * 5):
        assert np.isnan(speckle.nakagami(counts, speckle.envelope(60.0))[0])


def test_the_envelope_undoes_the_compression():
    amplitudes = speckle.envelope(60.0)
    assert amplitudes[255] == 1 and 20 * np.log10(amplitudes[0]) == pytest.approx(-60)


def test_contrast_of_normal_grey_levels():
    draw = np.random.default_rng(0).normal
    cavity, wall = counts_of(draw(60, 8, 100_000)), counts_of(draw(100, 6, 100_000))
    assert speckle.contrast_to_noise(cavity, wall) == pytest.approx(4.0, rel=0.02)
    assert speckle.contrast_to_noise(wall, cavity) == pytest.approx(-4.0, rel=0.02)


def test_generalised_contrast_of_uniform_grey_levels_is_the_share_that_does_not_overlap():
    cavity, wall = (np.isin(LEVELS, range(low, low + 128)) for low in (0, 32))
    assert speckle.generalised_contrast(1000 * cavity, 1000 * wall) == pytest.approx(0.25)
    assert speckle.generalised_contrast(1000 * cavity, 1000 * cavity) == pytest.approx(0)
    assert speckle.generalised_contrast(1000 * (LEVELS < 128), 1000 * (LEVELS >= 128)) == pytest.approx(1)


@pytest.mark.parametrize("axis", [0, 1])
def test_correlation_length_of_filtered_noise(axis):
    sigma = 3.0
    noise = np.random.default_rng(0).normal(size=(400, 400))
    field = gaussian_filter1d(gaussian_filter1d(noise, sigma, axis), 1.5, 1 - axis)
    mask = np.hypot(*np.mgrid[-200:200, -200:200]) < 190
    # Noise filtered by a Gaussian has the autocorrelation exp(-lag^2 / (4 sigma^2)).
    assert speckle.correlation_length(field, mask, axis) == pytest.approx(2 * sigma * np.sqrt(np.log(2)), rel=0.04)
    assert speckle.correlation_length(field, mask, 1 - axis) == pytest.approx(3.0 * np.sqrt(np.log(2)), rel=0.04)


def test_correlation_length_of_white_noise_is_half_a_pixel_whatever_the_slope():
    noise = np.random.default_rng(0).normal(size=(100, 100))
    slope = np.add.outer(3 * np.arange(100), 5 * np.arange(100))
    mask = np.ones((100, 100), bool)
    assert speckle.correlation_length(noise + slope, mask, 0) == pytest.approx(0.5, abs=0.02)


def test_correlation_length_ignores_what_lies_outside_the_mask():
    field = np.random.default_rng(0).normal(size=(60, 60))
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    changed = np.where(mask, field, 1000.0)
    assert speckle.correlation_length(changed, mask, 1) == speckle.correlation_length(field, mask, 1)


def test_correlation_length_of_a_flat_or_tiny_region_is_not_defined():
    assert np.isnan(speckle.correlation_length(np.full((9, 9), 5.0), np.ones((9, 9), bool), 0))
    assert np.isnan(speckle.correlation_length(np.eye(3), np.ones((3, 3), bool), 0))


def test_the_spectrum_of_a_wave_lies_at_its_frequency():
    cycles = 20
    wave = 100 + 50 * np.cos(2 * np.pi * cycles * np.arange(64) / 64)[None, :].repeat(64, 0)
    spectrum = speckle.radial_spectrum(wave[None], np.ones((1, 64, 64), bool))[0]
    assert spectrum.sum() == pytest.approx(1) and spectrum.argmax() == cycles
    assert spectrum[cycles] == pytest.approx(1)
    powers = band_powers(spectrum[None])[0]
    assert powers[3] == pytest.approx(0, abs=1e-6)  # 20 / 64 is in the highest octave
    assert not np.nan_to_num(powers[:3], nan=-np.inf).max() > -100


def test_white_noise_has_equal_power_at_each_frequency():
    noise = np.random.default_rng(0).normal(size=(8, 128, 128))
    powers = band_powers(speckle.radial_spectrum(noise, np.ones(noise.shape, bool))).mean(0)
    areas = np.array([high**2 - low**2 for low, high in BANDS])
    assert powers == pytest.approx(10 * np.log10(areas / areas.sum()), abs=0.4)


def test_the_numbers_of_a_frame_are_those_of_its_pixels():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (1, 40, 40)).astype(np.uint8)  # no atrium
    images = generator.integers(1, 255, (1, 40, 40)).astype(np.uint8)
    row = dict(
        zip(
            [(q.section, q.row, q.key) for q in quantities(CAMUS)],
            frame_numbers(images, labels, CAMUS, 60.0)[0],
            strict=True,
        )
    )
    cavity = images[labels == 1].astype(float)
    assert row["grey_levels", "lv_cavity", "mean"] == pytest.approx(cavity.mean())
    assert row["grey_levels", "lv_cavity", "sd"] == pytest.approx(cavity.std())
    assert row["speckle", "lv_cavity", "black"] == 0
    assert np.isnan(row["grey_levels", "left_atrium", "mean"]) and np.isnan(
        row["autocorrelation", "left_atrium", "depth"]
    )
    assert grey_histograms(images, labels, CAMUS).sum() == 1600


def test_black_pixels_are_counted_and_not_fitted():
    generator = np.random.default_rng(0)
    labels = np.ones((2, 40, 40), np.uint8)
    images = generator.integers(50, 200, (2, 40, 40)).astype(np.uint8)
    images[1, :10] = 0
    images[0, :10] = images[1, 10:20] = images[0, 10:20]
    names = [(q.row, q.key) for q in quantities(CAMUS)]
    numbers = frame_numbers(images, labels, CAMUS, 60.0)
    assert numbers[1, names.index(("lv_cavity", "black"))] == pytest.approx(0.25)
    m = numbers[:, names.index(("lv_cavity", "nakagami_m"))]
    assert m[1] == pytest.approx(m[0], rel=0.1)

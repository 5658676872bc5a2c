"""Noise and random numbers: moments against SciPy, streams against NumPy."""

import numpy as np
import pytest
from scipy import stats

from ssvi_jax import corruptions
from ssvi_jax.data.corruptions.draws import Draws

LEVEL, NUM_IMAGES = 120, 50
IMAGES = np.full((NUM_IMAGES, 32, 32, 3), LEVEL, np.uint8)
SEVERITIES = list(enumerate(corruptions.SEVERITIES))


def check_moments(values, mean, variance, fourth):
    """Mean and variance of independent draws, within five standard errors."""
    count = values.size
    assert abs(values.mean() - mean) < 5 * np.sqrt(variance / count)
    error = np.sqrt((fourth - variance**2) / count)
    assert abs(values.var() - variance) < 5 * error


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
def test_normal_noise_has_its_moments(name, i, severity):
    stds = {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "speckle_noise": np.array([0.06, 0.1, 0.12, 0.16, 0.2]) * LEVEL / 255,
    }
    std = 255 * stds[name][i]
    out = corruptions.corrupt(IMAGES, name, severity, seed=0).astype(float)
    # A cut normal: P(level) is a difference of the distribution function.
    levels = np.arange(256.0)
    below = stats.norm.cdf([*levels, np.inf], LEVEL, std)
    below[[0, -1]] = 0, 1
    check_against(out, levels, np.diff(below))


def check_against(out, levels, probability):
    mean = (levels * probability).sum()
    variance, fourth = (((levels - mean) ** k * probability).sum() for k in (2, 4))
    check_moments(out, mean, variance, fourth)


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_shot_noise_is_poisson(i, severity):
    photons = (500, 250, 100, 75, 50)[i]
    out = corruptions.corrupt(IMAGES, "shot_noise", severity, seed=0).astype(float)
    counts = np.arange(5 * photons)
    levels = np.floor(np.minimum(counts / photons, 1.0) * 255.0)
    check_against(out, levels, stats.poisson.pmf(counts, LEVEL / 255 * photons))


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_impulse_noise_is_half_salt_and_half_pepper(i, severity):
    fraction = (0.01, 0.02, 0.03, 0.05, 0.07)[i]
    out = corruptions.corrupt(IMAGES, "impulse_noise", severity, seed=0)
    assert set(np.unique(out)) == {0, LEVEL, 255}
    for extreme in (0, 255):
        expected = fraction / 2 * out.size
        assert abs((out == extreme).sum() - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]
)
def test_values_are_independent(name):
    out = corruptions.corrupt(IMAGES, name, 5, seed=0).astype(float)
    for axis in range(4):
        first, second = (
            np.take(out, range(start, out.shape[axis] - 1 + start), axis).ravel()
            for start in (0, 1)
        )
        limit = 5 / np.sqrt(first.size)
        assert abs(np.corrcoef(first, second)[0, 1]) < limit


@pytest.mark.parametrize("name", ["shot_noise", "speckle_noise"])
def test_black_has_no_noise_that_depends_on_light(name):
    black = np.zeros((2, 8, 8, 3), np.uint8)
    assert not corruptions.corrupt(black, name, 5, seed=0).any()


# Draws -------------------------------------------------------------------------------


def test_streams_are_philox_with_the_image_in_the_counter():
    numbers = Draws(3, "test", np.array([0, 5])).integers(2**32, (4,))
    again = Draws(3, "test", np.array([5])).integers(2**32, (4,))
    np.testing.assert_array_equal(again[0], numbers[1])
    assert not np.isin(numbers[0], numbers[1]).any()


def test_a_stream_continues_from_call_to_call():
    draws = Draws(0, "test", np.arange(3))
    first, second = draws.uniform(0, 1, (2,)), draws.uniform(0, 1, (3,))
    whole = Draws(0, "test", np.arange(3)).uniform(0, 1, (5,))
    np.testing.assert_array_equal(np.hstack([first, second]), whole)


def test_seed_and_purpose_both_decide():
    rows = np.arange(4)
    drawn = [
        Draws(seed, purpose, rows).uniform(0, 1).tobytes()
        for seed in (0, 1, 2**62 - 1)
        for purpose in ("fog 1", "fog 2")
    ]
    assert len(set(drawn)) == 6


def test_far_numbers_have_streams_of_their_own():
    rows = np.array([0, 1, 2**32, 2**62, 2**62 + 1])
    assert len(set(Draws(0, "test", rows).uniform(0, 1).tolist())) == 5


def test_each_kind_of_draw_has_its_distribution():
    draws = Draws(0, "test", np.arange(2000))
    uniform, normal = draws.uniform(-2, 3), draws.normal(4, 0.5)
    integers, poisson = draws.integers(6), draws.poisson(np.full(2000, 2.5))
    assert stats.kstest(uniform, stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert stats.kstest(normal, stats.norm(4, 0.5).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(integers, minlength=6)).pvalue > 1e-3
    observed = np.bincount(np.minimum(poisson, 7), minlength=8)
    expected = 2000 * stats.poisson.pmf(np.arange(8), 2.5)
    expected[7] = 2000 - expected[:7].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-3

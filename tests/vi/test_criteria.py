"""Removal scores against simulation, quadrature, closed forms and their symmetries."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi.criteria import ADDITION, REMOVAL, removal_scores

LARGEST = np.finfo(np.float64).max
NAMES = sorted(REMOVAL)


def score(name, mean, sigma, lam=1.0):
    return float(removal_scores(name, np.array([mean]), np.array([sigma]), lam)[0])


def test_registry_names():
    assert set(REMOVAL) == {
        *("mean", "snr", "abs_mean", "abs_snr", "exp_abs_mean", "exp_abs_snr")
    }
    assert set(ADDITION) == {"gradient", "random"}


# ------------------------------------------------------------------- against oracles


def estimate_mean(x):
    return x.mean(), x.std() / np.sqrt(x.size)


def estimate_snr(x):
    """Mean over standard deviation with its standard error (delta method)."""
    mean, std = x.mean(), x.std()
    centred = (x - mean) / std
    influence = centred - mean / (2 * std) * (centred**2 - 1)
    return mean / std, influence.std() / np.sqrt(x.size)


@pytest.mark.parametrize(
    ("mean", "sigma", "lam"),
    [
        (0.0, 0.3, 1.0),
        (0.01, 0.02, 20.0),
        (-0.5, 0.4, 0.7),
        (2.0, 1.0, 0.3),
        (-0.03, 0.001, 5.0),
    ],
)
def test_scores_agree_with_a_million_samples(mean, sigma, lam):
    theta = np.random.default_rng(5).normal(mean, sigma, 1_000_000)
    size, exp_size = np.abs(theta), np.exp(lam * np.abs(theta))
    sign = -1 if mean < 0 else 1  # abs(μ) is estimated by sign(μ) times the average
    estimates = {
        "mean": estimate_mean(sign * theta),
        "snr": estimate_snr(sign * theta),
        "abs_mean": estimate_mean(size),
        "abs_snr": estimate_snr(size),
        "exp_abs_mean": estimate_mean(exp_size),
        "exp_abs_snr": estimate_snr(exp_size),
    }
    for name, (estimate, error) in estimates.items():
        assert abs(score(name, mean, sigma, lam) - estimate) < 4 * error, name


@pytest.mark.parametrize("lam", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e-3, 0.05, 0.0999, 0.1001, 0.5, 4.0])
def test_scores_agree_with_quadrature_at_extreme_values(unit, lam):
    sigma = unit / lam
    for ratio in (0, 1e-9, 1e-3, 0.3, 1.0, 1.7, 3.0, 5.5, 8.0, 11.0, 40.0, 1e4):
        mean = -ratio * sigma
        expected = oracles.removal_scores(mean, sigma, lam)
        for name in REMOVAL:
            got = score(name, mean, sigma, lam)
            wanted = min(expected[name], LARGEST)
            # abs(θ) − E abs(θ) itself has that relative error in float64
            tolerance = 2e-12 * max(1.0, ratio / 100, expected["log_exp_abs_mean"])
            assert got == pytest.approx(wanted, rel=tolerance), (name, ratio)


def test_scores_agree_with_the_documented_closed_forms():
    rng = np.random.default_rng(0)
    mean, sigma, lam = rng.normal(size=500), rng.uniform(0.3, 2, 500), 0.8
    phi, exp = special.ndtr, np.exp

    def exp_abs(lam):
        return exp(lam**2 * sigma**2 / 2) * (
            exp(lam * mean) * phi(mean / sigma + lam * sigma)
            + exp(-lam * mean) * phi(-mean / sigma + lam * sigma)
        )

    size = mean * special.erf(mean / sigma / np.sqrt(2)) + sigma * np.sqrt(
        2 / np.pi
    ) * exp(-(mean**2) / (2 * sigma**2))
    expected = {
        "mean": np.abs(mean),
        "snr": np.abs(mean) / sigma,
        "abs_mean": size,
        "abs_snr": size / np.sqrt(sigma**2 + mean**2 - size**2),
        "exp_abs_mean": exp_abs(lam),
        "exp_abs_snr": exp_abs(lam) / np.sqrt(exp_abs(2 * lam) - exp_abs(lam) ** 2),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(
            removal_scores(name, mean, sigma, lam), wanted, rtol=1e-10, err_msg=name
        )


def test_known_values():
    # half-normal: mean sqrt(2/π), variance 1 − 2/π
    assert score("abs_mean", 0.0, 3.0) == pytest.approx(3 * np.sqrt(2 / np.pi))
    assert score("abs_snr", 0.0, 1e-9) == pytest.approx(1 / np.sqrt(np.pi / 2 - 1))
    # E e^{|z|} = 2 e^{1/2} Φ(1) for z ~ N(0, 1)
    assert score("exp_abs_mean", 0.0, 1.0) == pytest.approx(
        2 * np.exp(0.5) * special.ndtr(1.0)
    )


# ---------------------------------------------------------------------------- limits


def test_limits_at_sigma_zero():
    assert score("mean", -2.0, 0.0) == 2.0
    assert score("abs_mean", -2.0, 0.0) == 2.0
    assert score("exp_abs_mean", -2.0, 0.0) == pytest.approx(np.exp(2.0))
    assert score("snr", -2.0, 0.0) == LARGEST
    assert score("abs_snr", -2.0, 0.0) == LARGEST
    assert score("exp_abs_snr", -2.0, 0.0) == pytest.approx(1e150)
    # at μ = 0 the ratios of abs(θ) do not depend on σ
    assert score("snr", 0.0, 0.0) == 0.0
    assert score("abs_snr", 0.0, 0.0) == score("abs_snr", 0.0, 1.0)
    assert score("abs_mean", 0.0, 0.0) == 0.0


def test_saturation_instead_of_overflow():
    assert score("exp_abs_mean", 710.0, 1.0) == LARGEST
    assert score("exp_abs_mean", 700.0, 1.0) == pytest.approx(np.exp(700.5))
    assert score("exp_abs_snr", 0.1, 1.0, 100.0) == 0.0
    assert score("exp_abs_snr", 0.1, 1.0, 30.0) > 0.0


# ------------------------------------------------------------------------ properties

property_test = settings(deadline=None, derandomize=True, max_examples=200)
anything = st.floats(allow_nan=False, allow_infinity=False)
sigmas = st.floats(0, allow_infinity=False, allow_nan=False)
lams = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
usual_mean, usual_sigma = st.floats(-3, 3), st.floats(1e-6, 3)


@pytest.mark.parametrize("name", NAMES)
@property_test
@given(mean=anything, sigma=sigmas, lam=lams)
def test_scores_are_finite_and_even(name, mean, sigma, lam):
    value = score(name, mean, sigma, lam)
    assert 0 <= value < np.inf
    assert value == score(name, -mean, sigma, lam)


@pytest.mark.parametrize("name", NAMES)
@property_test
@given(mean=usual_mean, sigma=usual_sigma, scale=st.floats(1e-3, 1e3))
def test_scores_scale_with_the_weights(name, mean, sigma, scale):
    """λ·θ has no unit, so scaling θ and 1/λ leaves ratios and exponentials alone."""
    unit = scale if name in ("mean", "abs_mean") else 1.0
    scaled = score(name, scale * mean, scale * sigma, 1 / scale)
    assert scaled == pytest.approx(unit * score(name, mean, sigma), rel=1e-9)


@pytest.mark.parametrize("name", ["mean", "snr", "abs_mean", "abs_snr", "exp_abs_mean"])
@property_test
@given(means=st.tuples(usual_mean, usual_mean), sigma=usual_sigma)
def test_scores_grow_with_the_mean(name, means, sigma):
    small, large = sorted(means, key=abs)
    assert score(name, small, sigma) <= score(name, large, sigma) * (1 + 1e-12)


@pytest.mark.parametrize("name", ["snr", "abs_snr", "exp_abs_snr"])
@property_test
@given(mean=usual_mean, sigmas=st.tuples(usual_sigma, usual_sigma))
def test_ratios_fall_with_sigma(name, mean, sigmas):
    small, large = sorted(sigmas)
    assert score(name, mean, small) >= score(name, mean, large) * (1 - 1e-12)


def test_exp_abs_snr_tends_to_the_inverse_spread_for_small_lam():
    mean, sigma, lam = np.array([0.0, 0.02, 3.0]), np.array([0.1, 0.2, 0.3]), 1e-9
    size = removal_scores("abs_mean", mean, sigma)
    spread = size / removal_scores("abs_snr", mean, sigma)
    np.testing.assert_allclose(
        removal_scores("exp_abs_snr", mean, sigma, lam), 1 / (lam * spread), rtol=1e-7
    )


# ------------------------------------------------------------------ shapes and errors


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_jax_arrays(name):
    mean, sigma = np.linspace(-1, 1, 6), np.linspace(0.01, 0.4, 6)
    flat = removal_scores(name, mean, sigma)
    assert flat.dtype == np.float64
    np.testing.assert_array_equal(
        removal_scores(name, mean.reshape(2, 3), sigma.reshape(2, 3)),
        flat.reshape(2, 3),
    )
    assert removal_scores(name, mean[0], sigma[0]).shape == ()
    assert removal_scores(name, mean[:0], sigma[:0]).shape == (0,)
    single = removal_scores(name, jnp.asarray(mean), jnp.asarray(sigma))
    np.testing.assert_allclose(single, flat, rtol=1e-5)


def test_inputs_are_not_changed():
    mean, sigma = np.array([-1.0, 2.0]), np.array([0.5, 0.1])
    for name in NAMES:
        removal_scores(name, mean, sigma)
    np.testing.assert_array_equal(mean, [-1.0, 2.0])
    np.testing.assert_array_equal(sigma, [0.5, 0.1])


@pytest.mark.parametrize(
    ("name", "mean", "sigma", "lam", "message"),
    [
        ("magnitude", [1.0], [1.0], 1.0, "removal: got 'magnitude', allowed: abs_mean"),
        ("snr", [1.0, 2.0], [1.0], 1.0, r"shape \(2,\) and sigma \(1,\)"),
        ("snr", [np.nan], [1.0], 1.0, "mean: got 1 of 1 entries that are not finite"),
        ("snr", [1.0], [np.inf], 1.0, "sigma: got 1 of 1 entries that are not finite"),
        ("snr", [1.0], [-0.5], 1.0, "sigma: got -0.5.*softplus"),
        ("snr", [1.0], [1.0], 0.0, "lam: got 0.0"),
        ("snr", [1.0], [1.0], np.nan, "lam: got nan"),
    ],
)
def test_bad_input(name, mean, sigma, lam, message):
    with pytest.raises(InputError, match=message):
        removal_scores(name, mean, sigma, lam)

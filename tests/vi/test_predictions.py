"""Predictions at the edges: probabilities, rates and noise that round to 0, 1 or ∞."""

import jax
import numpy as np
import pytest
from scipy.special import expit, ndtri
from scipy.stats import poisson
from sklearn.metrics import r2_score

from ssvi_jax.core.types import Weights
from ssvi_jax.metrics import scores
from ssvi_jax.vi import predictions
from ssvi_jax.vi.likelihoods import Bernoulli, Categorical
from ssvi_jax.vi.predictions import Binary, Counts, Regression


def binary(*logits):
    """Of one pass, as `predict` makes it."""
    samples = np.array([logits], np.float32)
    return predictions._binary(samples, lambda key: iter(samples))


@pytest.mark.parametrize("logit", [0.3, 16.0, 18.0, 20.0, 50.0, 90.0])
def test_a_confidently_wrong_binary_prediction_costs_its_logit(logit):
    found = binary(logit, -logit)
    assert scores.nll(found, np.array([0, 1])) == pytest.approx(
        np.logaddexp(0, logit), rel=1e-6
    )


def test_both_probabilities_are_averages_over_the_passes():
    logits = np.array([[-30.0, 2.0], [-40.0, -1.0]], np.float32)
    found = predictions._binary(logits, lambda key: iter(logits[:1]))
    ones = (1 / (1 + np.exp(-logits.astype(np.float64)))).mean(axis=0)
    assert isinstance(found, Binary)
    np.testing.assert_allclose(found.class_probs[:, 1], ones, rtol=1e-6)
    np.testing.assert_allclose(found.class_probs.sum(axis=-1), 1.0, rtol=1e-12)


def test_intervals_of_counts_end_for_any_rate():
    rates = np.array([[0.0, 3.0, 1e6, 1e15, 1e30, np.inf]], np.float32)
    low, high = Counts(rates).interval(0.9)
    want = poisson.ppf([[0.05], [0.95]], rates[0, :3].astype(np.float64))
    np.testing.assert_array_equal(low[:3], want[0])
    np.testing.assert_array_equal(high[:3], want[1])
    normal = float(rates[0, 3]) + np.array([-1.6449, 1.6449]) * np.sqrt(1e15)
    np.testing.assert_allclose([low[3], high[3]], normal, rtol=1e-11)
    assert 0.999e30 < low[4] <= high[4] < 1.001e30
    assert low[5] == high[5] == np.inf


def test_one_infinite_rate_of_ten_is_only_the_upper_end():
    rates = np.full((10, 1), 4.0, np.float32)
    rates[0] = np.inf
    low, high = Counts(rates).interval(0.9)
    assert (low[0], high[0]) == (1.0, np.inf)


def test_no_count_has_a_log_probability_of_nan():
    found = Counts(np.array([[0.0, 0.0, np.inf, 2.0]] * 2, np.float32))
    want = [0.0, -np.inf, -np.inf, poisson.logpmf(3, 2.0)]
    np.testing.assert_allclose(found.log_prob(np.array([0, 1, 1, 3])), want, rtol=1e-6)


def test_rates_that_overflow_are_infinite():
    assert predictions._rates(np.array([90.0], np.float32))[0] == np.inf


def test_noise_that_rounds_to_0_leaves_a_density():
    found = Regression(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    right, wrong = found.log_prob(np.array([0.0, 1.0]))
    assert np.isfinite([right, wrong]).all()
    assert right > 0 > wrong


def test_r2_is_of_every_target_by_itself():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(50, 3)) + np.array([0.0, 1000.0, -5.0])
    means = y + rng.normal(size=y.shape) * np.array([0.1, 0.5, 2.0])
    found = Regression(means[None].astype(np.float32), np.ones((1, 50, 3), np.float32))
    want = r2_score(y, means)
    assert scores.score(found, y)["r2"] == pytest.approx(want, abs=1e-4)


def as_it_is(params, model_state, x, *, train, key, kernels=None):
    """A network whose output is its input."""
    del params, train, key, kernels
    return x, model_state


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["mean", "drawn"])
def test_one_logit_is_scored_as_two_classes_are(key):
    z = np.array([[-20.0], [18.0], [-17.0], [2.0], [0.3], [-80.0]], np.float32)
    y, nothing = np.array([1, 0, 1, 1, 0, 1]), Weights({}, {}, {})
    one = predictions.predict(Bernoulli(), as_it_is, nothing, {}, z, key=key)
    two = predictions.predict(
        Categorical(), as_it_is, nothing, {}, np.hstack([0 * z, z]), key=key
    )
    assert scores.score(one, y) == pytest.approx(scores.score(two, y), rel=1e-6)
    assert scores.nll(one, y) == pytest.approx(
        np.logaddexp(0, [20.0, 18.0, 17.0, -2.0, 0.3, 80.0]).mean(), rel=1e-6
    )


def test_a_binary_prediction_is_never_certain_by_rounding():
    found = binary(-90.0, 18.0, 30.0)
    want = expit([-90.0, 18.0, 30.0])
    for probs in (found.probs, found.mean_probs, found.sample_probs[0]):
        np.testing.assert_allclose(probs, want, rtol=1e-15)
        assert (probs < 1).all()
    assert (found.entropy > 0).all()


def test_intervals_of_noise_that_rounds_to_0():
    means = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 5.0]], np.float32)
    stds = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], np.float32)
    low, high = Regression(means, stds).interval(0.8)
    # Two thirds are at 0: the rest of 0.9 is 0.7 of the normal around 5.
    np.testing.assert_allclose(low, [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(high, [1.0, 5 + ndtri(0.7)], rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.25], ids=["exact", "missed"])
def test_r2_of_constant_and_of_far_targets_is_that_of_scikit_learn(offset):
    varied = np.array([0.0, 1.0, -1.0, 0.0])
    y = np.stack([varied, 1000 + varied, np.full(4, 2.0)], axis=1)
    means = np.tile([0.0, 1000.0, 2.0 + offset], (4, 1))
    found = Regression(means[None].astype(np.float32), np.ones((1, 4, 3), np.float32))
    assert scores.score(found, y)["r2"] == pytest.approx(r2_score(y, means), abs=1e-12)


def test_equal_targets_whose_variance_rounds_to_more_than_0_are_constant():
    y = np.full(3, 0.1)
    assert y.var() > 0
    found = Regression(np.full((1, 3), 0.2, np.float32), np.ones((1, 3), np.float32))
    assert scores.score(found, y)["r2"] == 0.0

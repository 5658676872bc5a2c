import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics.uncertainty import (
    entropy,
    logit_disagreement,
    uncertainty,
    uncertainty_from_entropies,
)


def sample_probs(seed, num_samples=5, n=8, num_classes=4, scale=3.0):
    logits = scale * np.random.default_rng(seed).normal(
        size=(num_samples, n, num_classes)
    )
    z = np.exp(logits)
    return z / z.sum(axis=-1, keepdims=True)


def loop_entropy(row):
    return -sum(p * math.log(p) for p in row if p > 0)


def test_entropy_by_hand():
    got = entropy([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(got, [0, math.log(2), math.log(3)], atol=1e-15)


def test_agrees_with_plain_loops():
    samples = sample_probs(0)
    total, expected, information = uncertainty(samples)
    for i in range(samples.shape[1]):
        rows = samples[:, i].tolist()
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        inside = sum(map(loop_entropy, rows)) / len(rows)
        assert total[i] == pytest.approx(loop_entropy(mean), abs=1e-12)
        assert expected[i] == pytest.approx(inside, abs=1e-12)
        # Mutual information is also the mean KL of the samples to their average.
        kl = [
            sum(p * math.log(p / m) for p, m in zip(row, mean, strict=True))
            for row in rows
        ]
        assert information[i] == pytest.approx(sum(kl) / len(kl), abs=1e-12)


def test_disagreement_and_agreement_at_their_extremes():
    # Two certain samples that contradict each other: all of log 2 is epistemic.
    total, expected, information = uncertainty([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert total == pytest.approx(math.log(2))
    assert expected == 0
    assert information == pytest.approx(math.log(2))
    # Equal samples: nothing is.
    same = uncertainty(np.repeat(sample_probs(1, num_samples=1), 3, axis=0))
    np.testing.assert_allclose(same.mutual_information, 0, atol=1e-15)
    assert (same.mutual_information >= 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_stored_entropies_give_the_same_within_bounds(seed, num_samples, num_classes):
    samples = sample_probs(seed, num_samples, num_classes=num_classes)
    want = uncertainty(samples)
    stored = entropy(samples).astype(np.float32)
    got = uncertainty_from_entropies(samples.mean(axis=0).astype(np.float32), stored)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert (a >= -1e-6).all()
        assert (a <= math.log(num_classes) + 1e-6).all()
    assert (got.mutual_information >= 0).all()


def contradicting():
    """Two samples ``[S, 1, 2]``, averaged logits, and the entropies, by hand."""
    samples = np.array([[[0.99, 0.01]], [[0.2, 0.8]]])
    logits = np.log(samples).mean(axis=0)
    averaged = np.exp(logits) / np.exp(logits).sum()
    each = [[loop_entropy([0.99, 0.01])], [loop_entropy([0.2, 0.8])]]
    return samples, averaged, np.array(each), loop_entropy([0.595, 0.405])


def test_averaged_logits_have_the_information_of_averaged_probabilities():
    samples, averaged, each, mixture = contradicting()
    total, expected, information = uncertainty_from_entropies(averaged, each, [mixture])
    assert total == pytest.approx(loop_entropy(averaged[0].tolist()), abs=1e-12)
    assert expected == pytest.approx(each.mean(), abs=1e-12)
    assert information == pytest.approx(mixture - each.mean(), abs=1e-12)
    assert information == pytest.approx(uncertainty(samples).mutual_information)
    # The logarithms' mean leans to the surer sample, and is surer than both on average.
    surer = [[[0.999, 0.001]], [[0.4, 0.6]]]
    logits = np.log(surer).mean(axis=0)
    averaged = np.exp(logits) / np.exp(logits).sum()
    each = entropy(surer)
    with pytest.raises(InputError, match=r"no average of probabilities .* of averaged"):
        uncertainty_from_entropies(averaged, each)
    mixed = entropy(np.mean(surer, axis=0))
    found = uncertainty_from_entropies(averaged, each, mixed)
    assert found.predictive_entropy < found.expected_entropy
    assert found.mutual_information > 0.1


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([0.1, 0.2], r"mixture_entropy: got shape \(2,\), allowed: \(1,\)"),
        ([math.nan], r"mixture_entropy: got nan, allowed: 0 to log\(2\)"),
        ([0.8], r"mixture_entropy: got 0.8, allowed: 0 to log\(2\)"),
        ([0.1], "sample_entropy: its mean is above"),
    ],
)
def test_mixture_entropies_that_do_not_fit_are_refused(mixture, message):
    _, averaged, each, _ = contradicting()
    with pytest.raises(InputError, match=message):
        uncertainty_from_entropies(averaged, each, mixture)


def test_logit_disagreement_by_hand():
    # Of two samples half the distance, of equal ones nothing.
    got = logit_disagreement([[1.0, 5.0, -2.0], [4.0, 5.0, 2.0]])
    np.testing.assert_allclose(got, [1.5, 0.0, 2.0])
    rng = np.random.default_rng(0)
    odds = rng.normal(size=(7, 4))
    for column, value in zip(odds.T.tolist(), logit_disagreement(odds), strict=True):
        mean = sum(column) / 7
        square = sum((odd - mean) ** 2 for odd in column) / 7
        assert value == pytest.approx(math.sqrt(square), abs=1e-14)
    assert logit_disagreement(odds.astype(np.float32)).dtype == np.float64


def test_logit_disagreement_sees_what_mutual_information_cannot():
    # Both samples are certain of class 0, one of them far more than the other.
    odds = np.array([[40.0], [90.0]])
    other = np.exp(-odds) / (1 + np.exp(-odds))
    samples = np.stack([1 - other, other], axis=-1)
    assert uncertainty(samples).mutual_information == pytest.approx(0, abs=1e-14)
    assert logit_disagreement(odds) == pytest.approx(25.0)


BAD_ODDS = {
    "rank": (
        np.zeros(2),
        r"sample_log_odds: got shape \(2,\), allowed: \[samples, 2\]",
    ),
    "no samples": (np.zeros((0, 2)), "at least one sample"),
    "other examples": (
        np.zeros((3, 4)),
        r"got shape \(3, 4\), allowed: \[samples, 2\]",
    ),
    "NaN": ([[0.1, math.nan]], "sample_log_odds: got nan, allowed: finite"),
    "infinite": ([[math.inf, 0.1]], "got inf"),
}


@pytest.mark.parametrize("case", BAD_ODDS)
def test_bad_log_odds_are_refused(case):
    odds, message = BAD_ODDS[case]
    with pytest.raises(InputError, match=message):
        logit_disagreement(odds, 2)


MEAN = np.array([[0.9, 0.1], [0.5, 0.5]])
BAD_INPUT = {
    "other examples": (np.zeros((3, 4)), r"shape \(3, 4\), allowed: \[samples, 2\]"),
    "no samples": (np.zeros((0, 2)), "at least one sample"),
    "rank": (np.zeros(2), "shape"),
    "NaN": ([[0.1, math.nan]], "got nan"),
    "bits, not nats": ([[0.1, 1.0]], r"log\(2\) = 0.6931 nats"),
    "negative": ([[-0.1, 0.1]], "got -0.1"),
    "of other predictions": ([[0.6, 0.6]], "above the entropy of the mean"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_entropies_are_refused(case):
    entropies, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        uncertainty_from_entropies(MEAN, entropies)


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (1, 2, 3, 4)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"sample_probs: got shape"):
        uncertainty(np.full(shape, 1 / shape[-1]))


def test_bad_probabilities_are_refused():
    for bad in ([math.nan, 0.5], [0.6, 0.6], [1.2, -0.2], [math.inf, 0.0]):
        with pytest.raises(InputError, match="no probabilities"):
            entropy(bad)

import mpmath
import numpy as np
import pytest
from scipy import special

from ssvi_jax.vi import pass_scores


def log_odds(logits):
    """The largest log(p / (1 - p)) of one row, with 400 digits."""
    with mpmath.workdps(400):
        weights = [mpmath.exp(mpmath.mpf(float(value))) for value in logits]
        total = mpmath.fsum(weights)
        odds = [mpmath.log(w / (total - w)) for w in weights]
        return float(max(odds))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.01, 1.0, 60.0])
def test_log_odds_agree_with_many_digits(classes, scale):
    logits = scale * np.random.default_rng(classes).normal(size=(20, classes))
    got = pass_scores.largest_log_odds(special.log_softmax(logits, axis=-1))
    np.testing.assert_allclose(got, [log_odds(row) for row in logits], atol=1e-11)


def test_log_odds_of_two_classes_are_the_difference_of_their_logits():
    # 1 - p would be 0 in the last two, and the log-odds infinite.
    logits = np.array([[0.0, 3.0], [1.0, 1.0], [45.0, 0.0], [0.0, 700.0]])
    got = pass_scores.largest_log_odds(special.log_softmax(logits, axis=-1))
    np.testing.assert_allclose(got, [3.0, 0.0, 45.0, 700.0], atol=1e-12)


def test_equal_classes_have_the_least_log_odds():
    got = pass_scores.largest_log_odds(np.full((1, 5), -np.log(5)))
    np.testing.assert_allclose(got, -np.log(4))


def test_classes_that_are_ruled_out_leave_finite_numbers():
    log_probs = np.array([[0.0, -np.inf, -np.inf], [-np.log(2), -np.log(2), -np.inf]])
    odds, entropy = (
        score(log_probs)
        for score in (pass_scores.largest_log_odds, pass_scores.entropy)
    )
    np.testing.assert_allclose(odds, [-pass_scores.FLOOR - np.log(2), 0.0])
    np.testing.assert_allclose(entropy, [0.0, np.log(2)])


def test_nothing_that_comes_is_changed():
    log_probs = special.log_softmax(np.arange(6.0).reshape(2, 3), axis=-1)
    before = log_probs.copy()
    pass_scores.largest_log_odds(log_probs)
    np.testing.assert_array_equal(log_probs, before)

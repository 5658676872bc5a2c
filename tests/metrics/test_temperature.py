import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import temperature


def noisy_predictions(seed, n=400, num_classes=6, scale=1.0):
    """Probabilities whose logits are `scale` times those that drew the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, num_classes))
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return special.softmax(scale * logits, axis=1), labels


def oracle_nll(probs, labels, t):
    log_p = np.log(np.maximum(probs, 2.0**-149)) / t
    log_p = special.log_softmax(log_p, axis=1)
    return -np.mean(log_p[np.arange(len(labels)), labels])


def oracle_fit(probs, labels):
    """SciPy's bounded minimisation over log T, without derivatives."""
    log_t = optimize.fminbound(
        lambda log_t: oracle_nll(probs, labels, math.exp(log_t)),
        math.log(0.01),
        math.log(100),
        xtol=1e-12,
    )
    return float(np.exp(log_t))


@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_a_minimisation_by_scipy(scale, seed):
    probs, labels = noisy_predictions(seed, scale=scale)
    got = temperature.fit(probs, labels)
    # The NLL is flat to its rounding around the minimum: sqrt(1e-16) for SciPy.
    assert got == pytest.approx(oracle_fit(probs, labels), rel=1e-6)
    # The labels were drawn at temperature `scale`; 400 of them leave some error.
    assert got == pytest.approx(scale, rel=0.25)


@pytest.mark.parametrize("num_right", [51, 70, 99])
@pytest.mark.parametrize("confidence", [0.501, 0.9, 0.99999])
def test_two_classes_in_closed_form(num_right, confidence):
    # Equal confidence everywhere becomes the accuracy: logit(p) / T = logit(a).
    probs = np.tile([1 - confidence, confidence], (100, 1))
    labels = (np.arange(100) < num_right).astype(int)
    want = special.logit(confidence) / special.logit(num_right / 100)
    got = temperature.fit(probs, labels)
    if 0.01 < want < 100:
        assert got == pytest.approx(want, rel=1e-9)
        scaled = temperature.apply(probs, got)[:, 1]
        np.testing.assert_allclose(scaled, num_right / 100, rtol=1e-9)
    else:
        assert got == (0.01 if want < 1 else 100)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5.0))
def test_a_scaled_prediction_needs_the_remaining_temperature(seed, factor):
    probs, labels = noisy_predictions(seed, n=60)
    first = temperature.fit(probs, labels)
    if 0.05 < first < 20:
        second = temperature.fit(temperature.apply(probs, factor), labels)
        assert second * factor == pytest.approx(first, rel=1e-6)


def test_apply_agrees_with_the_formula():
    probs, _ = noisy_predictions(0)
    for t in (0.1, 0.7, 1.0, 2.5, 100.0):
        powers = [[p ** (1 / t) for p in row] for row in probs.tolist()]
        want = [[p / math.fsum(row) for p in row] for row in powers]
        np.testing.assert_allclose(temperature.apply(probs, t), want, rtol=1e-12)
    np.testing.assert_allclose(temperature.apply(probs, 1.0), probs, rtol=1e-13)
    stacked = temperature.apply(probs.reshape(2, 200, 6), 2.5)
    np.testing.assert_array_equal(
        stacked.reshape(400, 6), temperature.apply(probs, 2.5)
    )


def test_zeros_are_scaled_from_the_floor():
    got = temperature.apply([[0.0, 1.0]], 100)
    floor = metrics.PROBABILITY_FLOOR**0.01
    np.testing.assert_allclose(got, [[floor / (1 + floor), 1 / (1 + floor)]])
    np.testing.assert_array_equal(temperature.apply([[0.0, 1.0]], 0.01), [[0, 1]])


@st.composite
def predictions(draw):
    n, num_classes = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    entries = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-6, 1.0))
    raw = draw(npst.arrays(np.float64, (n, num_classes), elements=entries))
    raw[raw.sum(axis=1) == 0] = 1.0
    labels = draw(npst.arrays(np.int64, n, elements=st.integers(0, num_classes - 1)))
    return raw / raw.sum(axis=1, keepdims=True), labels


@given(predictions())
def test_the_fit_never_raises_the_nll(example):
    probs, labels = example
    fitted = temperature.fit(probs, labels)
    assert type(fitted) is float
    assert 0.01 <= fitted <= 100
    after = metrics.nll(temperature.apply(probs, fitted), labels)
    before = metrics.nll(temperature.apply(probs, 1.0), labels)
    assert before == pytest.approx(metrics.nll(probs, labels), abs=1e-12)
    assert after <= before + 1e-12
    # Nor is any other temperature better.
    for t in np.geomspace(0.01, 100, 40):
        assert oracle_nll(probs, labels, fitted) <= (
            oracle_nll(probs, labels, t) + 1e-9
        )


@given(predictions(), st.floats(0.01, 100))
def test_the_predicted_class_stays(example, t):
    probs, _ = example
    scaled = temperature.apply(probs, t)
    np.testing.assert_allclose(scaled.sum(axis=1), 1, rtol=1e-12)
    # The class predicted before still has the largest probability, but for rounding.
    kept = scaled[np.arange(len(probs)), probs.argmax(axis=1)]
    np.testing.assert_allclose(kept, scaled.max(axis=1), rtol=1e-12)
    best_two = np.sort(probs, axis=1)[:, -2:]
    clear = best_two[:, -1] > best_two[:, 0] * (1 + 1e-9)
    np.testing.assert_array_equal(
        scaled.argmax(axis=1)[clear], probs.argmax(axis=1)[clear]
    )


@given(predictions(), st.integers(0, 2**32 - 1))
def test_order_of_the_examples_does_not_matter(example, seed):
    probs, labels = example
    order = np.random.default_rng(seed).permutation(len(labels))
    got = temperature.fit(probs[order], labels[order])
    want = temperature.fit(probs, labels)
    assert oracle_nll(probs, labels, got) == pytest.approx(
        oracle_nll(probs, labels, want), abs=1e-9
    )


def test_certain_and_right_is_at_the_border():
    labels = np.array([0, 1, 2, 1])
    probs = np.eye(3)[labels]
    assert temperature.fit(probs, labels) == 0.01
    np.testing.assert_array_equal(temperature.apply(probs, 0.01), probs)


def test_certain_and_wrong_is_at_the_other_border():
    assert temperature.fit(np.eye(3), [1, 2, 0]) == 100
    # Half of two classes right: uniform predictions would be best.
    assert temperature.fit([[0.9, 0.1], [0.9, 0.1]], [0, 1]) == 100


def test_a_single_example():
    assert temperature.fit([[0.7, 0.3]], [0]) == 0.01
    assert temperature.fit([[0.7, 0.3]], [1]) == 100
    # The second of three classes is most probable in between.
    probs = np.array([[0.6, 0.3, 0.1]])
    got = temperature.fit(probs, [1])
    assert got == pytest.approx(oracle_fit(probs, np.array([1])), rel=1e-6)
    assert 1 < got < 100


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("num_classes", [1, 3, 10])
def test_uniform_predictions_have_no_temperature(num_classes, dtype):
    probs = np.full((20, num_classes), 1 / num_classes, dtype)
    assert temperature.fit(probs, np.zeros(20, int)) == 1.0
    rounded = probs * (1 + np.arange(num_classes, dtype=dtype) * 1e-8)
    assert temperature.fit(rounded, np.zeros(20, int)) == 1.0


def test_rare_certain_misses_are_found():
    # Away from the minimum the slope hardly changes.
    probs = np.tile([1e-12, 1 - 1e-12], (1000, 1))
    labels = np.ones(1000, int)
    labels[0] = 0
    want = np.log(probs[0, 1] / probs[0, 0]) / special.logit(0.999)
    assert temperature.fit(probs, labels) == pytest.approx(want, rel=1e-9)


BAD_INPUT = {
    "NaN": ([[math.nan, 1.0]], [0], "sums to nan"),
    "logits": ([[2.0, -1.0]], [0], "softmax"),
    "label": ([[0.5, 0.5]], [2], "labels: got 2"),
    "float labels": ([[0.5, 0.5]], [0.0], "labels: got float64"),
    "lengths": ([[0.5, 0.5]], [0, 1], "shapes"),
    "none": (np.zeros((0, 2)), np.zeros(0, int), "no examples"),
    "samples": ([[[0.5, 0.5]]], [0], "shapes"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused(case):
    probs, labels, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        temperature.fit(probs, labels)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.009, 101.0, math.nan, math.inf])
def test_a_temperature_outside_is_refused(value):
    with pytest.raises(InputError, match=f"temperature: got {value}, allowed: 0.01"):
        temperature.apply([[0.5, 0.5]], value)


def test_apply_refuses_what_are_no_probabilities():
    with pytest.raises(InputError, match="no probabilities"):
        temperature.apply([[0.5, 0.7]], 2.0)

import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import accuracy_score, log_loss

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics.uncertainty import entropy, uncertainty


def softmax(logits):
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def loop_accuracy(probs, labels):
    right = 0
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
    return right / len(labels)


def loop_nll(probs, labels):
    pairs = zip(probs.tolist(), labels.tolist(), strict=True)
    return math.fsum(-math.log(row[label]) for row, label in pairs) / len(labels)


def loop_brier(probs, labels):
    total = 0.0
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        for k, p in enumerate(row):
            total += (p - (k == label)) ** 2
    return total / len(labels)


def loop_binned(values, hits, num_bins=15):
    """Visits every example once for every bin, as the formula is written."""
    error, rows = 0.0, []
    edges = np.linspace(0, 1, num_bins + 1)
    for m in range(num_bins):
        inside = [
            i
            for i, v in enumerate(values)
            if edges[m] < v <= edges[m + 1]
            or (m == 0 and v == 0)
            or (m == num_bins - 1 and v > 1)
        ]
        count = len(inside)
        mean = sum(values[i] for i in inside) / count if count else math.nan
        rate = sum(hits[i] for i in inside) / count if count else math.nan
        rows.append((mean, rate, count))
        error += count / len(values) * abs(mean - rate) if count else 0.0
    return error, rows


def top(probs, labels):
    confidence = [max(row) for row in probs.tolist()]
    pairs = zip(probs.tolist(), labels.tolist(), strict=True)
    return confidence, [float(row.index(max(row)) == y) for row, y in pairs]


def loop_ece(probs, labels):
    return loop_binned(*top(probs, labels))[0]


def loop_ece_if_calibrated(probs, labels):
    """Over every number of hits that a bin might have, weighed by its probability."""
    expected = 0.0
    for mean, _, count in loop_binned(*top(probs, labels))[1]:
        hits = np.arange(count + 1)
        if count:
            chance = binom.pmf(hits, count, min(mean, 1.0))
            expected += np.sum(chance * np.abs(hits - count * mean)) / len(labels)
    return expected


def loop_classwise(probs, labels):
    columns = range(probs.shape[1])
    return np.mean(
        [loop_binned(probs[:, k], (labels == k).astype(float))[0] for k in columns]
    )


def loop_adaptive(probs, labels, num_bins=15):
    confidence, hits = top(probs, labels)
    n = len(hits)
    # O(n^2): every example's mean correctness among those with its confidence.
    shared = []
    for c in confidence:
        same = [h for other, h in zip(confidence, hits, strict=True) if other == c]
        shared.append(sum(same) / len(same))
    pairs = sorted(zip(confidence, shared, strict=True))
    error, start = 0.0, 0
    for m in range(num_bins):
        size = n // num_bins + (m < n % num_bins)
        chosen = pairs[start : start + size]
        error += abs(sum(c for c, _ in chosen) - sum(h for _, h in chosen)) / n
        start += size
    return error


ORACLES = {
    "accuracy": loop_accuracy,
    "nll": loop_nll,
    "brier": loop_brier,
    "ece": loop_ece,
    "ece_if_calibrated": loop_ece_if_calibrated,
    "adaptive_ece": loop_adaptive,
    "classwise_ece": loop_classwise,
}


def cases():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(300, 7))
    yield "random", softmax(logits), rng.integers(0, 7, 300)
    yield "float32", softmax(logits).astype(np.float32), rng.integers(0, 7, 300)
    yield "binary", softmax(rng.normal(size=(101, 2))), rng.integers(0, 2, 101)
    yield "one class", np.ones((20, 1)), np.zeros(20, int)
    yield "uniform: all tied", np.full((50, 4), 0.25), rng.integers(0, 4, 50)
    # Multiples of 1/15 sit on the edges between bins; few values, many ties.
    counts = rng.multinomial(15, np.full(5, 0.2), size=200)
    yield "on the edges", counts / 15 * (1 - 1e-9) + 2e-10, rng.integers(0, 5, 200)
    yield "single example", softmax(logits[:1]), np.array([3])
    yield "fewer than bins", softmax(logits[:6]), rng.integers(0, 7, 6)
    sure = np.eye(5)[rng.integers(0, 5, 40)]
    yield "certain and right", sure, sure.argmax(axis=1)


CASES = {name: (probs, labels) for name, probs, labels in cases()}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_plain_loops(name, case):
    probs, labels = CASES[case]
    want = ORACLES[name](probs.astype(np.float64), labels)
    assert getattr(metrics, name)(probs, labels) == pytest.approx(want, abs=1e-12)
    assert metrics.evaluate(probs, labels)[name] == pytest.approx(want, abs=1e-12)


def test_agrees_with_scikit_learn():
    probs, labels = CASES["random"]
    want = log_loss(labels, probs, labels=np.arange(7))
    assert metrics.nll(probs, labels) == pytest.approx(want, abs=1e-12)
    want = accuracy_score(labels, probs.argmax(axis=1))
    assert metrics.accuracy(probs, labels) == pytest.approx(want, abs=1e-12)


def test_by_hand():
    # Confidences .9 (right), .8 (wrong), .8 (right), .6 (right), classes 0 and 1.
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    got = metrics.evaluate(probs, labels)
    assert got["accuracy"] == 0.75
    # log-likelihood of .9 .2 .8 .6
    assert got["nll"] == pytest.approx(-math.log(0.9 * 0.2 * 0.8 * 0.6) / 4)
    # 2 * (.1^2 + .8^2 + .2^2 + .4^2) / 4
    assert got["brier"] == pytest.approx(2 * 0.85 / 4)
    # Bins: {.9}: gap .1; {.8, .8}: mean .8, half right: gap .3 for 2; {.6}: gap .4.
    assert got["ece"] == pytest.approx((0.1 + 2 * 0.3 + 0.4) / 4)


@pytest.mark.parametrize("num_bins", [1, 2, 3])
def test_adaptive_bins_hold_equal_mass(num_bins):
    # .6 and .7 wrong, .8 and .9 right. One bin: |.75 - .5|. Two: |.65-0|, |.85-1|.
    # Three: {.6, .7}, {.8}, {.9}: (1.3 + .2 + .1) / 4.
    want = {1: 0.25, 2: (1.3 + 0.3) / 4, 3: (1.3 + 0.2 + 0.1) / 4}[num_bins]
    top_probs = np.array([0.6, 0.7, 0.8, 0.9])
    probs = np.stack([top_probs, 1 - top_probs], axis=1)
    got = metrics.adaptive_ece(probs, [1, 1, 0, 0], num_bins)
    assert got == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_examples_does_not_matter(case):
    probs, labels = CASES[case]
    order = np.random.default_rng(1).permutation(len(labels))
    assert metrics.evaluate(probs[order], labels[order]) == pytest.approx(
        metrics.evaluate(probs, labels), abs=1e-12
    )


def test_bin_edges_are_open_on_the_left():
    # 0.5 is the upper edge of the first of two bins; the next float is in the second.
    above = np.nextafter(0.5, 1)
    probs = np.array([[0.5, 0.5], [above, 1 - above]])
    assert metrics.reliability(probs, [0, 0], num_bins=2).count.tolist() == [1, 1]


def test_ece_if_calibrated_is_what_labels_drawn_from_the_predictions_give():
    rng = np.random.default_rng(1)
    probs = softmax(2 * rng.normal(size=(150, 10)))
    drawn = [[rng.choice(10, p=row) for row in probs] for _ in range(200)]
    by_drawing = np.mean([metrics.ece(probs, np.array(y)) for y in drawn])
    expected = metrics.ece_if_calibrated(probs, drawn[0])
    assert expected == pytest.approx(by_drawing, rel=0.05)
    assert expected > 0.05


def test_reliability_agrees_with_loops_and_adds_up_to_the_ece():
    probs, labels = CASES["random"]
    got = metrics.reliability(probs, labels)
    _, rows = loop_binned(*top(probs, labels))
    np.testing.assert_allclose(np.array(rows).T, np.stack(got), atol=1e-12)
    filled = got.count > 0
    gaps = np.abs(got.confidence - got.accuracy)[filled]
    want = metrics.ece(probs, labels)
    assert (gaps * got.count[filled]).sum() / 300 == pytest.approx(want, abs=1e-12)
    assert np.isnan(got.accuracy[~filled]).all()


def test_a_certain_miss_costs_a_finite_known_nll():
    got = metrics.nll([[1.0, 0.0]], [1])
    assert got == pytest.approx(149 * math.log(2), rel=1e-15)
    tiny = np.array([[1, 1e-44]], np.float32)
    assert metrics.nll(tiny, [1]) == pytest.approx(-math.log(float(tiny[0, 1])))


def test_confidence_just_above_one_is_in_the_last_bin():
    probs = np.array([[1 + 1e-6, 0.0]])
    assert metrics.reliability(probs, [0]).count[-1] == 1


@st.composite
def predictions_in_pieces(draw):
    n, num_classes = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    logits = draw(npst.arrays(np.float64, (n, num_classes), elements=st.floats(-9, 9)))
    labels = draw(npst.arrays(np.int64, n, elements=st.integers(0, num_classes - 1)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return softmax(logits), labels, cuts


@settings(max_examples=80, deadline=None)
@given(predictions_in_pieces())
def test_batches_do_not_matter(pieces):
    probs, labels, cuts = pieces
    entropies = np.stack([entropy(probs) * s for s in (0.3, 0.9)])
    odds = np.stack([probs[:, 0] * s for s in (-1.0, 2.0)])
    streaming = metrics.StreamingMetrics()
    for part in np.split(np.arange(len(labels)), cuts):
        each = (entropies[:, part], odds[:, part])
        streaming.update(probs[part], labels[part], *each)
    got, want = streaming.compute(), metrics.evaluate(probs, labels, entropies, odds)
    assert got.keys() == want.keys()
    assert got == pytest.approx(want, abs=1e-12, rel=1e-12)
    np.testing.assert_array_equal(streaming.labels, labels)
    assert all(type(value) is float for value in got.values())
    assert all(0 <= got[name] <= 1 for name in ("accuracy", "ece", "adaptive_ece"))


def test_keys_and_means_of_the_uncertainties():
    probs, labels = CASES["random"]
    samples = np.stack([probs, np.roll(probs, 1, axis=1)])
    total, expected, information = uncertainty(samples)
    odds = np.log(samples.max(axis=-1)) - np.log1p(-samples.max(axis=-1))
    got = metrics.evaluate(samples.mean(axis=0), labels, entropy(samples), odds)
    assert list(got) == [
        "accuracy",
        "nll",
        "brier",
        "ece",
        "ece_if_calibrated",
        "adaptive_ece",
        "classwise_ece",
        "predictive_entropy",
        "expected_entropy",
        "mutual_information",
        "logit_disagreement",
    ]
    assert got["predictive_entropy"] == pytest.approx(total.mean(), abs=1e-12)
    assert got["expected_entropy"] == pytest.approx(expected.mean(), abs=1e-12)
    assert got["mutual_information"] == pytest.approx(information.mean(), abs=1e-12)
    assert got["logit_disagreement"] == pytest.approx(np.std(odds, axis=0).mean())
    mixture = total + 0.01
    other = metrics.evaluate(samples[0], labels, entropy(samples), odds, mixture)
    assert other["predictive_entropy"] == pytest.approx(entropy(probs).mean())
    difference = other["mutual_information"] - got["mutual_information"]
    assert difference == pytest.approx(0.01)
    without = metrics.evaluate(probs, labels).keys()
    assert not {"mutual_information", "logit_disagreement"} & without


GOOD = np.array([[0.25, 0.75], [0.5, 0.5]])
BAD_INPUT = {
    "NaN": ([[math.nan, 1.0], [0.5, 0.5]], [0, 1], "1 of 2 rows .* sums to nan"),
    "sum": ([[0.25, 0.75], [0.5, 0.502]], [0, 1], "sums to 1.002"),
    "logits": ([[2.0, -1.0], [0.5, 0.5]], [0, 1], "smallest entry is -1.*softmax"),
    "negative label": (GOOD, [0, -1], "got -1 at example 1, allowed: 0 to 1"),
    "label too large": (GOOD, [2, 0], "got 2 at example 0"),
    "lengths": (GOOD, [0, 1, 0], r"shapes \(2, 2\) and \(3,\)"),
    "rank": (GOOD[0], [0, 1], r"shapes \(2,\) and \(2,\)"),
    "one-hot labels": (GOOD, [[0, 1], [1, 0]], "shapes"),
    "float labels": (GOOD, [0.0, 1.0], "got float64, allowed: integers"),
    "scalar": (0.5, [0], "allowed: \\[..., classes\\]"),
    "no classes": (np.zeros((2, 0)), [0, 0], "classes"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("name", [*ORACLES, "reliability", "evaluate"])
def test_bad_input_is_refused(case, name):
    probs, labels, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        getattr(metrics, name)(probs, labels)


@pytest.mark.parametrize("name", [*ORACLES, "reliability", "evaluate"])
def test_no_examples_are_refused(name):
    with pytest.raises(InputError, match="no examples"):
        getattr(metrics, name)(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize(
    "name", ["ece", "ece_if_calibrated", "adaptive_ece", "classwise_ece"]
)
def test_zero_bins_are_refused(name):
    with pytest.raises(InputError, match="num_bins: got 0"):
        getattr(metrics, name)(GOOD, [0, 1], 0)


def test_nothing_was_collected():
    with pytest.raises(InputError, match="no examples"):
        metrics.StreamingMetrics().compute()
    with pytest.raises(InputError, match="num_bins"):
        metrics.StreamingMetrics(num_bins=0)


def test_a_batch_unlike_the_others_is_refused_and_changes_nothing():
    streaming = metrics.StreamingMetrics()
    streaming.update(GOOD, [0, 1])
    before = streaming.compute()
    with pytest.raises(InputError, match="got 3 classes after batches of 2"):
        streaming.update([[0.2, 0.3, 0.5]], [2])
    with pytest.raises(InputError, match="with some batches"):
        streaming.update(GOOD, [0, 1], [[0.1, 0.1]])
    with pytest.raises(InputError, match="with some batches"):
        streaming.update(GOOD, [0, 1], None, [[0.1, 0.1]])
    with pytest.raises(InputError, match="labels"):
        streaming.update(GOOD, [0, 5])
    assert streaming.compute() == before

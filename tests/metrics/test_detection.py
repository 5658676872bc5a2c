import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import detection
from ssvi_jax.metrics.detection import Detection, detect
from ssvi_jax.metrics.uncertainty import entropy, uncertainty


def labelled(known, foreign):
    """Truth and scores as scikit-learn takes them; foreign is the positive class."""
    truth = np.repeat([0, 1], [len(known), len(foreign)])
    return truth, np.concatenate([known, foreign])


def loop_auroc(known, foreign):
    """Every pair once; exact."""
    pairs = itertools.product(known, foreign)
    wins = sum(Fraction(1 + (b > a) - (b < a), 2) for a, b in pairs)
    return float(wins / (len(known) * len(foreign)))


def loop_aupr(known, foreign):
    total, recall = Fraction(0), Fraction(0)
    for threshold in sorted({*known, *foreign}, reverse=True):
        true = sum(b >= threshold for b in foreign)
        false = sum(a >= threshold for a in known)
        new_recall = Fraction(true, len(foreign))
        total += (new_recall - recall) * Fraction(true, true + false)
        recall = new_recall
    return float(total)


def loop_fpr95(known, foreign):
    allowed = [
        Fraction(sum(a >= threshold for a in known), len(known))
        for threshold in {*known, *foreign}
        if 100 * sum(b >= threshold for b in foreign) >= 95 * len(foreign)
    ]
    return float(min(allowed))


def loops(known, foreign):
    known, foreign = np.asarray(known).tolist(), np.asarray(foreign).tolist()
    return Detection(
        loop_auroc(known, foreign),
        loop_aupr(known, foreign),
        loop_fpr95(known, foreign),
    )


def cases():
    rng = np.random.default_rng(0)
    yield "random", rng.normal(size=150), rng.normal(0.7, 2.0, size=90)
    yield "float32", *rng.uniform(size=(2, 60)).astype(np.float32)
    yield "many ties", rng.integers(0, 5, 100), rng.integers(2, 7, 80)
    yield "exactly 95 %", np.arange(40.0), np.arange(20.0) + 15.5
    yield "below 95 %", np.arange(40.0), np.arange(19.0) + 15.5
    yield "saturated", np.repeat([0.0, 0.3], [90, 5]), np.repeat([0.0, 0.9], [4, 70])
    yield "perfect", np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    yield "reversed", np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0])
    yield "one each, right", np.array([0.1]), np.array([0.2])
    yield "one each, wrong", np.array([0.2]), np.array([0.1])
    yield "one each, tied", np.array([0.2]), np.array([0.2])
    yield "one known", np.array([0.5]), rng.uniform(size=50)
    yield "one foreign", rng.uniform(size=50), np.array([0.5])
    yield "all tied", np.full(7, 0.25), np.full(3, 0.25)


CASES = {name: (known, foreign) for name, known, foreign in cases()}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_plain_loops_and_scikit_learn(case):
    known, foreign = CASES[case]
    got = detect(known, foreign)
    assert got == pytest.approx(loops(known, foreign), abs=1e-12)
    truth, values = labelled(known, foreign)
    assert got.auroc == pytest.approx(sk.roc_auc_score(truth, values), abs=1e-12)
    want = sk.average_precision_score(truth, values)
    assert got.aupr == pytest.approx(want, abs=1e-12)
    assert all(type(value) is float for value in got)


def test_by_hand():
    # Thresholds 4 3 2 1 find 1, 1, 2, 2 of two and report 0, 1, 1, 2 of two.
    # AUROC: pairs (3, 4) right, (1, 4) right, (3, 2) wrong, (1, 2) right.
    # AUPR: 1/2 · 1/1 + 1/2 · 2/3.
    assert detect([1, 3], [2, 4]) == pytest.approx((0.75, 5 / 6, 0.5))


def test_all_tied_is_chance():
    assert detect(np.ones(6), np.ones(2)) == (0.5, 0.25, 1.0)


def test_one_example_on_each_side():
    assert detect([0.1], [0.2]) == (1.0, 1.0, 0.0)
    assert detect([0.2], [0.1]) == (0.0, 0.5, 1.0)


def test_foreign_inputs_are_the_positive_class():
    got = detect([0.0, 0.1, 0.2], [0.9])
    assert got == (1.0, 1.0, 0.0)


def test_infinite_scores_are_ranked():
    assert detect([-math.inf, 0.0, math.inf], [1.0, math.inf]) == detect(
        [0, 1, 3], [2, 3]
    )


some_scores = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)),
    min_size=1,
    max_size=40,
)


@given(some_scores, some_scores)
def test_agrees_on_anything(known, foreign):
    assert detect(known, foreign) == pytest.approx(loops(known, foreign), abs=1e-12)
    truth, values = labelled(known, foreign)
    want = sk.average_precision_score(truth, values)
    assert detect(known, foreign).aupr == pytest.approx(want, abs=1e-12)


@given(some_scores, some_scores)
def test_both_directions_add_up_to_one(known, foreign):
    both = detect(known, foreign).auroc + detect(foreign, known).auroc
    assert both == pytest.approx(1.0, abs=1e-12)


@given(some_scores, some_scores, st.randoms(use_true_random=False))
def test_only_the_order_of_the_scores_matters(known, foreign, random):
    ranks = {value: rank for rank, value in enumerate(sorted({*known, *foreign}))}
    # Strictly rising with the score, and exact in float64.
    moved = [[2.0 ** ranks[v] - 5.0 for v in side] for side in (known, foreign)]
    for side in moved:
        random.shuffle(side)
    assert detect(*moved) == detect(known, foreign)


# ROC curve ---------------------------------------------------------------------------


def area(curve):
    fpr, tpr = curve
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1])) / 2)


def check_curve(known, foreign, max_points=200):
    fpr, tpr = curve = detection.roc_curve(known, foreign, max_points)
    assert len(fpr) == len(tpr) <= max_points
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    truth, values = labelled(known, foreign)
    all_fpr, all_tpr, _ = sk.roc_curve(truth, values, drop_intermediate=False)
    length = all_fpr + all_tpr
    # Every point is on the full curve.
    for got, rates in ((fpr, all_fpr), (tpr, all_tpr)):
        np.testing.assert_allclose(got, np.interp(fpr + tpr, length, rates), atol=1e-9)
    return area(curve) - detect(known, foreign).auroc


@pytest.mark.parametrize("case", CASES)
def test_a_curve_with_few_corners_is_exact(case):
    known, foreign = CASES[case]
    assert abs(check_curve(known, foreign)) < 1e-12


def test_points_on_straight_lines_are_left_out():
    fpr, tpr = detection.roc_curve(np.arange(50), np.arange(1000, 1050))
    assert (fpr.tolist(), tpr.tolist()) == ([0, 0, 1], [0, 1, 1])
    # Ties: a straight, slanted line of equal steps.
    fpr, tpr = detection.roc_curve(np.arange(30), np.arange(30))
    assert (fpr.tolist(), tpr.tolist()) == ([0, 1], [0, 1])


def staircase(num_steps, *, foreign_first, size=1):
    """Scores whose ROC curve is `num_steps` equal steps along the diagonal."""
    steps = np.repeat(np.arange(num_steps), size)
    return (steps, steps + 0.5) if foreign_first else (steps + 0.5, steps)


@pytest.mark.parametrize("num_steps", [100, 196, 197, 198, 199, 200, 205, 297, 396])
@pytest.mark.parametrize("foreign_first", [True, False])
def test_thinning_keeps_the_area_of_staircases(num_steps, foreign_first):
    # As many steps as points, or nearly: sampling at the inner corners alone would
    # lose a triangle at each, 1 / 2 num_steps in all.
    known, foreign = staircase(num_steps, foreign_first=foreign_first)
    assert abs(check_curve(known, foreign)) < 4e-4


@given(
    st.integers(0, 2**32 - 1),
    st.integers(100, 3000),
    st.integers(100, 3000),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([1.0, 0.05, 8.0]),
)
def test_thinning_keeps_the_area(seed, n, m, shift, spread):
    rng = np.random.default_rng(seed)
    known, foreign = rng.normal(size=n), rng.normal(shift, spread, size=m)
    assert abs(check_curve(known, foreign)) < 4e-4


def test_thinning_keeps_to_the_number_of_points():
    rng = np.random.default_rng(3)
    known, foreign = rng.normal(size=500), rng.normal(1.0, size=500)
    for max_points in (3, 10, 50):
        step = 2 / (max_points - 2)
        error = check_curve(known, foreign, max_points)
        assert abs(error) < step / 32 + step**2 / 8
    assert len(detection.roc_curve(known, foreign, 50)[0]) == 50


# Scores ------------------------------------------------------------------------------


def test_scores_are_larger_for_less_certain_predictions():
    samples = np.array(
        [
            [[0.98, 0.01, 0.01], [1.0, 0.0, 0.0], [0.4, 0.3, 0.3]],
            [[0.98, 0.01, 0.01], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3]],
        ]
    )
    probs = samples.mean(axis=0)
    got = detection.scores(probs, entropy(samples))
    assert list(got) == ["entropy", "max_probability", "mutual_information"]
    np.testing.assert_allclose(got["max_probability"], [0.02, 0.5, 0.6], atol=1e-15)
    want = [-sum(p * math.log(p) for p in row if p) for row in probs]
    np.testing.assert_allclose(got["entropy"], want, rtol=1e-14)
    # Only the second prediction differs between samples: log 2 nats.
    np.testing.assert_allclose(
        got["mutual_information"], [0, math.log(2), 0], atol=1e-12
    )


def test_scores_agree_with_the_uncertainties():
    rng = np.random.default_rng(0)
    samples = rng.dirichlet(np.full(5, 0.4), size=(4, 30))
    got = detection.scores(samples.mean(axis=0), entropy(samples))
    parts = uncertainty(samples)
    np.testing.assert_allclose(got["entropy"], parts.predictive_entropy, atol=1e-12)
    np.testing.assert_allclose(
        got["mutual_information"], parts.mutual_information, atol=1e-12
    )
    assert list(detection.scores(samples[0])) == ["entropy", "max_probability"]
    odds = np.log(samples.max(axis=-1) / (1 - samples.max(axis=-1)))
    names = ["entropy", "max_probability", "logit_disagreement"]
    only = detection.scores(samples.mean(axis=0), sample_log_odds=odds)
    assert list(only) == names
    np.testing.assert_allclose(only["logit_disagreement"], np.std(odds, axis=0))
    both = detection.scores(samples.mean(axis=0), entropy(samples), odds)
    assert list(both) == [*names[:2], "mutual_information", names[2]]
    mixture = parts.predictive_entropy
    of_one = detection.scores(samples[0], entropy(samples), odds, mixture)
    np.testing.assert_allclose(
        of_one["mutual_information"], parts.mutual_information, atol=1e-12
    )


# Bad input ---------------------------------------------------------------------------

BAD_INPUT = {
    "no known": ([], [1.0], r"in_scores: got shape \(0,\), allowed: \[examples\]"),
    "no foreign": ([1.0], [], r"out_scores: got shape \(0,\)"),
    "neither": ([], [], r"in_scores: got shape \(0,\)"),
    "NaN": ([1.0, 2.0, math.nan], [1.0], "in_scores: 1 of 3 are NaN, the first at 2"),
    "NaN, foreign": ([1.0], [math.nan], "out_scores: 1 of 1 are NaN"),
    "rank": ([[1.0, 2.0]], [1.0], r"in_scores: got shape \(1, 2\)"),
    "scalar": ([1.0], 2.0, r"out_scores: got shape \(\)"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("function", [detect, detection.roc_curve])
def test_bad_input_is_refused(case, function):
    known, foreign, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        function(known, foreign)


def test_two_points_are_no_curve():
    with pytest.raises(InputError, match=r"max_points: got 2, allowed: .* from 3"):
        detection.roc_curve([1.0], [2.0], max_points=2)


def test_two_classes_are_told_apart_by_the_second_probability():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    second = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    probs = np.stack([1 - second, second], axis=1)
    got = detection.of_two_classes(probs, labels)
    pairs = [
        (a > b) + (a == b) / 2 for a in second[labels == 1] for b in second[labels == 0]
    ]
    assert got["auroc"] == pytest.approx(np.mean(pairs))
    expected = sk.average_precision_score(labels, second)
    assert got["auprc"] == pytest.approx(expected)
    assert detection.of_two_classes(probs, np.zeros(60, int)) == {}
    assert detection.of_two_classes(np.full((60, 3), 1 / 3), labels) == {}


def test_predictions_that_are_none_are_refused():
    with pytest.raises(InputError, match="no probabilities"):
        detection.scores([[0.5, 0.6]])
    with pytest.raises(InputError, match=r"got shape \(1, 1, 2\).*Average"):
        detection.scores([[[0.5, 0.5]]])
    with pytest.raises(InputError, match="sample_entropy: got shape"):
        detection.scores([[0.5, 0.5]], [[0.1, 0.2]])
    with pytest.raises(InputError, match="sample_log_odds: got shape"):
        detection.scores([[0.5, 0.5]], None, [[0.1, 0.2]])

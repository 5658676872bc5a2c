import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import selective


def curve_of(order, correct):
    """Accuracy of the first k of one order, k = 1..n; exact."""
    return [
        Fraction(sum(bool(correct[i]) for i in order[:k]), k)
        for k in range(1, len(order) + 1)
    ]


def brute_force_curve(confidence, correct):
    """The mean of the curve over every order that puts no surer example later."""
    n = len(confidence)
    curves = [
        curve_of(order, correct)
        for order in itertools.permutations(range(n))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
    ]
    return [sum(column) / len(curves) for column in zip(*curves, strict=True)]


def loop_aurc(accuracies):
    return sum(1 - a for a in accuracies) / len(accuracies)


def brute_force_best(correct):
    """The smallest area over every order at all."""
    orders = itertools.permutations(range(len(correct)))
    return min(loop_aurc(curve_of(order, correct)) for order in orders)


few = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@settings(max_examples=40)
@given(few)
def test_ties_are_averaged_over_all_their_orders(example):
    confidence, correct = example
    want = brute_force_curve(confidence, correct)
    coverage, accuracy = selective.risk_coverage(confidence, correct)
    n = len(correct)
    np.testing.assert_allclose(coverage, [k / n for k in range(1, n + 1)], rtol=1e-15)
    np.testing.assert_allclose(accuracy, [float(a) for a in want], atol=1e-14)
    area = loop_aurc(want)
    assert selective.aurc(confidence, correct) == pytest.approx(float(area), abs=1e-14)
    excess = float(area - brute_force_best(correct))
    got = selective.excess_aurc(confidence, correct)
    assert got == pytest.approx(excess, abs=1e-14)


def case(seed=0, n=300):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=n)
    return confidence, rng.uniform(size=n) < confidence


def test_agrees_with_plain_loops_without_ties():
    confidence, correct = case()
    order = sorted(range(300), key=lambda i: -confidence[i])
    want = curve_of(order, correct)
    _, accuracy = selective.risk_coverage(confidence, correct)
    np.testing.assert_allclose(accuracy, [float(a) for a in want], atol=1e-14)
    area = float(loop_aurc(want))
    assert selective.aurc(confidence, correct) == pytest.approx(area, abs=1e-13)
    # The best order: right answers first.
    best = curve_of(sorted(range(300), key=lambda i: not correct[i]), correct)
    got = selective.excess_aurc(confidence, correct)
    assert got == pytest.approx(area - float(loop_aurc(best)), abs=1e-13)


def test_by_hand():
    # .9 right, then a tied pair of which one is right, then .1 wrong.
    coverage, accuracy = selective.risk_coverage([0.5, 0.9, 0.1, 0.5], [1, 1, 0, 0])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(accuracy, [1, 1.5 / 2, 2 / 3, 2 / 4])
    area = (0 + 1 / 4 + 1 / 3 + 1 / 2) / 4
    assert selective.aurc([0.5, 0.9, 0.1, 0.5], [1, 1, 0, 0]) == pytest.approx(area)
    got = selective.excess_aurc([0.5, 0.9, 0.1, 0.5], [1, 1, 0, 0])
    assert got == pytest.approx(area - (1 / 3 + 1 / 2) / 4)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_all_right_and_all_wrong(n):
    confidence = np.linspace(0.1, 0.9, n)
    for correct, risk in ((np.ones(n, bool), 0.0), (np.zeros(n, bool), 1.0)):
        got = selective.evaluate(confidence, correct)
        assert got.aurc == risk
        assert got.excess_aurc == 0.0
        assert set(got.accuracy_at.values()) == {1 - risk}
        assert set(got.accuracy) == {1 - risk}


def test_equal_confidence_gives_the_plain_accuracy_everywhere():
    correct = np.arange(10) < 7
    _, accuracy = selective.risk_coverage(np.full(10, 0.3), correct)
    np.testing.assert_allclose(accuracy, 0.7, rtol=1e-14)
    assert selective.aurc(np.full(10, 0.3), correct) == pytest.approx(0.3)


def test_a_perfect_ranking_has_no_excess_and_the_worst_the_most():
    correct = np.arange(40) < 30
    perfect = selective.excess_aurc(-np.arange(40), correct)
    worst = selective.excess_aurc(np.arange(40), correct)
    assert perfect == 0.0
    rng = np.random.default_rng(0)
    some = [selective.excess_aurc(rng.uniform(size=40), correct) for _ in range(20)]
    assert 0 < min(some)
    assert max(some) < worst


@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 10))
def test_only_the_order_of_the_confidence_matters(seed, n, num_values):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, num_values, n) / 16, rng.uniform(size=n) < 0.6
    want = selective.evaluate(confidence, correct)
    shuffled = rng.permutation(n)
    moved = np.exp(3 * confidence[shuffled]) - 7
    got = selective.evaluate(moved, correct[shuffled])
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, abs=1e-13)
    assert got.excess_aurc >= 0
    assert got.accuracy_at["1.0"] == pytest.approx(correct.mean(), abs=1e-14)


@pytest.mark.parametrize("n", [1, 3, 7, 10, 20, 30, 100])
def test_accuracy_at_answers_at_least_the_coverage(n):
    confidence, correct = case(seed=n, n=n)
    order = sorted(range(n), key=lambda i: -confidence[i])
    got = selective.accuracy_at(confidence, correct, [0.05, 0.1, 0.5, 0.7, 0.95, 1])
    assert list(got) == ["0.05", "0.1", "0.5", "0.7", "0.95", "1.0"]
    for text, value in got.items():
        k = math.ceil(Fraction(text) * n)  # the decimal itself, exact
        want = sum(bool(correct[i]) for i in order[:k]) / k
        assert value == pytest.approx(want, abs=1e-14)


def test_the_thinned_curve_keeps_both_ends():
    confidence, correct = case(n=1000)
    coverage, accuracy = selective.risk_coverage(confidence, correct)
    got = selective.evaluate(confidence, correct, max_points=50)
    assert len(got.coverage) == len(got.accuracy) == 50
    assert (got.coverage[0], got.coverage[-1]) == (1 / 1000, 1.0)
    rows = np.searchsorted(coverage, got.coverage)
    np.testing.assert_array_equal(coverage[rows], got.coverage)
    np.testing.assert_array_equal(accuracy[rows], got.accuracy)
    assert np.diff(got.coverage).max() < 1.1 / 49
    few = selective.evaluate(confidence[:5], correct[:5])
    np.testing.assert_allclose(few.coverage, [0.2, 0.4, 0.6, 0.8, 1.0])


def test_evaluate_is_all_of_the_functions():
    confidence, correct = case()
    got = selective.evaluate(confidence, correct)
    assert got.aurc == selective.aurc(confidence, correct)
    assert got.excess_aurc == selective.excess_aurc(confidence, correct)
    assert got.accuracy_at == selective.accuracy_at(confidence, correct)
    assert list(got.accuracy_at) == ["0.5", "0.8", "0.9", "0.95", "1.0"]
    numbers = [got.aurc, got.excess_aurc, *got.accuracy_at.values()]
    assert all(type(number) is float for number in numbers)


BAD_INPUT = {
    "none": ([], [], r"confidence: got shape \(0,\)"),
    "NaN": ([0.5, math.nan], [1, 0], "confidence: 1 of 2 are NaN, the first at 1"),
    "NaN correct": ([0.5, 0.6], [1, math.nan], "correct: 1 of 2 are NaN"),
    "lengths": ([0.5, 0.6], [1], "confidence, correct: got 2 and 1 examples"),
    "labels": ([0.5, 0.6], [0, 7], "correct: got 7.0 at example 1, allowed: True"),
    "probs": ([[0.5, 0.5]], [1], r"confidence: got shape \(1, 2\)"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize(
    "name", ["risk_coverage", "aurc", "excess_aurc", "accuracy_at", "evaluate"]
)
def test_bad_input_is_refused(case, name):
    confidence, correct, message = BAD_INPUT[case]
    with pytest.raises(InputError, match=message):
        getattr(selective, name)(confidence, correct)


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.01, math.nan])
def test_a_coverage_outside_is_refused(coverage):
    with pytest.raises(InputError, match=f"coverages: got {coverage}, allowed"):
        selective.accuracy_at([0.5], [1], [0.5, coverage])


def test_one_point_is_no_curve():
    with pytest.raises(InputError, match="max_points: got 1, allowed"):
        selective.evaluate([0.5], [1], max_points=1)

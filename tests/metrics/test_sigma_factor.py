import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.metrics import sigma_factor
from ssvi_jax.metrics.sigma_factor import MAX_FACTOR, MIN_FACTOR, TIE


@pytest.mark.parametrize("best", [0.012, 0.05, 0.4, 0.98, 1.3, 2.3, 9.5])
def test_one_minimum_is_found(best):
    found = sigma_factor.fit(lambda c: 1 + math.log(c / best) ** 2)
    assert found.factor == pytest.approx(best, rel=3e-3)
    assert found.nll == pytest.approx(1, abs=1e-5)
    assert found.nll_before == pytest.approx(1 + math.log(best) ** 2)
    assert found.temperature == found.factor**2
    assert found.border == ""


@pytest.mark.parametrize(
    ("shallow", "deep", "narrow"), [(1.2, 0.06, 1.0), (3.0, 0.28, 20.0)]
)
def test_the_deeper_of_two_minima_is_taken(shallow, deep, narrow):
    def nll(c):
        other = math.log(c / shallow) ** 2
        return min(other, narrow * math.log(c / deep) ** 2 - 0.5)

    assert sigma_factor.fit(nll).factor == pytest.approx(deep, rel=3e-3)


def test_the_ends_of_the_range_are_told():
    low, high = sigma_factor.fit(lambda c: c), sigma_factor.fit(lambda c: -c)
    assert (low.factor, low.border) == (MIN_FACTOR, "lower")
    assert (high.factor, high.border) == (MAX_FACTOR, "upper")
    assert (low.nll, high.nll) == (MIN_FACTOR, -MAX_FACTOR)
    assert low.as_good[0] == MIN_FACTOR
    assert high.as_good[1] == MAX_FACTOR


def test_of_equally_good_factors_the_nearest_to_1_is_taken():
    found = sigma_factor.fit(lambda c: max(c, 0.2))
    assert found.nll == 0.2
    assert 0.1 <= found.factor <= 0.2
    assert found.border == "lower"
    assert found.as_good == (MIN_FACTOR, found.factor)
    rounding = sigma_factor.fit(lambda c: 1 + TIE / 2 * math.sin(100 * c))
    assert (rounding.factor, rounding.border) == (1.0, "both")
    assert rounding.as_good == (MIN_FACTOR, MAX_FACTOR)
    # The factor 1 wins, and the mean network is as good all the same.
    flat_below = sigma_factor.fit(lambda c: max(c, 1.0))
    assert (flat_below.factor, flat_below.border) == (1.0, "lower")
    flat_above = sigma_factor.fit(lambda c: -min(c, 1.0))
    assert (flat_above.factor, flat_above.border) == (1.0, "upper")


@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf, 1e300])
def test_what_is_not_finite_is_worse_than_anything(bad):
    def nll(c):
        return bad if c > 2 or c < 0.02 else -c

    found = sigma_factor.fit(nll)
    assert 1.9 < found.factor <= 2
    assert (found.nll, found.border) == (-found.factor, "")


def test_a_network_that_cannot_predict_may_be_mended():
    found = sigma_factor.fit(lambda c: math.nan if c > 0.5 else 2 - c)
    assert found.factor == pytest.approx(0.5, rel=1e-2)
    assert found.nll_before > found.nll


def test_it_begins_with_1_and_needs_few_calls():
    asked = []
    sigma_factor.fit(lambda c: asked.append(c) or abs(math.log(c / 2)))
    assert asked[0] == 1.0
    assert len(asked) < 35
    assert min(asked) == MIN_FACTOR
    assert max(asked) == MAX_FACTOR


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 10))
def test_it_is_never_worse_than_1(seed, size):
    def nll(c):  # no function that a search could follow
        return size * math.sin(seed + 1e4 * c)

    found = sigma_factor.fit(nll)
    assert found.nll <= found.nll_before == nll(1.0)
    assert found.nll == nll(found.factor)

"""Moves over masks: against enumeration, and part by part."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from ssvi_jax.core.errors import InputError
from ssvi_jax.methods.algorithms import mask_chain
from ssvi_jax.methods.algorithms.mask_chain import Chain, Layer
from ssvi_jax.vi import subspace

# The chain against brute force --------------------------------------------------------

NOISE, SLAB = 1.0, 1.0
SIZES, KEPT = {"a": 4, "b": 3}, {"a": 2, "b": 1}


class Regression:
    """y = x_a θ_a + x_b θ_b + noise, whose evidence and posterior are closed forms."""

    def __init__(self):
        rng = np.random.default_rng(5)
        x = rng.normal(size=(6, sum(SIZES.values())))
        self.x = dict(zip(SIZES, np.split(x, [SIZES["a"]], axis=1), strict=True))
        self.y = x @ rng.normal(size=x.shape[1]) / 2 + NOISE * rng.normal(size=len(x))

    def __call__(self, layers, path):
        theta = {name: q.mean.astype(np.float64) for name, q in layers.items()}
        error = self.y - sum(
            self.x[name][:, q.index] @ theta[name] for name, q in layers.items()
        )
        return error**2 / (2 * NOISE**2), self.x[path].T @ error / NOISE**2

    def posterior(self, a, b):
        """Evidence of a pair of masks, and the mean of all seven weights given them."""
        index = [*a, *(SIZES["a"] + i for i in b)]
        x = np.concatenate([*self.x.values()], axis=1)[:, index]
        covariance = NOISE**2 * np.eye(len(x)) + SLAB**2 * x @ x.T
        mean = np.zeros(sum(SIZES.values()))
        mean[index] = SLAB**2 * x.T @ np.linalg.solve(covariance, self.y)
        evidence = stats.multivariate_normal(cov=covariance).pdf(self.y)  # type: ignore[arg-type]
        return evidence, mean


def first_layers():
    return {
        path: Layer(np.arange(kept), np.zeros(kept, np.float32), np.arange(kept))
        for path, kept in KEPT.items()
    }


def test_the_chain_has_the_posterior_over_masks_and_weights():
    model, rng = Regression(), np.random.default_rng(0)
    states = list(
        itertools.product(
            itertools.combinations(range(SIZES["a"]), KEPT["a"]),
            itertools.combinations(range(SIZES["b"]), KEPT["b"]),
        )
    )
    evidence, means = zip(*itertools.starmap(model.posterior, states), strict=True)
    want = np.array(evidence) / np.sum(evidence)
    number = {state: i for i, state in enumerate(states)}
    layers = first_layers()
    chain = Chain(SLAB, 0.8, len(model.y), {"a": 2, "b": 1})
    batches, steps = 40, 200
    visits, weights = np.zeros((batches, len(states))), np.zeros((batches, 7))
    accepted = 0
    for batch in range(batches):
        for _ in range(steps):
            layers, moved = chain.move(layers, model, rng)
            accepted += moved
            a, b = (tuple(layers[path].index.tolist()) for path in SIZES)
            visits[batch, number[a, b]] += 1 / steps
            weights[batch, layers["a"].index] += layers["a"].mean / steps
            weights[batch, 4 + layers["b"].index] += layers["b"].mean / steps
    assert 0.1 < accepted / (batches * steps) < 0.9
    assert 0.05 < np.sort(want)[-3] < np.max(want) < 0.5  # several masks matter
    for found, expected in ((visits, want), (weights, want @ np.array(means))):
        error = found.std(axis=0, ddof=1) / math.sqrt(batches)
        assert np.max(np.abs(found.mean(axis=0) - expected) / (error + 2e-3)) < 4.5


# Its parts ----------------------------------------------------------------------------

some = hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(-30, 30))


@given(some, st.data())
def test_the_probabilities_of_all_orders_add_up_to_one(log_weights, choose):
    count = choose.draw(st.integers(1, log_weights.size))
    orders = itertools.permutations(range(log_weights.size), count)
    found = [mask_chain.log_probability(log_weights, np.array(o)) for o in orders]
    assert np.sum(np.exp(found)) == pytest.approx(1)


def test_an_order_by_hand_also_where_weights_differ_by_any_factor():
    weights = np.log([0.5, 0.2, 0.3])
    got = mask_chain.log_probability(weights, np.array([2, 0]))
    assert got == pytest.approx(math.log(0.3 * 0.5 / 0.7))
    far = np.array([0.0, -2000.0, -2001.0])
    got = mask_chain.log_probability(far, np.array([0, 1]))
    assert got == pytest.approx(-math.log1p(math.exp(-1)))


def test_orders_are_drawn_with_their_probabilities():
    log_weights, rng = np.log([0.5, 0.2, 0.3]), np.random.default_rng(0)
    number, found = 3000, {}
    for _ in range(number):
        order = tuple(mask_chain.draw(log_weights, 2, rng).tolist())
        found[order] = found.get(order, 0) + 1
    assert len(found) == 6
    for order, times in found.items():
        p = math.exp(mask_chain.log_probability(log_weights, np.array(order)))
        assert abs(times - number * p) < 5 * math.sqrt(number * p * (1 - p))


@given(st.data())
def test_an_exchange_keeps_the_count_the_order_and_the_others(choose):
    size = choose.draw(st.integers(2, 8))
    kept = choose.draw(st.integers(1, size - 1))
    places = choose.draw(st.permutations(range(size)))
    count = choose.draw(st.integers(1, min(kept, size - kept)))
    index = np.sort(places[:kept])
    layer = Layer(index, index.astype(np.float32), np.arange(kept) + 100)
    dead = np.array(choose.draw(st.permutations(index.tolist()))[:count])
    born = np.array(places[kept : kept + count])
    new = mask_chain.exchange(layer, dead, born, born + 0.5)
    assert set(new.index) == (set(index) - set(dead)) | set(born)
    assert (np.diff(new.index) > 0).all()
    for position, mean, source in zip(*new, strict=True):
        if position in born:
            assert (mean, source) == (position + 0.5, subspace.NEW)
        else:
            assert mean == position
            assert index[source - 100] == position


def test_a_ratio_of_likelihoods_by_hand():
    nll, new = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])
    assert mask_chain.likelihood_ratio(nll, new, 3) == pytest.approx(3)
    # 9 · 1, less half of 9² · 1 / 3 · (1 - 3/9).
    assert mask_chain.likelihood_ratio(nll, new, 9) == pytest.approx(9 - 9)


def test_moves_judged_on_batches_keep_detailed_balance():
    """Of there and back: mean acceptances have the ratio of the whole likelihoods."""
    rng, total, size, number = np.random.default_rng(0), 200, 100, 4000
    change = rng.normal(size=total)
    change = 0.7 / total + 0.1 * (change - change.mean())
    accepted = np.zeros((number, 2))
    for i in range(number):
        for j, sign in enumerate((1, -1)):
            some = sign * rng.choice(change, size, replace=False)
            ratio = mask_chain.likelihood_ratio(some, np.zeros(size), total)
            accepted[i, j] = min(1.0, math.exp(ratio))
    there, back = accepted.mean(axis=0)
    errors = accepted.std(axis=0) / math.sqrt(number) / (there, back)
    assert abs(math.log(there / back) - 0.7) < 4 * math.hypot(*errors)


@pytest.mark.parametrize("bad", ["nll", "score"])
def test_what_is_not_finite_stops_a_move(bad):
    def evaluate(layers, path):
        nll, score = Regression()(layers, path)
        return (nll * np.nan, score) if bad == "nll" else (nll, score / 0.0)

    chain = Chain(SLAB, 0.5, 6, {"a": 2, "b": 1})
    with (
        np.errstate(divide="ignore"),
        pytest.raises(InputError, match="likelihood of a move, or its gradient at"),
    ):
        chain.move(first_layers(), evaluate, np.random.default_rng(0))

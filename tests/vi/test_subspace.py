"""Removal and addition against a loop over coordinates, on states with moments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from swaps import TIED, filled, layers, random_gradients, swap
from tiny import KEY, assert_equal, host, mlp_params, mlp_problem

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods.algorithms.sgd import sgd
from ssvi_jax.vi import criteria, subspace
from ssvi_jax.vi.posterior import MIN_SIGMA

# Choosing --------------------------------------------------------------------------


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=TIED), st.data())
def test_lowest_is_the_head_of_a_stable_sort(scores, data):
    count = data.draw(st.integers(0, scores.size))
    expected = np.sort(np.argsort(scores, kind="stable")[:count])
    np.testing.assert_array_equal(subspace.lowest(scores, count), expected)


@settings(max_examples=200)
@given(layers())
def test_a_layer_swaps_as_the_loop_does(layer):
    mask = layer[0]
    new_mask, source = subspace.swap_layer(*layer)
    expected_mask, expected_source = oracles.swap(*layer)
    np.testing.assert_array_equal(new_mask, np.reshape(expected_mask, mask.shape))
    assert [None if s == subspace.NEW else s for s in source] == expected_source


@settings(max_examples=200)
@given(layers())
def test_nothing_is_lost_or_doubled(layer):
    """Who is selected before and after has its value, at its place, once."""
    mask, _, _, count = layer
    new_mask, source = subspace.swap_layer(*layer)
    before, after = np.flatnonzero(mask), np.flatnonzero(new_mask)
    assert len(before) == len(after) == len(source)
    is_new = source == subspace.NEW
    np.testing.assert_array_equal(is_new, ~mask.reshape(-1)[after])
    np.testing.assert_array_equal(before[source[~is_new]], after[~is_new])
    assert np.count_nonzero(is_new) <= count


def test_a_removed_coordinate_that_comes_back_has_not_been_away():
    mask = np.array([True, True, False])
    swapped = subspace.swap_layer(mask, np.array([0.0, 1.0]), np.array([9, 0, 1]), 1)
    np.testing.assert_array_equal(swapped[0], mask)
    np.testing.assert_array_equal(swapped[1], [0, 1])


@pytest.mark.parametrize(
    ("kept", "size", "rate", "expected"),
    [
        (10, 20, 0.0, 0),
        (10, 20, 0.34, 3),
        (10, 20, 1.0, 10),
        (15, 20, 1.0, 5),  # no more than there are free places
        (20, 20, 0.5, 0),  # a dense layer is never swapped
        (0, 20, 1.0, 0),
    ],
)
def test_number_of_swaps(kept, size, rate, expected):
    assert subspace.num_swaps(np.arange(size) < kept, rate) == expected


# Moving the state ------------------------------------------------------------------

OPTIMIZERS = {  # the moments that each keeps of a packed array
    "sgd": (optax.sgd(0.1), 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1),
    "nesterov": (optax.sgd(0.1, momentum=0.9, nesterov=True), 1),
    "adam": (optax.adam(0.1), 2),
    "adamw in a chain": (optax.chain(optax.clip(1.0), optax.adamw(0.1)), 2),
    "lion": (optax.lion(0.1), 1),
    "rmsprop": (optax.rmsprop(0.1), 1),
    "adafactor": (optax.adafactor(0.1), 1),
    "schedule": (optax.adam(optax.cosine_decay_schedule(0.1, 10)), 2),
    "partition": (sgd(0.1, sigma_learning_rate=0.01), 1),
}


def packed_leaves(tree, path, size):
    """Path in the tree → leaf ``[size]`` of the kernel."""
    return {
        jax.tree_util.keystr(where): leaf
        for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if path in jax.tree_util.keystr(where) and leaf.shape == (size,)
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_values_and_moments_follow_their_coordinates(name):
    tx, num_moments = OPTIMIZERS[name]
    state, masks = filled(mlp_problem(tx=tx))
    old, gradients = host(state), random_gradients(masks)
    state, new_masks, swapped = swap(state, masks, gradients=gradients)
    new, removed, returned = host(state), 0, 0
    for path, mask in masks.items():
        mean, rho = old.posterior[path]
        sigma = np.log1p(np.exp(rho.astype(np.float64)))
        scores = criteria.removal_scores("abs_snr", mean, sigma)
        count = round(0.5 * mean.size)
        flat, source = oracles.swap(mask, scores, gradients[path], count)
        removed += count
        returned += count - source.count(None)
        np.testing.assert_array_equal(new_masks[path].reshape(-1), flat)

        def moved(values, fill, source=source):
            return [fill if s is None else values[s] for s in source]

        kept_sigma = np.mean([sigma[s] for s in source if s is not None])
        np.testing.assert_array_equal(new.posterior[path].mean, moved(mean, 0.0))
        np.testing.assert_allclose(
            new.posterior[path].rho,
            moved(rho, np.log(np.expm1(kept_sigma))),
            rtol=1e-5,
        )
        before = packed_leaves(old.opt_state, path, mean.size)
        after = packed_leaves(new.opt_state, path, mean.size)
        assert len(before) == 2 * num_moments  # of mean and of rho
        for where, values in before.items():
            np.testing.assert_array_equal(after[where], moved(values, 0.0))
    assert swapped == (removed, returned)
    assert returned > 0
    untouched = ("params", "model_state", "step", "key")
    assert_equal(*([getattr(s, name) for name in untouched] for s in (old, new)))
    assert jax.tree.map(jnp.shape, old.opt_state) == jax.tree.map(
        jnp.shape, new.opt_state
    )


def test_rate_zero_is_the_identity():
    state, masks = filled(mlp_problem())
    old = host(state)
    state, new_masks, swapped = swap(state, masks, rate=0.0)
    assert_equal((state, new_masks), (old, masks))
    assert swapped == (0, 0)


def test_dense_layers_stay_as_they_are():
    _, state, masks, _ = problem = mlp_problem()
    dense = {path: np.ones_like(mask) for path, mask in masks.items()}
    inference, old_state, _, _ = problem
    full = {
        "a": {"kernel": jnp.zeros((5, 4)), **old_state.params["a"]},
        "b": {"kernel": jnp.zeros((4, 3)), **old_state.params["b"]},
    }
    state = inference.init(jax.random.key(0), full, state.model_state, dense)
    old = host(state)
    state, new_masks, swapped = swap(state, dense, rate=1.0)
    assert_equal((state, new_masks), (old, dense))
    assert swapped == (0, 0)


@pytest.mark.parametrize(("growth_init", "rate"), [("eps", 0.5), ("mean", 1.0)])
def test_new_coordinates_start_at_the_smallest_sigma(growth_init, rate):
    """With `eps`; or with `mean` where nothing is kept to take the mean of."""
    state, masks = filled(mlp_problem())
    away = {path: (~mask).astype(float) for path, mask in masks.items()}  # none returns
    state, _, swapped = swap(
        state, masks, rate=rate, gradients=away, growth_init=growth_init
    )
    new = [
        np.logaddexp(0, gaussian.rho.astype(np.float64))[gaussian.mean == 0]
        for gaussian in host(state).posterior.values()
    ]
    assert swapped == (sum(map(len, new)), 0)
    np.testing.assert_allclose(np.concatenate(new), MIN_SIGMA, rtol=1e-4)


def swapped_by_hand(coordinates, scores, additions, count):
    """Algorithm 1 on a dictionary of one layer, coordinate by coordinate.

    "coordinates" is flat position → {"mean", "sigma" of Gaussians, any moments};
    "scores" and "additions" are flat position → number.
    """
    removed = sorted(coordinates, key=lambda i: (scores[i], i))[:count]
    kept = set(coordinates) - set(removed)
    candidates = sorted(set(additions) - kept, key=lambda i: (-additions[i], i))
    selected = kept | set(candidates[:count])
    both = [coordinates[i] for i in selected if i in coordinates]
    start = dict.fromkeys(next(iter(coordinates.values())), 0.0)
    if "sigma" in start:
        start["sigma"] = float(np.mean([values["sigma"] for values in both]))
    now = {i: coordinates.get(i, start) for i in sorted(selected)}
    return now, len(both) - len(kept)


def as_coordinates(state, masks, path):
    """Flat position → what the state has of that weight, Adam's moments by place."""
    packed = state.posterior[path]
    columns = {"mean": packed.mean}
    if isinstance(packed, Gaussian):
        columns["sigma"] = np.logaddexp(0, packed.rho.astype(np.float64))
    columns |= packed_leaves(state.opt_state, path, packed.mean.size)
    rows = zip(*columns.values(), strict=True)
    flat = map(int, np.flatnonzero(masks[path]))
    return {
        i: dict(zip(columns, row, strict=True))
        for i, row in zip(flat, rows, strict=True)
    }


@pytest.mark.parametrize("addition", ["gradient", "random"])
@pytest.mark.parametrize(
    ("kind", "removal"),
    [("gaussian", name) for name in sorted(criteria.REMOVAL)]
    + [("point", name) for name in subspace.POINT_REMOVALS],
)
def test_a_swap_is_algorithm_1(kind, removal, addition):
    inference, state, masks, _ = mlp_problem()
    if kind == "point":
        params = mlp_params()
        state = inference.init(KEY, params, state.model_state, masks, sigma_init=None)
    returned = 0
    for seed in range(4):
        state, masks = filled((None, state, masks, None), seed)
        old, gradients = host(state), random_gradients(masks, seed)
        state, new_masks, swapped = swap(
            state,
            masks,
            gradients=gradients,
            rate=0.6,
            rng=seed,
            removal=removal,
            addition=addition,
            lam=0.5,
        )
        new, rng, by_hand = host(state), np.random.default_rng(seed), [0, 0]
        for path, mask in sorted(masks.items()):
            before = as_coordinates(old, masks, path)
            scores = {i: score(values, removal) for i, values in before.items()}
            grown = (
                gradients[path] if addition == "gradient" else rng.random(mask.shape)
            )
            count = round(0.6 * len(before))
            want, came_back = swapped_by_hand(
                before, scores, dict(enumerate(grown.reshape(-1))), count
            )
            by_hand = [by_hand[0] + count, by_hand[1] + came_back]
            got = as_coordinates(new, new_masks, path)
            assert got.keys() == want.keys()
            for i, values in got.items():
                assert values == pytest.approx(want[i], rel=1e-5)
        assert swapped == tuple(by_hand)
        returned += swapped.returned
        masks = new_masks
    assert returned > 0


def score(values, removal):
    if "sigma" in values:
        mean, sigma = float(values["mean"]), float(values["sigma"])
        return oracles.removal_scores(mean, sigma, 0.5)[removal]
    return abs(float(values["mean"]))  # of which the others are growing functions


@pytest.mark.parametrize("removal", sorted(criteria.REMOVAL))
def test_every_removal_score_removes_the_lowest(removal):
    state, masks = filled(mlp_problem())
    old = host(state)
    _, new_masks, _ = swap(state, masks, removal=removal, rate=0.3)
    for path, mask in masks.items():
        sigma = np.logaddexp(0, old.posterior[path].rho.astype(np.float64))
        scores = criteria.removal_scores(removal, old.posterior[path].mean, sigma)
        gradients = random_gradients(masks)[path]
        flat, _ = oracles.swap(mask, scores, gradients, round(0.3 * scores.size))
        np.testing.assert_array_equal(new_masks[path].reshape(-1), flat)


def test_random_addition_depends_on_the_generator_only():
    def masks_after(rng, gradients, reverse=False):
        state, masks = filled(mlp_problem())
        if reverse:
            masks = dict(reversed(masks.items()))
        found = swap(state, masks, addition="random", rng=rng, gradients=gradients)[1]
        return dict(sorted(found.items()))

    reference = masks_after(0, {})
    assert_equal(masks_after(0, random_gradients(reference)), reference)
    assert_equal(masks_after(0, {}, reverse=True), reference)
    other = masks_after(1, {})
    assert any((other[path] != reference[path]).any() for path in reference)


# Bad input -------------------------------------------------------------------------


def spoiled(value):
    def spoil(gradients):
        gradients["b/kernel"][1, 1] = value

    return spoil


BAD_GRADIENTS = {
    "nan": (spoiled(np.nan), "finite"),
    "inf": (spoiled(np.inf), "finite"),
    "missing": (lambda g: g.pop("b/kernel"), "b/kernel"),
    "transposed": (lambda g: g.update({"b/kernel": g["b/kernel"].T}), "shape"),
}


@pytest.mark.parametrize("name", BAD_GRADIENTS)
def test_bad_gradients_are_refused_before_anything_moves(name):
    spoil, word = BAD_GRADIENTS[name]
    _, state, masks, _ = mlp_problem()
    gradients = random_gradients(masks)
    spoil(gradients)
    with pytest.raises(InputError, match=word):
        swap(state, masks, gradients=gradients)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_a_rate_outside_its_range_is_refused(rate):
    _, state, masks, _ = mlp_problem()
    with pytest.raises(InputError, match="rate"):
        swap(state, masks, rate=rate)


def test_a_posterior_that_diverged_is_refused():
    _, state, masks, _ = mlp_problem()
    spoilt = jax.tree.map(lambda leaf: leaf * np.nan, state.posterior)
    with pytest.raises(InputError, match="finite"):
        swap(state._replace(posterior=spoilt), masks)


@pytest.mark.parametrize(
    "rule",
    [{"removal": "magnitude"}, {"addition": "magnitude"}, {"growth_init": "zero"}],
)
def test_unknown_names_list_the_known_ones(rule):
    with pytest.raises(InputError, match=r"got '.*', allowed: .*, "):
        subspace.Rule(**rule)

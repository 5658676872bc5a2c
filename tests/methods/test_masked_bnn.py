"""Masks sampled by Metropolis-Hastings: swaps of a network, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
import smoke_run
import tiny_methods

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods.algorithms import mask_moves
from ssvi_jax.methods.algorithms.mask_moves import MaskMoves
from ssvi_jax.methods.masked_bnn import MaskedBNN
from ssvi_jax.vi import Trainable, masks, posterior


@pytest.fixture(scope="module")
def problem():
    return smoke_run.tiny_problem(method="masked_bnn")


@pytest.fixture(scope="module")
def arrays():
    return tiny_methods.arrays()


def build(problem, **changes) -> MaskMoves:
    return MaskedBNN(**changes).build(problem)


def started(method, seed=0):
    state, kept = method.init(jax.random.key(seed), np.random.default_rng(seed))
    step = jax.numpy.asarray(10, jax.numpy.int32)
    return state._replace(step=step), kept


@pytest.fixture(scope="module")
def method(problem):
    return build(problem, sparsity=0.8, spike_std=0.01, replacement_rate=0.02)


ROWS = np.arange(8 * 64, dtype=np.int32).reshape(8, 64)


def test_a_move_sees_the_likelihood_and_gradient_of_the_mean_network(method, arrays):
    state, kept = started(method)
    layers, inference = mask_moves.start(state, kept), method.inference
    plain = dataclasses.replace(inference, augment=None)
    want = plain.dense_gradient(state, kept, arrays, ROWS[:1], at_mean=True)
    for path in kept:
        nll, score = method.evaluate(
            state, kept, arrays, (ROWS[0], ROWS[0]), layers, path
        )
        np.testing.assert_allclose(
            np.abs(score) / method.problem.num_data,
            np.asarray(want[path]).reshape(-1),
            rtol=1e-4,
            atol=1e-7,
        )
    # One batch guides, the other judges.
    path = "dense1/kernel"
    found = [
        method.evaluate(state, kept, arrays, (ROWS[i], ROWS[j]), layers, path)
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[1][0], found[2][0])
    assert (found[0][0] != found[1][0]).any()
    assert (found[1][1] != found[2][1]).any()
    # A small step along the score raises the likelihood of the batch as it says.
    step = 1e-3
    layer = layers[path]
    nll, score = method.evaluate(state, kept, arrays, (ROWS[0], ROWS[0]), layers, path)
    along = score[layer.index] / np.linalg.norm(score[layer.index])
    moved = layer._replace(mean=np.float32(layer.mean + step * along))
    new, _ = method.evaluate(
        state, kept, arrays, (ROWS[0], ROWS[0]), {**layers, path: moved}, path
    )
    gain = method.problem.num_data * np.mean(nll - new)
    slope = np.linalg.norm(score[layer.index])
    assert gain == pytest.approx(step * slope, rel=0.05)
    assert nll.shape == (64,)


def test_a_swap_keeps_counts_and_moves_values_and_moments_along(method, arrays):
    state, old = started(method)
    means = {path: np.array(q.mean) for path, q in state.posterior.items()}
    ones = jax.tree.map(jax.numpy.ones_like, state.opt_state)
    state, new, event = method.swap(
        state._replace(opt_state=ones), old, arrays, ROWS, rng(1)
    )
    assert masks.counts(new) == masks.counts(old)
    assert event["replacement_rate"] == 0.02
    assert 0 < event["acceptance_rate"] <= 1
    assert 0 < event["num_swapped"]
    moments = jax.tree.leaves(
        state.opt_state, is_leaf=lambda node: isinstance(node, Trainable)
    )
    moments = [m for m in moments if isinstance(m, Trainable) and m.posterior]
    assert moments
    came = 0
    for path, mask in new.items():
        before = np.zeros(mask.shape, np.float32)
        before[old[path]] = means[path]
        packed = state.posterior[path]
        assert isinstance(packed, Gaussian)
        fresh = np.asarray(packed.mean) != before[mask]
        came += int(fresh.sum())
        assert (np.abs(packed.mean)[fresh] < 0.01 * (2 + 5)).all()
        for moment in moments:
            if isinstance(moment.posterior[path], Gaussian):
                for leaf in jax.tree.leaves(moment.posterior[path]):
                    np.testing.assert_array_equal(leaf, ~fresh)
        sigma = np.asarray(posterior.sigma_of(packed))
        if fresh.any():
            np.testing.assert_allclose(sigma[fresh], sigma[~fresh].mean(), rtol=1e-4)
    assert came == event["num_swapped"]


def rng(seed):
    return np.random.default_rng(seed)


def test_a_swap_is_a_function_of_its_rng(method, arrays):
    found = []
    for seed in (1, 1, 2):
        state, old = started(method)
        state, new, _ = method.swap(state, old, arrays, ROWS, rng(seed))
        found.append((new, jax.device_get(state.posterior)))
    jax.tree.map(np.testing.assert_array_equal, found[0], found[1])
    assert any((found[0][0][path] != found[2][0][path]).any() for path in old)


def test_when_masks_change(problem, method):
    assert method.num_growth_batches(10) == 2 * 10
    assert method.num_growth_batches(round(0.75 * method.problem.total_steps)) == 0
    assert build(problem, sparsity=0.0).num_growth_batches(10) == 0
    assert build(problem, replacement_rate=0.0).num_growth_batches(10) == 0


def test_what_is_not_finite_stops_a_move(method, arrays):
    state, kept = started(method)
    params = jax.tree.map(lambda leaf: leaf * np.nan, state.params)
    state = state._replace(params=params)
    with pytest.raises(InputError, match="likelihood of a move, or its gradient at"):
        method.swap(state, kept, arrays, ROWS, rng(0))


@pytest.mark.parametrize("field", ["removal", "addition", "grow_at_mean", "prior"])
def test_its_chain_decides_what_leaves_and_enters_at_the_means(field):
    assert field not in MaskedBNN.names()


def test_settings_that_do_not_fit_are_refused(problem):
    with pytest.raises(InputError, match="densities: "):
        build(problem, sparsity=0.9999)
    with pytest.raises(InputError, match=r"^spike_std: got 0\.0, allowed"):
        MaskedBNN(spike_std=0.0)
    words = "batch_size: got 1, allowed with masked_bnn: 2 or more"
    with pytest.raises(InputError, match=words):
        build(dataclasses.replace(problem, batch_size=1))
    # One example alone needs no variance.
    build(dataclasses.replace(problem, batch_size=1, num_data=1))

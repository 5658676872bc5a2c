"""The training state: reproducible, compiled once, donated, sparse throughout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import assert_equal, host, mlp, mlp_params, mlp_problem

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import inference as inference_lib
from ssvi_jax.vi import likelihoods, posterior, subspace
from ssvi_jax.vi import masks as masks_lib

BATCHES = np.arange(12, dtype=np.int32).reshape(3, 4)
RULE = subspace.Rule()


def num_compiled(function):
    return function._cache_size()


def phases(problem, num, seed=0):
    """Yields the host's copy of (state, masks) before each of `num` phases."""
    inference, state, masks, data = problem
    rng = np.random.default_rng(seed)
    for _ in range(num):
        state, _ = inference.inner_loop(state, masks, data, BATCHES)
        gradients = jax.device_get(
            inference.dense_gradient(state, masks, data, BATCHES[:2])
        )
        state, masks, swapped = subspace.removal_addition(
            state, masks, gradients, rate=0.4, rule=RULE, rng=rng
        )
        assert swapped.removed == 4 + 2  # round(0.4 · 10), round(0.4 · 6)
        yield state, masks


@pytest.fixture(scope="module")
def three_phases():
    """A problem, and the states after three phases; nothing else compiles its VI."""
    problem = mlp_problem()
    counters = (vi.VI._scan, vi.VI._dense_gradient, subspace._move)
    # `_move` may serve other tests of the same shapes in the same process.
    getattr(subspace._move, "clear_cache")()  # noqa: B009 (unknown to pyright)
    before = list(map(num_compiled, counters))
    states = [(host(state), masks) for state, masks in phases(problem, 3)]
    compiled = [num_compiled(c) - n for c, n in zip(counters, before, strict=True)]
    return problem[0], states, compiled


def test_everything_compiles_once_for_many_phases(three_phases):
    _, states, compiled = three_phases
    assert compiled == [1, 1, 1]
    masks = [masks for _, masks in states]
    assert any((masks[0][path] != masks[2][path]).any() for path in masks[0])


def test_one_seed_is_one_run(three_phases):
    inference, states, _ = three_phases
    _, state, masks, data = mlp_problem()
    again = list(phases((inference, state, masks, data), 3))[-1]
    assert_equal(again[0], states[-1][0])
    assert_equal(again[1], states[-1][1])


def test_another_seed_is_another_run(three_phases):
    inference, states, _ = three_phases
    _, state, masks, data = mlp_problem()
    state = state._replace(key=jax.random.key(1))
    state, masks = next(phases((inference, state, masks, data), 1))
    first = states[0][0]
    assert (host(state).params["b"]["bias"] != first.params["b"]["bias"]).all()


def test_a_layer_keeps_its_count_and_its_zeros(three_phases):
    inference, states, _ = three_phases
    for state, masks in states:
        assert masks_lib.counts(masks) == {"a/kernel": 10, "b/kernel": 6}
        params = trees.flatten(inference.sample(state, masks, jax.random.key(0)))
        for path, mask in masks.items():
            np.testing.assert_array_equal(params[path] != 0, mask)


def test_the_inner_loop_is_its_steps_one_by_one():
    inference, state, masks, data = mlp_problem()
    sub, rows = masks_lib.to_subspace(masks), jnp.array(BATCHES)
    update = jax.jit(inference.update)
    expected, losses = state, []
    for row in rows:
        expected, metrics = update(expected, sub, (data[0][row], data[1][row]))
        losses.append(float(metrics["loss"]))
    expected = host(expected)
    state, metrics = inference.inner_loop(state, masks, data, BATCHES)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        host(state),
        expected,
    )
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    assert metrics.keys() == {"loss", "nll", "kl", "kl_weight", "accuracy"}
    assert int(state.step) == 3
    assert int(state.model_state["passes"]) == 3


def test_the_state_is_donated_and_the_users_arrays_are_not():
    inference, _, masks, data = mlp_problem()
    params, model_state = mlp_params(), {"passes": jnp.zeros((), jnp.int32)}
    key = jax.random.key(0)
    before = inference.init(key, params, model_state, masks)
    after, _ = inference.inner_loop(before, masks, data, BATCHES)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.posterior))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.opt_state))
    users = (key, params, model_state, data, after)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(users))


def test_an_optimizer_may_keep_the_parameters_themselves():
    """Donating one buffer twice would fail; such optimizers are given copies."""

    def update(updates, state, params=None):
        return updates, state

    keep = optax.GradientTransformation(lambda params: params, update)
    inference, state, masks, data = mlp_problem(tx=optax.chain(keep, optax.sgd(0.1)))
    _, metrics = inference.inner_loop(state, masks, data, BATCHES[:1])
    assert np.isfinite(metrics["loss"]).all()


# The dense gradient ----------------------------------------------------------------


def loss_of_full_means(inference, state, masks, batch, key, estimator):
    """The growth loss as a function of every mean, kept or not, written anew."""
    sub = masks_lib.to_subspace(masks)
    shapes = {path: mask.shape for path, mask in masks.items()}
    packed = state.posterior

    def loss(means):
        noise = posterior.sample(
            {p: g._replace(mean=jnp.zeros_like(g.mean)) for p, g in packed.items()},
            sub,
            jax.random.fold_in(key, 0),
        )
        kernels = None
        if estimator == "local_reparam":
            # All coordinates, the pruned ones without noise.
            everything = masks_lib.to_subspace(
                {path: np.ones(shape, bool) for path, shape in shapes.items()}
            )
            kernels = {
                path: posterior.PackedKernel(
                    mean=means[path].reshape(-1),
                    sigma=jnp.zeros(masks[path].size)
                    .at[sub.index[path]]
                    .set(posterior.to_sigma(packed[path].rho)),
                    index=everything.index[path],
                    shape=shapes[path],
                )
                for path in masks
            }
        if estimator == "flipout":
            everything = masks_lib.to_subspace(
                {path: np.ones(shape, bool) for path, shape in shapes.items()}
            )
            kernels = {
                path: posterior.PackedKernel(
                    mean=means[path].reshape(-1),
                    sigma=None,
                    index=everything.index[path],
                    shape=shapes[path],
                    deviation=noise[path].reshape(-1),
                )
                for path in masks
            }
        draws = {
            path: means[path] + (0.0 if estimator == "mean" else noise[path])
            for path in masks
        }
        params = trees.merge(state.params, draws)
        output, _ = mlp(
            params,
            state.model_state,
            batch[0],
            train=True,
            key=jax.random.fold_in(key, 1),
            kernels=kernels,
        )
        return -jnp.mean(likelihoods.Categorical().log_prob(output, batch[1]))

    return loss


@pytest.mark.parametrize("estimator", [*vi.ESTIMATORS, "mean"])
def test_dense_gradient_is_the_gradient_of_all_means(estimator):
    sampled = "weight_sample" if estimator == "mean" else estimator
    inference, state, masks, data = mlp_problem(estimator=sampled)
    found = inference.dense_gradient(
        state, masks, data, BATCHES, at_mean=estimator == "mean"
    )
    key = jax.random.fold_in(
        jax.random.fold_in(state.key, state.step), inference_lib._GROWTH_STREAM
    )
    means = posterior.sample(state.posterior, masks_lib.to_subspace(masks), None)

    @jax.jit
    def total_loss(means):
        losses = []
        for i, rows in enumerate(BATCHES):
            _, key_forward = jax.random.split(jax.random.fold_in(key, i))
            batch = (data[0][rows], data[1][rows])
            loss = loss_of_full_means(
                inference, state, masks, batch, key_forward, estimator
            )
            losses.append(loss(means))
        return sum(losses) / len(BATCHES)

    expected = jax.jit(jax.grad(total_loss))(means)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], np.abs(gradient), rtol=1e-4, atol=1e-6)
        # Finite differences, at a pruned weight and at a kept one.
        for flat in (np.argmin(masks[path]), np.argmax(masks[path])):
            step = np.zeros(masks[path].shape, np.float32)
            step.reshape(-1)[flat] = 1e-2
            ends = [
                float(total_loss({**means, path: means[path] + sign * step}))
                for sign in (1, -1)
            ]
            slope = abs(ends[0] - ends[1]) / 2e-2
            assert slope == pytest.approx(float(found[path].flatten()[flat]), abs=3e-4)


# Bad input -------------------------------------------------------------------------


def changed(masks, **changes):
    return {k: v for k, v in {**masks, **changes}.items() if v is not None}


MASKS = mlp_problem()[2]
BAD_MASKS = {
    "missing": (changed(MASKS, **{"a/kernel": None}), "a/kernel"),
    "unknown": (changed(MASKS, **{"c/kernel": np.ones((2, 2), bool)}), "c/kernel"),
    "shape": (changed(MASKS, **{"a/kernel": np.ones((4, 5), bool)}), "a/kernel"),
    "dtype": (changed(MASKS, **{"a/kernel": np.ones((5, 4))}), "bool"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_masks_of_another_model_are_refused(name):
    inference, state, _, _ = mlp_problem()
    bad, word = BAD_MASKS[name]
    with pytest.raises(InputError, match=word):
        inference.init(jax.random.key(0), mlp_params(), state.model_state, bad)


@pytest.mark.parametrize("name", BAD_MASKS)
def test_masks_that_do_not_fit_the_state_are_refused(name):
    inference, state, _, data = mlp_problem()
    bad, word = BAD_MASKS[name]
    with pytest.raises(InputError, match=word):
        inference.inner_loop(state, bad, data, BATCHES)
    with pytest.raises(InputError, match=word):
        inference.dense_gradient(state, bad, data, BATCHES)
    with pytest.raises(InputError, match=word):
        inference.sample(state, bad, jax.random.key(0))


def test_rows_that_the_data_do_not_have_are_refused():
    inference, state, masks, data = mlp_problem()
    for function in (inference.inner_loop, inference.dense_gradient):
        with pytest.raises(InputError, match="batch_index: got rows from 0 to 12"):
            function(state, masks, data, np.array([[0, 12]]))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"estimator": "flip"}, "flipout, local_reparam"), ({"num": 0}, "num_data")],
)
def test_bad_settings_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        mlp_problem(**options)


def test_half_precision_logits_give_a_likelihood_in_full():
    logits = jnp.array([[8.0, 0.0, -3.0], [1.0, 2.0, 0.5]], jnp.bfloat16)
    found = likelihoods.Categorical().log_prob(logits, jnp.array([0, 2]))
    exact = np.asarray(logits, np.float64)
    exact -= np.log(np.sum(np.exp(exact), axis=1, keepdims=True))
    np.testing.assert_allclose(found, exact[[0, 1], [0, 2]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "labels", "expected"),
    [
        ([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]], [1, 1, 1], 2 / 3),
        ([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]], [[0.2, 0.8]] * 3, 2 / 3),
    ],
)
def test_accuracy_is_of_the_likeliest_class(output, labels, expected):
    found = likelihoods.Categorical().metrics(jnp.array(output), jnp.array(labels))
    np.testing.assert_allclose(found["accuracy"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "labels", [[[0, 1], [0, 1]], [[1], [0]], [0, 1, 1], [0.5, 1.5], [[0.5], [1.5]]]
)
def test_labels_in_another_shape_are_refused(labels):
    words = r"labels: got (.*\[2, 2\]|dtype float32), allowed: "
    with pytest.raises(InputError, match=words):
        likelihoods.Categorical().log_prob(jnp.eye(2), jnp.array(labels))

"""Point estimates in the place of Gaussians: training, swaps, predictions, files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import tiny
from forged_models import assert_refused, forge
from model_files import CONFIG, example
from tiny import assert_close, assert_equal, host, mlp, mlp_params

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point, Weights
from ssvi_jax.evaluation.run import results
from ssvi_jax.io import artifact
from ssvi_jax.methods.algorithms.sgd import sgd
from ssvi_jax.networks.models.resnet import ResNet
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior, predictive, subspace
from ssvi_jax.vi.execution import Execution

ROWS = np.arange(12, dtype=np.int32).reshape(3, 4)


def problem(sigma_init=None, **options):
    """`tiny.mlp_problem` with points, or with Gaussians of that sigma."""
    tx = sgd(0.1, weight_decay=0.01)
    inference, _, masks, data = tiny.mlp_problem(tx=tx, **options)
    params, counter = mlp_params(), {"passes": jnp.zeros((), jnp.int32)}
    state = inference.init(
        tiny.KEY, params, counter, masks, mean_std=0.5, sigma_init=sigma_init
    )
    return inference, state, masks, data


def as_points(weights: Weights) -> Weights:
    return weights._replace(
        posterior={path: Point(q.mean) for path, q in weights.posterior.items()}
    )


# Training --------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_the_loss_and_its_gradients_are_those_of_a_masked_network(estimator):
    inference, state, masks, (x, labels) = problem(estimator=estimator)
    subspace_ = masks_lib.to_subspace(masks)
    trainable = vi.Trainable(state.posterior, state.params)
    (loss, (metrics, _)), grads = jax.value_and_grad(
        inference.negative_elbo, has_aux=True
    )(trainable, state.model_state, subspace_, (x, labels), tiny.KEY, state.step)

    def plain(kernels):
        hidden = jnp.tanh(x @ kernels["a/kernel"] + state.params["a"]["bias"][None])
        logits = hidden @ kernels["b/kernel"] + state.params["b"]["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(12), labels])

    kernels = posterior.sample(state.posterior, subspace_, None)
    want, dense = jax.value_and_grad(plain)(kernels)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert metrics["kl"] == 0
    batch = np.arange(12, dtype=np.int32)[None]
    everywhere = inference.dense_gradient(state, masks, (x, labels), batch)
    for path, mask in masks.items():
        assert isinstance(grads.posterior[path], Point)
        assert_close(grads.posterior[path].mean, np.asarray(dense[path])[mask])
        assert_close(everywhere[path], np.abs(dense[path]))


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_a_gaussian_without_spread_and_kl_trains_like_a_point(estimator):
    options = {"estimator": estimator, "kl_weight": lambda step: 0.0}
    found = []
    for sigma_init in (None, (posterior.MIN_SIGMA, 0.0)):
        inference, state, masks, data = problem(sigma_init, **options)
        start = host({path: q.mean for path, q in state.posterior.items()})
        state, metrics = inference.inner_loop(state, masks, data, ROWS)
        means = host({path: q.mean for path, q in state.posterior.items()})
        found.append((start, means, host(state.params), host(metrics["nll"])))
    point, gaussian = found
    assert_equal(point[0], gaussian[0])
    assert_close(point[1:], gaussian[1:])
    for path in point[0]:
        assert np.abs(point[1][path] - point[0][path]).max() > 1e-3


def test_points_take_the_rate_and_decay_of_means():
    tree = vi.Trainable({"k": Point(jnp.ones(2))}, {"bias": jnp.ones(1)})
    tx = sgd(0.1, sigma_learning_rate=9.0, momentum=0.0, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, tree)
    updates, _ = tx.update(zeros, tx.init(tree), tree)
    assert_close(updates, jax.tree.map(lambda v: -0.1 * 0.5 * v, tree))


@pytest.mark.skipif(not custom_calls.available(), reason="no compiled kernels")
def test_the_sparse_kernels_train_points_too():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 4), jnp.int32)
    model, params, statistics = tiny.from_flax(ResNet((1, 1), 10, 8), x[:1])
    found = []
    for backend in ("sparse", "xla"):
        execution = Execution(backend)
        inference = vi.VI(model, optax.sgd(0.1), 4, execution=execution)
        shapes = inference.kernel_shapes(params)
        masks = masks_lib.create(shapes, 0.7, np.random.default_rng(1))
        state = inference.init(tiny.KEY, params, statistics, masks, sigma_init=None)
        rows = np.arange(4, dtype=np.int32)[None]
        dense = inference.dense_gradient(state, masks, (x, labels), rows)
        state, metrics = inference.inner_loop(state, masks, (x, labels), rows)
        found.append((dense, state.posterior, metrics["loss"]))
    for got, want in zip(*map(jax.tree.leaves, found), strict=True):
        error = np.linalg.norm(np.float64(got) - np.float64(want))
        assert error <= 1e-4 * (np.linalg.norm(np.float64(want)) + 1e-6)


# Swaps and pruning -----------------------------------------------------------------


def trained():
    """A state with momenta, its masks, and the host's copy of the state."""
    inference, state, masks, data = problem()
    state, _ = inference.inner_loop(state, masks, data, ROWS)
    return state, masks, host(state)


def moments(state, path):
    """The one momentum that SGD keeps of a packed kernel."""
    (trace,) = (
        leaf
        for where, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if path in jax.tree_util.keystr(where)
    )
    return trace


def test_the_smallest_points_leave_and_their_momenta_with_them():
    state, masks, old = trained()
    rng = np.random.default_rng(0)
    gradients = {path: rng.random(mask.shape) for path, mask in masks.items()}
    new, new_masks, swapped = subspace.removal_addition(
        state,
        masks,
        gradients,
        rate=0.4,
        rule=subspace.Rule(removal="mean"),
        rng=rng,
    )
    assert swapped.removed == 4 + 2  # round(0.4 · 10), round(0.4 · 6)
    for path, mask in masks.items():
        mean, count = old.posterior[path].mean, round(0.4 * mask.sum())
        flat, source = oracles.swap(mask, np.abs(mean), gradients[path], count)
        np.testing.assert_array_equal(new_masks[path].reshape(-1), flat)
        for values, moved in (
            (mean, new.posterior[path].mean),
            (moments(old, path), moments(new, path)),
        ):
            want = [0.0 if s is None else values[s] for s in source]
            np.testing.assert_array_equal(moved, want)


@pytest.mark.parametrize("removal", ["snr", "abs_snr", "exp_abs_snr"])
def test_points_have_no_ratio_of_signal_to_noise(removal):
    state, masks, _ = trained()
    words = f"removal of points: got '{removal}', allowed: abs_mean, exp_abs_mean, mean"
    with pytest.raises(InputError, match=words):
        subspace.removal_addition(
            state,
            masks,
            None,
            rate=0.5,
            rule=subspace.Rule(removal=removal, addition="random"),
            rng=np.random.default_rng(0),
        )


@pytest.mark.parametrize("sigma_init", [None, (0.3, 0.1)])
def test_pruning_keeps_what_it_keeps(sigma_init):
    inference, state, masks, data = problem(sigma_init)
    state, _ = inference.inner_loop(state, masks, data, ROWS)
    rng = np.random.default_rng(0)
    kept = {path: mask & (rng.random(mask.shape) < 0.5) for path, mask in masks.items()}
    old, new = host(state), host(subspace.prune(state, masks, kept))
    for path, mask in masks.items():
        where = kept[path][mask]
        assert 0 < where.sum() < mask.sum()
        for before, after in zip(old.posterior[path], new.posterior[path], strict=True):
            np.testing.assert_array_equal(after, before[where])
    sizes = {mask.sum(): kept[path].sum() for path, mask in masks.items()}
    for before, after in zip(*map(jax.tree.leaves, (old, new)), strict=True):
        assert after.shape == tuple(sizes.get(n, n) for n in before.shape)
    assert_equal(new.params, old.params)


@pytest.mark.parametrize("kind", ["missing", "extra", "not selected", "shape"])
def test_pruning_to_what_is_not_there_is_refused(kind):
    state, masks, _ = trained()
    kept = {path: mask.copy() for path, mask in masks.items()}
    if kind == "missing":
        del kept["a/kernel"]
    elif kind == "extra":
        kept["c/kernel"] = np.ones((1, 1), bool)
    elif kind == "not selected":
        kept["a/kernel"][~masks["a/kernel"]] = True
    else:
        kept["a/kernel"] = kept["a/kernel"].T
    with pytest.raises(InputError, match=r"kept: not a part of the masks at '(a|c)/"):
        subspace.prune(state, masks, kept)


# Predictions and files -------------------------------------------------------------


def test_points_are_predicted_once_without_samples():
    params = tiny.mlp_params()
    weights, sub = tiny.random_weights(
        params, {"passes": jnp.zeros((), jnp.int32)}, sigma=0.5
    )
    masks = {path: np.zeros(shape, bool) for path, shape in sub.shapes}
    for path, mask in masks.items():
        mask.reshape(-1)[np.asarray(sub.index[path])] = True
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    args = {"key": tiny.KEY, "num_samples": 4}
    random = predictive.predict(mlp, weights, masks, x, **args)
    certain = predictive.predict(mlp, as_points(weights), masks, x, **args)
    np.testing.assert_array_equal(certain.mean_probs, random.mean_probs)
    np.testing.assert_array_equal(certain.mc_probs, certain.mean_probs)
    assert (random.mc_probs != random.mean_probs).any()
    assert certain.sample_entropy.shape == (1, 6)
    assert results.snr_histogram(as_points(weights)) is None
    assert posterior.is_random(weights.posterior)
    assert not posterior.is_random(as_points(weights).posterior)


@pytest.mark.parametrize("half", [False, True])
def test_a_model_file_of_points_holds_no_rho(half, tmp_path):
    weights, masks = example()
    sizes = artifact.save(
        tmp_path / "p.ssvi", as_points(weights), masks, config=CONFIG, half=half
    )
    both = artifact.save(tmp_path / "g.ssvi", weights, masks, config=CONFIG, half=half)
    assert sizes["rho"] == 0 < both["rho"]
    assert sizes["dense_vi_file"] == both["dense_vi_file"]
    got = artifact.load(tmp_path / "p.ssvi").weights.posterior
    want = artifact.load(tmp_path / "g.ssvi").weights.posterior
    for path in masks:
        assert isinstance(got[path], Point)
        assert isinstance(want[path], Gaussian)
        np.testing.assert_array_equal(got[path].mean, want[path].mean)


def test_a_file_may_mix_points_and_gaussians(tmp_path):
    weights, masks = example()
    mixed = {
        **weights.posterior,
        **dict(list(as_points(weights).posterior.items())[:1]),
    }
    path = tmp_path / "m.ssvi"
    artifact.save(path, weights._replace(posterior=mixed), masks, config=CONFIG)
    got = artifact.load(path).weights.posterior
    assert {p: type(q) for p, q in got.items()} == {
        p: type(q) for p, q in mixed.items()
    }
    assert_equal(got, mixed)


def drop(group):
    return lambda header: header["arrays"][group].pop()


def rename(group):
    return lambda header: header["arrays"][group][0].__setitem__(0, "elsewhere")


@pytest.mark.parametrize(
    "change", [drop("mean"), rename("mean"), rename("rho"), lambda h: h["layers"].pop()]
)
def test_files_whose_values_and_positions_do_not_match_are_refused(change, tmp_path):
    path = tmp_path / "model.ssvi"
    artifact.save(path, *example(), config=CONFIG)
    assert_refused(path, forge(path, change))

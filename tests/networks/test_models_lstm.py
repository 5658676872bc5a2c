"""The LSTM against one by hand, and how its kernels are drawn and trained."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import KEY, assert_close, from_flax, jit, random_weights

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.core.types import Subspace, Weights
from ssvi_jax.networks import models
from ssvi_jax.networks.models.lstm import LSTM
from ssvi_jax.networks.rank1_factors import Rank1, Rank1Spec
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior

TIME, FEATURES = 3, 5
KERNELS = [
    f"{layer}/kernel"
    for layer in (
        *("cell1_input", "cell1_recurrent", "cell2_input", "cell2_recurrent"),
        "linear",
    )
]


def series(number=6, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(number, TIME, FEATURES)), jnp.float32)


@pytest.fixture(scope="module")
def net():
    """The network's function, dense parameters and state of hidden sizes 3 and 2."""
    return from_flax(LSTM((3, 2), 3), series())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(params, x):
    """Logits in float64, one example and one step at a time."""
    flat = {p: np.asarray(v, np.float64) for p, v in trees.flatten(params).items()}
    logits = []
    for states in np.asarray(x, np.float64):
        for number in (1, 2):
            into, again = (
                flat[f"cell{number}_{kind}/kernel"] for kind in ("input", "recurrent")
            )
            bias, units = flat[f"cell{number}_input/bias"], len(again)
            h, c, outputs = np.zeros(units), np.zeros(units), []
            for state in states:
                gates = (state @ into + h @ again + bias).reshape(4, units)
                c = sigmoid(gates[1]) * c + sigmoid(gates[2]) * np.tanh(gates[0])
                h = sigmoid(gates[3]) * np.tanh(c)
                outputs.append(h)
            states = outputs
        logits.append(states[-1] @ flat["linear/kernel"] + flat["linear/bias"])
    return np.array(logits)


def test_logits_are_those_of_the_equations(net):
    model, params, state = net
    logits, _ = jit(partial(model, train=False, key=KEY))(params, state, series())
    np.testing.assert_allclose(logits, by_hand(params, series()), rtol=1e-5, atol=1e-6)


def test_forget_gates_begin_open():
    seen = {}

    def record(next_fn, args, kwargs, context):
        seen[context.module.name] = getattr(context.module, "bias_init", None)
        return next_fn(*args, **kwargs)

    with nn.intercept_methods(record):
        module, x = LSTM((3, 2), 3), series(1)
        jax.eval_shape(partial(module.init, train=False), KEY, x)
    for number, units in ((1, 3), (2, 2)):
        bias = np.asarray(seen[f"cell{number}_input"](KEY, (4 * units,), jnp.float32))
        np.testing.assert_array_equal(bias.reshape(4, units).sum(1), [0, units, 0, 0])


def test_an_image_is_read_row_by_row(net):
    model, params, state = net
    image = series().reshape(6, TIME, FEATURES, 1)
    apply = jit(partial(model, train=False, key=KEY))
    assert_close(
        apply(params, state, image)[0], apply(params, state, series())[0], 1e-6
    )


def test_sizes_follow_the_width():
    assert models.build("lstm", num_classes=2, width=0.25) == LSTM((16, 16), 2)
    assert models.build("lstm", num_classes=2, width=1e-9) == LSTM((1, 1), 2)


def test_every_kernel_is_a_layer_that_runs_at_every_step(net):
    model, params, state = net
    layers = model.layers(params, state, series())
    assert [layer.path for layer in layers] == KERNELS
    assert [layer.positions for layer in layers] == [TIME] * 4 + [1]
    assert set(trees.split(params)[0]) == set(KERNELS)


def test_a_weight_sample_holds_for_the_whole_series(net):
    model, params, state = net
    weights, sub = random_weights(params, state, sigma=0.3)
    forward = jit(partial(vi.forward, model, estimator="weight_sample", train=True))
    logits, _ = forward(weights, sub, series(), key=KEY)
    drawn = posterior.sample(weights.posterior, sub, jax.random.fold_in(KEY, 0))
    expected = by_hand(trees.merge(weights.params, drawn), series())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    at_mean = posterior.sample(weights.posterior, sub, None)
    other = by_hand(trees.merge(weights.params, at_mean), series())
    assert np.abs(expected - other).max() > 1e-2  # not that of the mean


@pytest.mark.parametrize("estimator", ["local_reparam", "weight_sample"])
def test_ssvi_trains_every_kernel_and_knows_its_whole_gradient(estimator):
    x, labels = series()[:, :2], jnp.arange(6) % 3  # short: every step is compiled
    model, params, state = from_flax(LSTM((2,), 3), x)
    inference = vi.VI(model, optax.sgd(0.1), 6, estimator=estimator)
    kept = masks_lib.create(
        inference.kernel_shapes(params), sparsity=0.5, rng=np.random.default_rng(0)
    )
    paths = [KERNELS[0], KERNELS[1], KERNELS[4]]
    assert sorted(kept) == paths
    start = inference.init(KEY, params, state, kept)
    before = jax.device_get(start.posterior)
    rows = np.arange(6, dtype=np.int32)[None]
    after, _ = inference.inner_loop(start, kept, (x, labels), rows)
    grads = inference.dense_gradient(after, kept, (x, labels), rows)
    for path in paths:
        for now, then in zip(after.posterior[path], before[path], strict=True):
            assert (np.asarray(now) != then).all()  # mean and rho
        assert (np.asarray(grads[path]) != 0).all()


@pytest.mark.skipif(
    not custom_calls.available(), reason="the sparse kernels do not run here"
)
@pytest.mark.parametrize("estimator", ["mean", "weight_sample"])
def test_the_sparse_kernels_give_the_same_series(net, estimator):
    model, params, state = net
    weights, sub = random_weights(params, state, sigma=0.3)

    def loss(packed, backend):
        given = Weights(packed, weights.params, state)
        options = {"estimator": estimator, "train": True, "backend": backend}
        logits, _ = vi.forward(model, given, sub, series(), key=KEY, **options)
        return jnp.sum(jnp.sin(logits))

    dense, ours = (
        jit(jax.value_and_grad(partial(loss, backend=name)))(weights.posterior)
        for name in ("xla", "sparse")
    )
    assert_close(dense, ours, 1e-4)


def test_every_kernel_has_rank_1_factors_that_hold_for_the_whole_series(net):
    model, params, state = net
    members = Rank1(model, Rank1Spec(num_members=2, posterior="point", init="normal"))
    more = jit(partial(members.add, x=series()))(params, state, key=KEY)
    flat = trees.flatten(more)
    for path in KERNELS:
        layer = path.removesuffix("/kernel")
        inputs, outputs = flat[path].shape
        assert flat[f"{layer}/rank1_r/mean"].shape == (2, inputs)
        assert flat[f"{layer}/rank1_s/mean"].shape == (2, outputs)
    apply = jit(partial(members, train=True, key=KEY))
    logits, _ = apply(more, state, series())
    for member in range(2):
        rows = slice(3 * member, 3 * member + 3)
        weights = Weights({}, more, state)
        alone, _ = jit(members.one)(weights, Subspace({}, ()), member, None)
        expected = by_hand(alone.params, series()[rows])
        np.testing.assert_allclose(logits[rows], expected, rtol=1e-4, atol=1e-5)

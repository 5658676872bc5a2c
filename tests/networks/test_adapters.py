"""Any Flax model as an apply function: nothing but its products may change."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import KEY, assert_close, from_flax, jit, random_weights

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.networks import adapters

# linen and nnx are one ---------------------------------------------------------------


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(3, (3, 3), strides=2, use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x).reshape(x.shape[0], -1)
        x = nn.tanh(nn.Dense(6, name="hidden")(x))
        return nn.Dense(3, name="out")(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        strides, bias = 2, False
        self.conv = nnx.Conv(2, 3, (3, 3), strides=strides, use_bias=bias, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.hidden = nnx.Linear(12, 6, rngs=rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.out(nnx.tanh(self.hidden(x.reshape(x.shape[0], -1))))


@pytest.fixture(scope="module")
def twins():
    """Both networks and their statistics; weights, masks and inputs for either."""
    x = jax.random.normal(KEY, (4, 4, 4, 2))
    linen, params, linen_state = from_flax(LinenNet(), x)
    other, other_params, _ = adapters.from_flax(NnxNet(nnx.Rngs(0)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, other_params)
    weights, sub = random_weights(params, {}, sigma=0.2)
    other_state = linen_state["batch_stats"]
    return [(linen, linen_state), (other, other_state)], weights, sub, x


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("estimator", [*vi.ESTIMATORS, "mean"])
def test_linen_and_nnx_give_equal_logits(twins, estimator, train):
    networks, weights, sub, x = twins
    options = {"key": KEY, "estimator": estimator, "train": train}
    found = []
    for apply_fn, model_state in networks:
        full = weights._replace(model_state=model_state)
        forward = jit(partial(vi.forward, apply_fn, full, sub, x, **options))
        logits, state = forward()
        state = state.get("batch_stats", state)
        found.append((logits, state))
    assert_close(*found)
    before = networks[0][1]["batch_stats"]["norm"]["mean"]
    assert np.any(found[0][1]["norm"]["mean"] != before) == train


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_linen_and_nnx_give_equal_elbos_and_gradients(twins, estimator):
    networks, weights, sub, x = twins
    labels, found = jnp.array([0, 1, 2, 0]), []
    for apply_fn, model_state in networks:
        inference = vi.VI(apply_fn, optax.sgd(0.1), 10, estimator=estimator)
        loss = jit(jax.value_and_grad(inference.negative_elbo, has_aux=True))
        trainable = vi.Trainable(weights.posterior, weights.params)
        batch, step = (x, labels), jnp.int32(0)
        (value, _), gradient = loss(trainable, model_state, sub, batch, KEY, step)
        found.append((value, gradient))
    assert_close(*found)


# What a model does besides its products ----------------------------------------------


class Steered(nn.Module):
    """Its output is what its call was told."""

    @nn.compact
    def __call__(self, x, train=0, training=0, is_training=0, deterministic=0):
        return jnp.array([train, training, is_training, deterministic])


class NnxSteered(nnx.Module):
    def __call__(self, x, *, use_running_average, deterministic, untouched=7):
        return jnp.array([use_running_average, deterministic, untouched])


@pytest.mark.parametrize(
    ("module", "training", "not_training"),
    [(Steered(), [1, 1, 1, 0], [0, 0, 0, 1]), (NnxSteered(), [0, 0, 7], [1, 1, 7])],
)
def test_arguments_that_say_whether_to_train_are_set(module, training, not_training):
    apply_fn, params, state = adapters.from_flax(module, jnp.ones((2, 3)), key=KEY)
    for train, expected in [(True, training), (False, not_training)]:
        output, _ = apply_fn(params, state, jnp.ones((2, 3)), train=train, key=KEY)
        np.testing.assert_array_equal(output, expected)


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(x)


class NnxDropout(nnx.Module):
    def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(x)


KEYS = {"threefry": KEY, "rbg": jax.random.key(0, impl="rbg")}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("module", [LinenDropout(), NnxDropout()])
def test_dropout_follows_the_key_and_rests_at_test_time(module, kind):
    x = jnp.ones((2, 64))
    apply_fn, params, state = adapters.from_flax(module, x, key=KEY)

    def run(train, key):
        return np.asarray(apply_fn(params, state, x, train=train, key=key)[0])

    key, other = KEYS[kind], jax.random.fold_in(KEYS[kind], 1)
    np.testing.assert_array_equal(run(False, key), x)
    np.testing.assert_array_equal(run(True, key), run(True, key))
    assert set(np.unique(run(True, key))) == {0.0, 2.0}
    assert (run(True, key) != run(True, other)).any()


class LinenShared(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name="layer")
        return layer(x) - layer(x)


class NnxShared(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.again = self.layer

    def __call__(self, x):
        return self.layer(x) - self.again(x)


@pytest.mark.parametrize("module", [LinenShared(), NnxShared()])
def test_a_shared_layer_draws_anew_at_every_call(module):
    x = jnp.ones((2, 4))
    apply_fn, params, state = from_flax(module, x)
    assert len(trees.split(params)[0]) == 1
    weights, sub = random_weights(params, state, sigma=0.3, density=1.0)
    for estimator, differs in [("local_reparam", True), ("weight_sample", False)]:
        options = {"key": KEY, "estimator": estimator, "train": False}
        output, _ = vi.forward(apply_fn, weights, sub, x, **options)
        assert (np.asarray(output) != 0).all() == differs


def test_a_failing_call_leaves_nothing_behind():
    """Inside the model, layers are as they were once their call has failed."""
    seen = []

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            try:
                layer(x.astype(jnp.complex64).reshape(-1)[0])
            except Exception:  # a scalar has no last axis
                seen.append(layer.dot_general)
            return layer(x)

    x, (_, params, state) = jnp.ones((2, 4)), from_flax(nn.Dense(3), jnp.ones((2, 4)))
    model = adapters.LinenModel(Spy())
    model({"Dense_0": params}, state, x, train=False, key=KEY)
    assert seen == [None]


def test_the_users_nnx_module_is_not_changed():
    module = NnxNet(nnx.Rngs(0))
    x = jnp.ones((2, 4, 4, 2))
    before, graph = jax.tree.map(np.array, nnx.state(module)), nnx.graphdef(module)
    apply_fn, params, state = adapters.from_flax(module)
    _, new_state = apply_fn(params, state, x, train=True, key=KEY)
    assert np.any(new_state["norm"]["mean"] != state["norm"]["mean"])
    jax.tree.map(np.testing.assert_array_equal, nnx.state(module), before)
    assert nnx.graphdef(module) == graph
    assert module.conv.conv_general_dilated is jax.lax.conv_general_dilated
    # Not even if the call fails.
    with pytest.raises(ValueError, match="dimension"):
        apply_fn(params, state, x[..., :1], train=True, key=KEY)
    assert nnx.graphdef(module) == graph


class LinenCounter(nn.Module):
    """Counts its calls, training or not."""

    @nn.compact
    def __call__(self, x):
        count = self.variable("counts", "calls", lambda: jnp.zeros(()))
        count.value += 1
        return x


class NnxCounter(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return x


@pytest.mark.parametrize("module", [LinenCounter(), NnxCounter()])
def test_model_state_moves_only_in_training(module):
    x = jnp.ones((2, 3))
    apply_fn, params, state = adapters.from_flax(module, x, key=KEY)
    (before,) = jax.tree.leaves(state)
    for train in (False, True):
        _, new_state = apply_fn(params, state, x, train=train, key=KEY)
        assert jax.tree.leaves(new_state) == [before + train]


class Odd(nn.Module):
    """Sows, trains with a stream of its own, has boxed parameters, returns two."""

    @nn.compact
    def __call__(self, x, train: bool):
        self.sow("intermediates", "inputs", x)
        boxed = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
        y = nn.Dense(3, kernel_init=boxed)(x)
        noise = jax.random.normal(self.make_rng("noise"), y.shape) if train else 1.0
        return y + noise, x


def test_models_may_sow_draw_box_and_return_more_than_logits():
    x = jnp.ones((2, 4))
    apply_fn, params, state = adapters.from_flax(Odd(), x, key=KEY)
    assert jax.tree.map(jnp.shape, params) == {
        "Dense_0": {"bias": (3,), "kernel": (4, 3)}
    }
    for train in (True, False):
        (y, same), new_state = apply_fn(params, state, x, train=train, key=KEY)
        assert jax.tree.structure(new_state) == jax.tree.structure(state)
        assert (y != 4.0).all()
        np.testing.assert_array_equal(same, x)


class NnxOdd(nnx.Module):
    def __init__(self):
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2)])
        self.table = jnp.arange(4.0)  # not a variable

    def __call__(self, x):
        self.seen = nnx.Intermediate(x)
        for block in self.blocks:
            x = block(x) + self.table[None]
        return x


def test_nnx_modules_may_hold_lists_arrays_and_intermediates():
    x = jnp.ones((2, 4))
    apply_fn, params, state = adapters.from_flax(NnxOdd())
    assert list(trees.flatten(params)) == [
        f"blocks/{i}/{name}" for i in range(2) for name in ("bias", "kernel")
    ]
    output, new_state = apply_fn(params, state, x, train=True, key=KEY)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    np.testing.assert_allclose(output, NnxOdd()(x), rtol=1e-6)


# Bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", [lambda x: x, nn.Dense, "resnet18", None])
def test_what_is_not_a_flax_module_is_refused(module):
    with pytest.raises(InputError, match=r"module: got .* flax\.linen"):
        adapters.from_flax(module, jnp.ones((2, 3)), key=KEY)


@pytest.mark.parametrize("arguments", [{}, {"x": np.ones((2, 3))}, {"key": KEY}])
def test_a_linen_module_needs_an_example_and_a_key(arguments):
    with pytest.raises(InputError, match="x, key: both are needed"):
        adapters.from_flax(nn.Dense(3), **arguments)


@pytest.mark.parametrize("module", [LinenShared(), NnxShared()])
def test_a_shared_layer_is_one_layer_applied_twice(module):
    x = jnp.ones((2, 4))
    layers = from_flax(module, x)[0].layers(*from_flax(module, x)[1:], x)
    assert [(layer.shape, layer.positions) for layer in layers] == [((4, 3), 2)]

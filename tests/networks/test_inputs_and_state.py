"""Inputs of any structure, whatever a model sows or holds, and equal networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import KEY

import ssvi_jax
from ssvi_jax import vi
from ssvi_jax.networks import adapters, linen_model
from ssvi_jax.vi import masks as masks_lib

# Inputs ------------------------------------------------------------------------------


class LinenTwo(nn.Module):
    @nn.compact
    def __call__(self, x):
        a, b = x.values() if isinstance(x, dict) else x
        return nn.Dense(2, name="a")(a) + nn.Dense(2, name="b")(b)


class NnxTwo(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(5, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        a, b = x.values() if isinstance(x, dict) else x
        return self.a(a) + self.b(b)


A, B = np.ones((4, 3), np.float32), np.ones((4, 5), np.float32)
INPUTS = {"dictionary": {"a": A, "b": B}, "tuple": (A, B)}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("build", [LinenTwo, NnxTwo])
def test_a_model_takes_a_pytree_of_inputs(build, kind):
    x = INPUTS[kind]
    net, params, state = adapters.from_flax(build(), x, key=KEY)
    output, _ = net(params, state, x, train=False, key=KEY)
    expected = sum(
        inputs @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
        for name, inputs in (("a", A), ("b", B))
    )
    np.testing.assert_allclose(output, expected, rtol=1e-5)
    assert [
        (layer.path, layer.positions) for layer in net.layers(params, state, x)
    ] == [
        ("a/kernel", 1),
        ("b/kernel", 1),
    ]
    channels = {"a/kernel": ((3,), (2,)), "b/kernel": ((5,), (2,))}
    assert net.channels(params, state, x) == channels


# State -------------------------------------------------------------------------------


class LinenSower(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(3)(x)
        self.sow("losses", "size", (x**2).mean())
        self.sow("intermediates", "all", x)
        self.sow("batch_stats", "odd", x.max())
        pair = self.variable("memory", "pair", lambda: (jnp.zeros(()), jnp.ones(2)))
        if train:
            pair.value = (pair.value[0] + 1, pair.value[1])
        return nn.BatchNorm(use_running_average=not train)(x)


class NnxSower(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = self.dense(x)
        self.sow(nnx.Intermediate, "size", (x**2).mean())
        return self.norm(x)


def used():
    """An nnx module that has sown before it came to us, as a trained one."""
    module = NnxSower()
    module(jnp.ones((2, 3)))
    return module


def phase(module, steps=3):
    """The state before and after a training of a few steps."""
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    net, params, model_state = adapters.from_flax(module, x[:1], key=KEY)
    inference = vi.VI(net, optax.adam(0.1), 8)
    masks = masks_lib.create(
        inference.kernel_shapes(params), 0.5, np.random.default_rng(0)
    )
    state = inference.init(KEY, params, model_state, masks)
    data = jnp.asarray(x), jnp.arange(8) % 3
    rows = np.arange(steps * 4).reshape(steps, 4) % 8
    state, metrics = inference.inner_loop(state, masks, data, rows)
    assert np.isfinite(metrics["loss"]).all()
    return model_state, state.model_state


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize("build", [LinenSower, NnxSower, used])
def test_a_model_that_sows_trains_with_the_state_that_lasts(build):
    before, after = phase(build())
    assert jax.tree.structure(before) == jax.tree.structure(after)
    if build is LinenSower:
        assert set(before) == {"batch_stats", "memory"}
        assert set(before["batch_stats"]) == {"BatchNorm_0"}
        count, same = after["memory"]["pair"]
        assert count == 3
        np.testing.assert_array_equal(same, 1.0)
        before, after = before["batch_stats"], after["batch_stats"]
        before, after = before["BatchNorm_0"], after["BatchNorm_0"]
    else:
        before, after = before["norm"], after["norm"]
    assert np.any(before["mean"] != after["mean"])


# Equality ----------------------------------------------------------------------------


class Sized(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.size)(x)


class Tabled(nn.Module):
    table: jax.Array

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + self.table[None]


def test_networks_of_equal_modules_share_what_is_compiled():
    traces = []

    def run(net, params):
        traces.append(net)
        return net(params, {}, jnp.ones((1, 3)), train=False, key=KEY)[0]

    compiled = jax.jit(run, static_argnums=0)
    for size in (2, 2, 3):
        net, params, _ = adapters.from_flax(Sized(size), jnp.ones((1, 3)), key=KEY)
        compiled(net, params)
    assert [net.module.size for net in traces] == [2, 3]


def test_networks_that_cannot_be_compared_are_equal_to_themselves_only():
    table = jnp.zeros(2)
    a, b = (adapters.LinenModel(Tabled(table)) for _ in range(2))
    assert a == a
    assert a != b
    assert len({a, b}) == 2
    a, b = (linen_of([{"a": 1}]) for _ in range(2))  # a dictionary has no hash
    assert a == a
    assert a != b
    assert adapters.LinenModel(Sized(2)) != adapters.LinenModel(Sized(3))
    assert adapters.LinenModel(Sized(2)) != Sized(2)


def linen_of(layers):
    return adapters.LinenModel(nn.Sequential(layers))


def linen_layers(width=6):
    return [nn.Dense(width), nn.relu, nn.Sequential([nn.Dense(3), nn.tanh])]


def nnx_of(width=6, draws=0):
    rngs = nnx.Rngs(0)
    drop = nnx.Dropout(0.5, rngs=rngs)
    for _ in range(draws):
        drop(jnp.ones(2))
    return adapters.NnxModel(nnx.Sequential(nnx.Linear(4, width, rngs=rngs), drop))


def test_modules_of_lists_and_of_nnx_are_compared_too():
    assert linen_of(linen_layers()) == linen_of(linen_layers())
    assert hash(linen_of(linen_layers())) == hash(linen_of(linen_layers()))
    assert linen_of(linen_layers()) != linen_of(linen_layers(7))
    assert linen_of(linen_layers()) != linen_of(linen_layers()[:2])
    assert nnx_of() == nnx_of()
    assert hash(nnx_of()) == hash(nnx_of())
    assert nnx_of() != nnx_of(7)
    assert nnx_of() != nnx_of(draws=1)  # its dropout goes on at another number


def test_an_equal_module_is_not_compiled_again():
    x, y = np.ones((8, 4), np.float32), np.arange(8) % 3

    def trained():
        net = adapters.from_flax(nn.Sequential(linen_layers()), x[:1], key=KEY)
        ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.5), net, (x, y), epochs=1)
        counted: list[Any] = [linen_model._init, vi.VI._scan]
        return [function._cache_size() for function in counted]

    assert trained() == trained()

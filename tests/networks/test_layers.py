"""Products of layers of every kind: where they are replaced, and what they compute."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_kinds import (
    KINDS,
    PICTURE,
    NnxConvs,
    plain_output,
)
from tiny import KEY, assert_close, from_flax, jit, random_weights

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.networks.layers import Layer

# Layers of every kind ----------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_layers_of_every_kind(name):
    """Value and dense gradient without noise are Flax's; with noise, it is there."""
    build, shape, local = KINDS[name]
    x = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    x = jnp.array(np.concatenate([x, x]))
    apply_fn, params, model_state = from_flax(build(), x)
    certain, sub = random_weights(params, model_state, sigma=1e-9)
    noisy, _ = random_weights(params, model_state, sigma=0.3)
    means, probes = {}, {}
    for path, kernel_shape in sub.shapes:
        probes[path] = np.zeros(kernel_shape, np.float32)
        means[path] = probes[path].copy()
        means[path].flat[sub.index[path]] = certain.posterior[path].mean

    def score(output):
        flat = output.astype(jnp.float32).reshape(-1)
        return flat @ jnp.sin(jnp.arange(flat.size)), output

    @jit
    @partial(jax.value_and_grad, has_aux=True)
    def ours(probes, weights, key):
        options = {"estimator": "local_reparam", "train": False, "probes": probes}
        return score(vi.forward(apply_fn, weights, sub, x, key=key, **options)[0])

    @jit
    @partial(jax.value_and_grad, has_aux=True)
    def flax(means):
        return score(plain_output(build(), trees.merge(certain.params, means), x))

    ((_, value), gradient), expected = ours(probes, certain, KEY), flax(means)
    assert value.dtype == expected[0][1].dtype
    tolerance = 3e-3 if value.dtype == jnp.bfloat16 else 1e-5
    assert_close((value, gradient), (expected[0][1], expected[1]), tolerance)

    a, b = (ours(probes, noisy, jax.random.key(i))[0][1] for i in range(2))
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert (a != b).mean() > 0.4
    # Only local noise tells two equal examples apart.
    same = np.allclose(*a, rtol=1e-4, atol=1e-5)
    assert same != local
    if not local:
        options = {"key": jax.random.key(0), "train": False}
        sample = jit(
            partial(vi.forward, apply_fn, estimator="weight_sample", **options)
        )
        assert_close(sample(noisy, sub, x)[0], a)


# The ledger's view -------------------------------------------------------------------


class Picture(nn.Module):
    """A strided and a grouped convolution, one dense layer used twice, attention."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, name="stem")(x)
        x = nn.Conv(6, (2, 2), feature_group_count=2, padding="VALID", name="group")(x)
        x = x.reshape(x.shape[0], -1, 6)
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        dense = nn.Dense(6, use_bias=False, name="dense")
        x = dense(dense(x))
        return nn.Dense(5, name="out")(x.reshape(-1, 6)).reshape(x.shape[0], -1)


def test_layers_are_listed_in_order_with_their_positions():
    x = jnp.zeros((7, 8, 6, 3))  # pictures of 8 by 6
    model, params, model_state = from_flax(Picture(), x)
    heads = ["query", "key", "value"]
    assert model.layers(params, model_state, x) == [
        Layer("stem/kernel", (3, 3, 3, 4), 4 * 3),
        Layer("group/kernel", (2, 2, 2, 6), 3 * 2),
        *(Layer(f"attention/{n}/kernel", (6, 2, 3), 6) for n in heads),
        Layer("attention/out/kernel", (2, 3, 6), 6),
        Layer("dense/kernel", (6, 6), 2 * 6),  # called twice
        Layer("out/kernel", (6, 5), 6),
    ]


def test_layers_of_nnx_models_are_listed_likewise():
    model, params, model_state = from_flax(NnxConvs(nnx.Rngs(0)), None)
    x = jnp.zeros((7, *PICTURE))
    assert model.layers(params, model_state, x) == [
        Layer("convs/0/kernel", (3, 3, 4, 2), 6 * 7),
        Layer("convs/1/kernel", (3, 3, 4, 2), 6 * 7),
        Layer("convs/2/kernel", (3, 3, 2, 2), 6 * 7),
    ]


def test_multiply_adds_are_those_of_the_compiled_network():
    """Σ size · positions is XLA's own count; half of its FLOPs are additions."""

    class Valid(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 2), padding="VALID", use_bias=False)(x)
            return nn.Dense(5, use_bias=False)(x.reshape(x.shape[0], -1))

    x = jnp.zeros((1, *PICTURE))
    model, params, model_state = from_flax(Valid(), x)
    layers = model.layers(params, model_state, x)
    ours = sum(2 * math.prod(layer.shape) * layer.positions for layer in layers)
    compiled = jax.jit(Valid().apply).lower({"params": params}, x).compile()
    analysis = compiled.cost_analysis()
    assert analysis is not None
    assert ours == pytest.approx(analysis["flops"], rel=0.05)

"""A part of a batch against the same part of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.ops import custom_calls, noise, shard, sparse

KEY = jax.random.key(3)


@pytest.mark.parametrize(
    ("shape", "whole", "first"),
    [
        ((1,), 2, 1),
        ((3, 4), 8, 2),
        ((2, 3, 5), 70, 64),
        ((4, 16), 64, 48),
        ((3, 0), 2, 1),
    ],
)
def test_noise_of_a_part(shape, whole, first):
    everything = jax.jit(lambda: noise.words(KEY, (*shape[:-1], whole)))()
    part = jax.jit(lambda at: noise.words(KEY, shape, whole, at))(first)
    for found, expected in zip(part, everything, strict=True):
        np.testing.assert_array_equal(
            found, expected[..., first : first + shape[-1]], strict=True
        )


@pytest.mark.skipif(not custom_calls.available(), reason=custom_calls.why_not())
@pytest.mark.parametrize("isa", custom_calls.instruction_sets())
@pytest.mark.parametrize(
    ("whole", "first", "count"),
    [(64, 32, 32), (64, 16, 16), (96, 0, 64), (37, 5, 20), (48, 16, 32), (9, 8, 1)],
)
def test_noise_of_a_part_in_the_kernels(whole, first, count, isa, monkeypatch):
    monkeypatch.setenv("SSVI_JAX_ISA", isa)
    rng = np.random.default_rng(0)
    shape = (3, 3, 2, 5)
    index = jnp.asarray(np.flatnonzero(rng.random(90) < 0.5), jnp.int32)
    mean, sigma = jnp.zeros(index.size), jnp.ones(index.size)
    x = jnp.asarray(rng.normal(size=(whole, 4, 3, 2)), jnp.float32)
    window = sparse.Window(shape, (1, 1), ((1, 1), (1, 1)))

    def sample(x, *place):
        seeds = jax.random.bits(KEY, (2,), jnp.uint32)
        words = jnp.concatenate([seeds, jnp.uint32(place)])
        y = sparse._sample(x, mean, sigma, index, words, window).y
        return np.asarray(y)

    part = sample(x[first : first + count], whole, first)
    expected = sample(x, whole, 0)[first : first + count]
    np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)
    own = sparse.lrt_conv(
        x, mean, sigma, index, shape, KEY, strides=(1, 1), padding=((1, 1), (1, 1))
    )
    np.testing.assert_array_equal(sample(x, whole, 0), own)


def test_outside_of_shards_nothing_happens():
    tree = {"a": jnp.arange(3.0), "b": jnp.arange(2)}
    assert not shard.is_shard()
    assert shard.mean(tree) is tree
    assert shard.place(7) == (7, 0)
    np.testing.assert_array_equal(shard.rows(jnp.arange, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(shard.gather(jnp.arange(2)), [[0, 1]])


def test_only_floating_leaves_are_averaged():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (shard.AXIS,))
    spec = jax.sharding.PartitionSpec()
    tree = {"a": jnp.arange(3.0), "b": jnp.arange(2), "c": jnp.bfloat16(1.5)}
    found = jax.shard_map(shard.mean, mesh=mesh, in_specs=spec, out_specs=spec)(tree)
    for name, value in tree.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)

"""A part of a batch against the same part of the whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
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
        sampled: Any = sparse._sample(x, mean, sigma, index, words, window)
        return np.asarray(sampled.y)

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


@pytest.mark.parametrize(("tiles", "part"), [(1, 2), (3, 1), (2, 0)])
def test_what_is_drawn_for_a_part_is_what_the_whole_has(tiles, part):
    parts, own, channels = 4, 5, 3
    count, whole = tiles * own, tiles * own * parts
    numbers = np.arange(whole).reshape(tiles, parts, own)[:, part].reshape(-1)
    everything = noise.normal(KEY, (whole, channels))

    @jax.jit
    def draw(part):
        with shard.part(part, parts), shard.tiled(tiles):
            shape = (count, channels)
            found = shard.noise(lambda *a: noise.normal(KEY, *_with(a)), shape, count)
            rows = shard.rows(lambda n: everything[:n].T, count, axis=1)
            return shard.numbers(count), found, rows.T

    for found, expected in zip(
        draw(part), (numbers, everything[numbers], everything[numbers]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def _with(arguments):
    shape, *place = arguments
    return (shape, jnp.float32, *place)


def test_parts_have_keys_of_their_own():
    @jax.jit
    def keys():
        found = [shard.own(KEY)]
        for i in range(2):
            with shard.part(i, 2), shard.tiled(3):
                found.append(shard.own(KEY))
        return [jax.random.key_data(key) for key in found]

    outside, first, second = map(np.asarray, keys())
    np.testing.assert_array_equal(outside, jax.random.key_data(KEY))
    assert len({tuple(k) for k in (outside, first, second)}) == 3


def test_a_repeated_batch_has_no_place_for_the_sparse_kernels():
    with (
        shard.part(0, 2),
        shard.tiled(2),
        pytest.raises(InputError, match="backend: got sparse"),
    ):
        shard.place(4)

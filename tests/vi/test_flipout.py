"""Flipout against brute force over its signs, moments, and the weight sample."""

import dataclasses
import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
from tiny import from_flax, jit, mlp_problem, random_weights
from tiny import mlp as apply_mlp

from ssvi_jax import ops, vi
from ssvi_jax.core.types import Gaussian
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior

IN, OUT, SAMPLES = 3, 2, 4000
SHAPES = {"dense": (IN, OUT), "conv": (3, 3, IN, OUT)}
INPUTS = {"dense": (2, IN), "sequence": (2, 5, IN), "conv": (2, 5, 4, IN)}


class Layer:
    """A layer on two examples: its inputs, its packed posterior, its product."""

    def __init__(self, kind):
        rng = np.random.default_rng(0)
        self.shape = SHAPES["conv" if kind == "conv" else "dense"]
        self.x = jnp.asarray(rng.normal(size=INPUTS[kind]), jnp.float32)
        mask = np.ones(self.shape, bool)
        mask[..., 0, 0] = False
        mean = rng.normal(size=mask.sum()).astype(np.float32)
        sigma = rng.uniform(0.2, 0.8, mean.size).astype(np.float32)
        packed = Gaussian(jnp.array(mean), posterior.to_rho(jnp.array(sigma)))
        self.posterior = {"kernel": packed}
        self.sub = masks_lib.to_subspace({"kernel": mask})
        self.mean, self.sigma = np.zeros(self.shape), np.zeros(self.shape)
        self.mean[mask], self.sigma[mask] = mean, sigma
        self.product = ops.lrt_dense
        if kind == "conv":
            window = {"strides": (2, 1), "padding": ((1, 1), (0, 1))}
            self.product = partial(ops.lrt_conv, **window)

    def kernel(self, estimator, key):
        make = getattr(posterior, estimator)
        return make(self.posterior, self.sub, key)["kernel"]

    def run(self, estimator, key, x=None):
        """Pre-activations under a key of the layer's posterior."""
        kernel = self.kernel(estimator, jax.random.fold_in(key, 0))
        x = self.x if x is None else x
        return self.product(x, kernel, jax.random.fold_in(key, 1))

    def samples(self, estimator):
        keys = jax.random.split(jax.random.key(1), SAMPLES)
        return np.float64(jit(jax.vmap(partial(self.run, estimator)))(keys))

    def plain(self, x, full):
        """The product with a kernel of full shape, without noise."""
        if len(self.shape) == 2:
            return np.float64(x) @ full
        shifted = np.pad(np.float64(x), ((0, 0), (1, 1), (0, 1), (0, 0)))
        height, width = (shifted.shape[1] - 1) // 2, shifted.shape[2] - 2
        return sum(
            shifted[:, i : i + 2 * height : 2, j : j + width] @ full[i, j]
            for i, j in np.ndindex(3, 3)
        )


@pytest.fixture(params=sorted(INPUTS))
def layer(request):
    return Layer(request.param)


def assert_within(samples, expected, standard_errors=5.0):
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - expected) <= standard_errors * error).all()


def test_each_example_has_signs_of_its_own_and_one_draw(layer):
    key, found = jax.random.key(5), set()
    y = np.asarray(layer.run("flipout_kernels", key), np.float64)
    draw = ops.unpack(layer.kernel("packed_sample", jax.random.fold_in(key, 0)))[0]
    deviation = np.float64(draw) - layer.mean
    for n in range(2):
        x = np.asarray(layer.x[n : n + 1])
        for signs in itertools.product([-1.0, 1.0], repeat=IN + OUT):
            flipped = layer.plain(x * np.array(signs[:IN]), deviation)
            want = layer.plain(x, layer.mean) + flipped * np.array(signs[IN:])
            if np.allclose(y[n], want[0], rtol=1e-4, atol=1e-4):
                found.add((n, signs))
    # All signs turned around give the same.
    assert sorted(n for n, _ in found) == [0, 0, 1, 1]
    assert len({signs for _, signs in found}) == 4  # under this key they differ
    for part in (slice(IN), slice(IN, None)):  # … and are not all alike
        assert any(len({*signs[part]}) == 2 for _, signs in found)


def test_moments_are_those_of_the_weight_sample(layer):
    mean = layer.plain(layer.x, layer.mean)
    variance = layer.plain(np.square(layer.x), layer.sigma**2)
    for estimator in ("flipout_kernels", "packed_sample"):
        samples = layer.samples(estimator)
        assert_within(samples, mean)
        assert_within((samples - mean) ** 2, variance)


def test_gradients_of_two_examples_are_uncorrelated(layer):
    """Of ½ |y|² of each example in the means; with one shared sample they correlate."""

    def gradients(estimator, key):
        def half_square(mean, x):
            packed = layer.posterior["kernel"]._replace(mean=mean)
            make = getattr(posterior, estimator)
            key_draw, key_signs = jax.random.split(key)
            kernel = make({"kernel": packed}, layer.sub, key_draw)["kernel"]
            y = layer.product(layer.x, kernel, key_signs)
            return 0.5 * jnp.sum(jnp.square(y[x]))

        grad = jax.grad(half_square)
        return [grad(layer.posterior["kernel"].mean, n) for n in range(2)]

    keys = jax.random.split(jax.random.key(3), SAMPLES)
    products, expected = {}, None
    for estimator in ("packed_sample", "flipout_kernels"):
        first, second = jit(jax.vmap(partial(gradients, estimator)))(keys)
        first, second = np.float64(first), np.float64(second)
        if expected is None:
            expected = first.mean(axis=0), second.mean(axis=0)
        # Both estimators have the same expected gradient.
        assert_within(first - expected[0], 0.0, 7.0)
        centred = [g - g.mean(axis=0) for g in (first, second)]
        products[estimator] = centred[0] * centred[1]
    assert_within(products["flipout_kernels"], 0.0)
    with pytest.raises(AssertionError):
        assert_within(products["packed_sample"], 0.0, 20.0)


def test_points_have_nothing_to_flip():
    _, state, masks, (x, _) = mlp_problem()
    sub = masks_lib.to_subspace(masks)
    points = {path: posterior.Point(q.mean) for path, q in state.posterior.items()}
    kernels = posterior.flipout_kernels(points, sub, jax.random.key(0))
    assert all(kernel.deviation is None for kernel in kernels.values())
    weights = state.weights._replace(posterior=points)
    options = {"key": jax.random.key(0), "train": False}
    flipped, plain = (
        vi.forward(apply_mlp, weights, sub, x, estimator=estimator, **options)[0]
        for estimator in ("flipout", "mean")
    )
    np.testing.assert_allclose(flipped, plain, rtol=1e-5, atol=1e-6)


class Custom(nn.Module):
    """A kernel that no Dense or Conv owns."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.zeros, (4, 3))


class Net(nn.Module):
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(5, (3, 3), dtype=self.dtype)(x))
        return nn.Dense(3, dtype=self.dtype)(x.mean(axis=(1, 2)))


def logits(module, x, estimator, backend="xla"):
    apply_fn, params, model_state = from_flax(module, x)
    weights, sub = random_weights(params, model_state, sigma=0.5)
    options = {"key": jax.random.key(1), "train": True, "backend": backend}
    forward = partial(vi.forward, apply_fn, estimator=estimator, **options)
    return np.asarray(jit(lambda x: forward(weights, sub, x)[0])(x), np.float32)


def test_other_layers_use_the_weight_sample():
    x = jax.random.normal(jax.random.key(0), (2, 4))
    flipped, sampled = (logits(Custom(), x, e) for e in ("flipout", "weight_sample"))
    np.testing.assert_array_equal(flipped, sampled)


def test_layers_of_a_network_draw_anew_for_every_example():
    x = jnp.ones((2, 5, 5, 2))
    one, two = logits(Net(), x, "weight_sample")
    np.testing.assert_allclose(one, two, rtol=1e-5)
    one, two = logits(Net(), x, "flipout")
    assert (np.abs(one - two) > 1e-3).all()


def test_half_precision():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2))
    single, half = (logits(Net(t), x, "flipout") for t in (jnp.float32, jnp.bfloat16))
    np.testing.assert_allclose(half, single, atol=0.05)
    kernel = Layer("dense").kernel("flipout_kernels", jax.random.key(0))
    cast = kernel.astype(jnp.bfloat16)
    assert cast.deviation is not None
    assert cast.mean.dtype == cast.deviation.dtype == jnp.bfloat16
    assert dataclasses.replace(kernel, deviation=None).astype(float).deviation is None


@pytest.mark.skipif(not custom_calls.available(), reason="kernels are not compiled")
def test_the_sparse_kernels_flip_too():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2))
    found = [logits(Net(), x, "flipout", backend) for backend in ("xla", "sparse")]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_a_run_learns(tmp_path):
    smoke_run.tiny_train(tmp_path, estimator="flipout", sparsity=0.9, sigma_init=0.02)
    scores = [e["val"] for e in smoke_run.events(tmp_path) if e["event"] == "epoch"]
    assert scores[-1]["accuracy"] > 0.3  # one of ten classes

"""Batch norms whose gradient a sparse layer's kernels compute, against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.ops import custom_calls, fuse_training, norm, sparse

pytestmark = pytest.mark.skipif(
    not custom_calls.available() or jax.default_backend() != "cpu",
    reason="the sparse kernels are not compiled",
)


class Layer:
    """A sampled convolution, and operands for a batch norm and a residual behind it."""

    def __init__(self, seed, size, channels, stride):
        rng = np.random.default_rng(seed)
        self.shape = (3, 3, size[3], channels)
        index = np.flatnonzero(rng.random(np.prod(self.shape)) < 0.4)
        self.index = jnp.asarray(index, jnp.int32)
        self.key = jax.random.key(seed)
        self.options = {"strides": (stride, 1), "padding": ((1, 1), (1, 1))}

        def normals(*shape):
            return jnp.asarray(rng.normal(0.3, 1, shape), jnp.float32)

        self.x, self.mean = normals(*size), normals(index.size)
        out = jax.eval_shape(self.conv, self.x, self.mean).shape
        self.rest = (normals(channels), normals(channels), normals(*out))
        self.weights = normals(*out)

    def conv(self, x, mean):
        sigma = 0.1 + jnp.abs(mean)
        return sparse.lrt_conv(
            x, mean, sigma, self.index, self.shape, self.key, **self.options
        )


def normal(y, scale, bias):
    return norm.batch_norm(y, scale, bias, 1e-3)[0]


PATTERNS = {
    "alone": lambda y, a, b, z: normal(y, a, b),
    "relu": lambda y, a, b, z: jax.nn.relu(normal(y, a, b)),
    "relu of a sum": lambda y, a, b, z: jax.nn.relu(normal(y, a, b) + z),
    "read besides": lambda y, a, b, z: jax.nn.relu(normal(y, a, b)) + y * z,
    "normalized twice": lambda y, a, b, z: normal(y, a, b) * normal(y, b, a),
}
ALL, OF_WEIGHTS = (0, 1, 2, 3, 4), (1, 2, 3, 4)


def far_from_kinks(layer, pattern):
    """Weights of a loss, 0 where rounding could move a result across ReLU's kink."""
    y = layer.conv(layer.x, layer.mean)
    scale, bias, z = layer.rest
    before = normal(y, scale, bias) + (z if pattern == "relu of a sum" else 0.0)
    return jnp.where(jnp.abs(before) < 1e-3, 0.0, layer.weights)


def gradients(layer, pattern, evaluate, wanted):
    weights = far_from_kinks(layer, pattern)

    def loss(x, mean, *rest):
        def fn(x, mean, *rest):
            return PATTERNS[pattern](layer.conv(x, mean), *rest)

        return jnp.sum(evaluate(fn, x, mean, *rest) * weights)

    return jax.jit(jax.grad(loss, wanted))


def directly(fn, *args):
    return fn(*args)


def check(layer, pattern, wanted):
    args = (layer.x, layer.mean, *layer.rest)
    got = gradients(layer, pattern, fuse_training.evaluate, wanted)(*args)
    want = gradients(layer, pattern, directly, wanted)(*args)
    for a, b in zip(got, want, strict=True):
        largest = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-4 * largest)
    return got


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("wanted", [ALL, OF_WEIGHTS, (0, 2, 3, 4)])
def test_gradients_are_the_same(pattern, wanted, monkeypatch):
    monkeypatch.setenv("SSVI_JAX_POISON", "1")
    check(Layer(0, (35, 7, 6, 5), 9, 2), pattern, wanted)


@pytest.mark.parametrize("isa", custom_calls.instruction_sets())
@settings(max_examples=4)
@given(
    size=st.tuples(st.integers(2, 40), *(st.integers(2, n) for n in (9, 9, 5))),
    channels=st.integers(1, 20),
    stride=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    wanted=st.sampled_from([ALL, OF_WEIGHTS]),
)
def test_of_any_shape_and_with_any_threads(isa, size, channels, stride, seed, wanted):
    layer = Layer(seed, size, channels, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSVI_JAX_ISA", isa)
        patch.setenv("SSVI_JAX_POISON", "1")
        patch.setenv("SSVI_JAX_THREADS", "1")
        one = check(layer, "relu", wanted)
        patch.setenv("SSVI_JAX_THREADS", "2")
        compute = gradients(layer, "relu", fuse_training.evaluate, wanted)
        two = compute(layer.x, layer.mean, *layer.rest)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pattern", ["alone", "relu", "relu of a sum"])
@pytest.mark.parametrize(
    ("wanted", "kernel"), [(ALL, "gradients"), (OF_WEIGHTS, "weights"), ((0,), "input")]
)
def test_the_kernel_takes_the_gradient_through_the_batch_norm(pattern, wanted, kernel):
    layer = Layer(0, (16, 6, 6, 4), 7, 1)
    compute = gradients(layer, pattern, fuse_training.evaluate, wanted)
    text = compute.lower(layer.x, layer.mean, *layer.rest).as_text()
    (line,) = [line for line in text.splitlines() if f"@ssvi_sample_{kernel}(" in line]
    # g, slope and y of the result's shape, then the lines of the batch norm.
    assert line.count("tensor<16x6x6x7xf32>") == 3
    assert "tensor<4x7xf32>" in line


def test_nan_stays():
    layer = Layer(1, (16, 6, 6, 4), 7, 1)
    x = layer.x.at[0].set(jnp.nan)
    compute = gradients(layer, "relu", fuse_training.evaluate, ALL)
    dx, *_ = compute(x, layer.mean, *layer.rest)
    assert np.isnan(dx).any()

"""What follows a batch norm, computed together with it, against one after the other."""

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

SHAPE = (6, 5, 4, 3)


def operands(seed=0, shape=SHAPE):
    """Two images, and twice a scale and a bias of each channel."""
    rng = np.random.default_rng(seed)
    sizes = [shape, shape, *[shape[-1:]] * 4]
    return [jnp.asarray(rng.normal(0.5, 1, s), jnp.float32) for s in sizes]


def normal(x, scale, bias):
    return norm.batch_norm(x, scale, bias, 1e-3)[0]


def with_statistics(x, z, scale, bias, *_):
    y, mean, variance = norm.batch_norm(x, scale, bias, 1e-3)
    return jax.nn.relu(y) * (mean + variance)[None, None, None] + z


PATTERNS = {
    "relu": lambda x, z, a, b, *_: jax.nn.relu(normal(x, a, b)),
    "sum": lambda x, z, a, b, *_: normal(x, a, b) + z,
    "relu of a sum": lambda x, z, a, b, *_: jax.nn.relu(z + normal(x, a, b)),
    "two of them": lambda x, z, a, b, c, d: jax.nn.relu(
        normal(x, a, b) + normal(z, c, d)
    ),
    "one after another": lambda x, z, a, b, c, d: jax.nn.relu(
        normal(jax.nn.relu(normal(x, a, b)) + z, c, d) + x
    ),
    "read twice": lambda x, z, a, b, *_: (
        jax.nn.relu(y := normal(x, a, b)) + y * jax.nn.relu(z)
    ),
    "added to itself": lambda x, z, a, b, *_: jax.nn.relu(
        2 * (y := normal(x, a, b)) + y
    ),
    "another maximum": lambda x, z, a, b, *_: jnp.maximum(normal(x, a, b), 0.25),
    "plus a number": lambda x, z, a, b, *_: jax.nn.relu(normal(x, a, b) + 0.5),
    "plus each channel": lambda x, z, a, b, c, _: jax.nn.relu(
        normal(x, a, b) + c[None, None, None]
    ),
    "of its statistics": with_statistics,
}


def of_both(pattern, args):
    """Value and gradients, computed together and one after the other."""
    weights = jnp.asarray(np.random.default_rng(9).normal(size=args[0].shape))

    def loss(evaluate):
        def total(*args):
            y = evaluate(*args)
            return jnp.sum(y * weights), y

        return jax.jit(jax.grad(total, tuple(range(6)), has_aux=True))(*args)

    return loss(lambda *a: fuse_training.evaluate(pattern, *a)), loss(pattern)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_values_and_gradients_are_the_same(pattern):
    got, want = of_both(pattern, operands())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def test_a_relu_and_a_sum_are_done_by_the_batch_norm():
    args = operands()
    for name in ("relu", "sum", "relu of a sum"):
        traced = jax.make_jaxpr(
            lambda *a, n=name: fuse_training.evaluate(PATTERNS[n], *a)
        )(*args)
        last = traced.eqns[-1]
        assert last.primitive.name == "custom_vjp_call", name
        assert last.outvars == traced.jaxpr.outvars


def test_a_channel_of_zeros_gives_relu_its_gradient_there():
    x, z, _, _, c, d = operands()
    nothing = jnp.zeros(3, jnp.float32)
    got, want = of_both(PATTERNS["relu"], [x, z, nothing, nothing, c, d])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_stays():
    x, *rest = operands()
    x = x.at[0, 0, 0, 1].set(jnp.nan)
    for pattern in (PATTERNS["relu"], PATTERNS["relu of a sum"]):
        y = fuse_training.evaluate(pattern, x, *rest)
        assert np.isnan(y[..., 1]).all()
        assert not np.isnan(y[..., [0, 2]]).any()


@pytest.mark.parametrize("isa", custom_calls.instruction_sets())
@settings(max_examples=10)
@given(
    size=st.tuples(*(st.integers(1, n) for n in (70, 9, 9, 5))),
    channels=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_moments_of_a_convolution_are_those_of_its_result(isa, size, channels, seed):
    rng = np.random.default_rng(seed)
    shape = (3, 3, size[3], channels)
    index = np.flatnonzero(rng.random(np.prod(shape)) < 0.4).astype(np.int32)
    x = jnp.asarray(rng.normal(1, 1, size), jnp.float32)
    mean = jnp.asarray(rng.normal(size=index.size), jnp.float32)
    ones = jnp.ones(channels)

    def run(x):
        y = sparse.lrt_conv(
            x,
            mean,
            jnp.abs(mean),
            jnp.asarray(index),
            shape,
            jax.random.key(seed),
            strides=(1, 1),
            padding=((1, 1), (1, 1)),
        )
        return y, *norm.batch_norm(y, ones, ones, 1e-5)[1:]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSVI_JAX_ISA", isa)
        patch.setenv("SSVI_JAX_POISON", "1")
        found = []
        for threads in ("1", "2"):
            patch.setenv("SSVI_JAX_THREADS", threads)
            traced = jax.jit(lambda x: fuse_training.evaluate(run, x))
            assert "ssvi_comoment" not in traced.lower(x).as_text()
            found.append(traced(x))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    y, center, variance = map(np.float64, found[0])
    scale = np.square(y).mean((0, 1, 2)) + 1e-6
    np.testing.assert_allclose(
        center, y.mean((0, 1, 2)), atol=1e-6 * np.sqrt(scale).max()
    )
    assert np.all(np.abs(variance - y.var((0, 1, 2))) <= 3e-6 * scale)

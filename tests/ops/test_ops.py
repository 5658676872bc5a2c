"""Products, scatter and sampled layers against float64 loops in NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import draw_epsilon, jit

from ssvi_jax import ops
from ssvi_jax.core.types import PackedKernel
from ssvi_jax.ops import convolution, local_reparam


def conv_loops(x, kernel, strides, padding, dilation, groups=1):
    """Convolution of any rank in float64, one output position and tap at a time."""
    x = np.pad(np.float64(x), ((0, 0), *padding, (0, 0)))
    window, num_out = kernel.shape[:-2], kernel.shape[-1]
    reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    sizes = [
        (n - r - 1) // s + 1
        for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)
    ]
    y = np.zeros((x.shape[0], *sizes, num_out))
    ci, co = kernel.shape[-2], num_out // groups
    for out in np.ndindex(*sizes):
        for tap in np.ndindex(*window):
            at = [
                o * s + t * d
                for o, s, t, d in zip(out, strides, tap, dilation, strict=True)
            ]
            for g in range(groups):
                inputs = x[(slice(None), *at, slice(g * ci, (g + 1) * ci))]
                columns = slice(g * co, (g + 1) * co)
                y[(slice(None), *out, columns)] += inputs @ kernel[tap][:, columns]
    return y


def conv_gradients(x, kernel, g, strides, padding, dilation):
    """Gradients of sum(g · conv(x, kernel)) by the same loops; groups = 1."""
    padded = np.pad(np.float64(x), ((0, 0), *padding, (0, 0)))
    dx, dk = np.zeros_like(padded), np.zeros(kernel.shape)
    for out in np.ndindex(*g.shape[1:-1]):
        for tap in np.ndindex(*kernel.shape[:-2]):
            at = tuple(
                o * s + t * d
                for o, s, t, d in zip(out, strides, tap, dilation, strict=True)
            )
            here, there = (slice(None), *at), (slice(None), *out)
            dx[here] += g[there] @ kernel[tap].T
            dk[tap] += padded[here].T @ g[there]
    inner = [
        slice(low, low + n) for (low, _), n in zip(padding, x.shape[1:-1], strict=True)
    ]
    return dx[(slice(None), *inner)], dk


@st.composite
def convolutions(draw, ranks=(1, 2), max_size=7):
    """(x shape, kernel shape, strides, padding, dilation) with at least one output."""
    rank = draw(st.sampled_from(ranks))

    def each(low, high):
        numbers = st.integers(low, high)
        return draw(st.lists(numbers, min_size=rank, max_size=rank))

    window, strides, dilation = each(1, 3), each(1, 3), each(1, 3)
    padding = list(zip(each(0, 3), each(0, 3), strict=True))
    sizes = [
        max(n, (k - 1) * d + 1 - low - high, 1)
        for n, k, d, (low, high) in zip(
            each(1, max_size), window, dilation, padding, strict=True
        )
    ]
    batch, num_in, num_out = (draw(st.integers(1, 3)) for _ in range(3))
    x_shape, kernel_shape = (batch, *sizes, num_in), (*window, num_in, num_out)
    return x_shape, kernel_shape, strides, padding, dilation


def packed(rng, shape, density, *, probe=False, sigma=0.3):
    index = np.flatnonzero(rng.random(np.prod(shape)) < density)
    if not index.size:
        index = np.array([0])
    return PackedKernel(
        mean=jnp.asarray(rng.normal(size=index.size), jnp.float32),
        sigma=jnp.asarray(rng.uniform(0.1, 1, index.size) * sigma, jnp.float32),
        index=jnp.asarray(index, jnp.int32),
        shape=tuple(shape),
        probe=jnp.zeros(shape) if probe else None,
    )


def unpacked(kernel):
    mean, variance = np.zeros((2, int(np.prod(kernel.shape))))
    mean[kernel.index] = kernel.mean
    variance[kernel.index] = np.float64(kernel.sigma) ** 2
    return mean.reshape(kernel.shape), variance.reshape(kernel.shape)


def pulled(f, g, *operands):
    """f(operands) and the gradients along g, in one program: many take longer."""

    @jit
    def run(g, *operands):
        y, pull = jax.vjp(f, *operands)
        return y, pull(g)

    return run(jnp.asarray(g, jnp.float32), *operands)


def close(got, expected, scale=None):
    scale = np.abs(expected).max(initial=1e-3) if scale is None else scale
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5 * scale)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 3))
def test_scatter_and_its_gradient(seed, density, rank):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, rank).tolist())
    kernel = packed(rng, shape, density)
    weight = rng.normal(size=shape).astype(np.float32)
    full, (gradient,) = pulled(
        lambda v: ops.scatter(v, kernel.index, shape), weight, kernel.mean
    )
    np.testing.assert_array_equal(full, unpacked(kernel)[0].astype(np.float32))
    np.testing.assert_array_equal(gradient, weight.ravel()[kernel.index])


# XLA's own transposed convolution aborts on such a window.
@example(((2, 4, 2, 1), (2, 3, 1, 3), [2, 2], [(1, 2), (2, 3)], [1, 2]), 0)
@settings(max_examples=12)
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_conv_and_its_gradients_equal_loops(case, seed):
    x_shape, kernel_shape, strides, padding, dilation = case
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (x_shape, kernel_shape))
    expected = conv_loops(x, kernel, strides, padding, dilation)
    g = rng.normal(size=expected.shape).astype(np.float32)

    def conv(x, k):
        return ops.conv(x, k, strides=strides, padding=padding, rhs_dilation=dilation)

    y, gradients = pulled(conv, g, *map(jnp.asarray, (x, kernel)))
    close(y, expected)
    expected = conv_gradients(x, kernel, g, strides, padding, dilation)
    for got, want in zip(gradients, expected, strict=True):
        close(got, want)


@settings(max_examples=10)
@given(convolutions(), st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_written_gradients_equal_those_of_jax(case, seed, num_powers):
    x_shape, kernel_shape, strides, padding, dilation = case
    w = convolution.Window.make(strides, padding, dilation, 1)
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=x_shape), jnp.float32)
    kernels = tuple(
        jnp.asarray(rng.normal(size=kernel_shape), jnp.float32)
        for _ in range(num_powers)
    )
    shape = jax.eval_shape(lambda: convolution.conv_powers(x, kernels, w))[0].shape
    gs = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in kernels)
    both = [
        jit(partial(fn, window=w))((x, kernels), gs)
        for fn in (convolution._native_gradients, convolution._written_gradients)
    ]
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        close(a, np.asarray(b))


@pytest.mark.parametrize(("batch", "rows"), [(1, 8), (6, 70), (7, 70), (6, 10**6)])
def test_kernel_gradient_does_not_depend_on_its_chunks(monkeypatch, batch, rows):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 5, 6, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 3)).astype(np.float32)
    g = rng.normal(size=(batch, 5, 6, 3)).astype(np.float32)
    monkeypatch.setattr(convolution, "_ROWS", rows)
    w = convolution.Window.make((1, 1), ((1, 1), (1, 1)), None, 1)
    got = convolution._kernel_gradients(
        jnp.asarray(x), (jnp.asarray(g),), kernel.shape, w
    )[0]
    close(got, conv_gradients(x, kernel, g, (1, 1), w.padding, (1, 1))[1])


@pytest.mark.parametrize(("rank", "groups"), [(1, 2), (2, 2), (2, 4), (3, 1), (3, 2)])
def test_groups_and_three_dimensions(rank, groups):
    rng = np.random.default_rng(rank + groups)
    x = rng.normal(size=(2, *(5,) * rank, 4)).astype(np.float32)
    kernel = rng.normal(size=(*(2,) * rank, 4 // groups, 8)).astype(np.float32)
    window = ((2,) * rank, ((1, 0),) * rank, (2,) * rank)
    expected = conv_loops(x, kernel, *window, groups)
    g, u = rng.normal(size=expected.shape), rng.normal(size=x.shape)

    def conv(x):
        options = {"strides": window[0], "padding": window[1]}
        options |= {"rhs_dilation": window[2], "groups": groups}
        return ops.conv(x, jnp.asarray(kernel), **options)

    y, (gradient,) = pulled(conv, g, jnp.asarray(x))
    close(y, expected)
    # Linear in x: the derivative along u is the convolution of u.
    slope = np.sum(g * conv_loops(u, kernel, *window, groups))
    got = np.sum(np.float64(gradient) * u)
    assert got == pytest.approx(slope, rel=1e-4, abs=1e-3)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_dense_equals_numpy(seed, leading):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*rng.integers(1, 4, leading), 5)).astype(np.float32)
    kernel = rng.normal(size=(5, 3)).astype(np.float32)
    close(ops.dense(jnp.asarray(x), jnp.asarray(kernel)), np.float64(x) @ kernel)


def lrt_value(x, mean, variance, epsilon, product):
    """(y, ε/(2√v)) in float64."""
    std = np.sqrt(product(x**2, variance))
    slope = np.where(std > 0, 0.5 * epsilon / np.where(std > 0, std, 1), 0)
    return product(x, mean) + std * epsilon, slope


@settings(max_examples=6)
@given(convolutions(max_size=5), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_lrt_conv_and_gradients_equal_loops(case, seed, density):
    x_shape, shape, *window = case
    rng = np.random.default_rng(seed)
    # ReLU-like inputs: whole patches are zero.
    x = np.maximum(rng.normal(size=x_shape), 0).astype(np.float32)
    kernel, key = packed(rng, shape, density, probe=True), jax.random.key(seed)
    strides, padding, dilation = window

    def layer(x, mean, sigma, probe):
        k = PackedKernel(mean, sigma, kernel.index, kernel.shape, probe)
        return ops.lrt_conv(
            x, k, key, strides=strides, padding=padding, rhs_dilation=dilation
        )

    mean, variance = unpacked(kernel)
    out = conv_loops(x, mean, *window).shape
    epsilon = draw_epsilon(key, out, (*range(1, len(out)), 0))
    expected, slope = lrt_value(
        np.float64(x), mean, variance, epsilon, lambda a, b: conv_loops(a, b, *window)
    )
    g = rng.normal(size=out)
    inputs = (jnp.asarray(x), kernel.mean, kernel.sigma, kernel.probe)
    y, (dx, dmean, dsigma, dprobe) = pulled(layer, g, *inputs)
    close(y, expected)

    dx_m, dense_mean = conv_gradients(x, mean, g, *window)
    dx_v, dense_variance = conv_gradients(x**2, variance, g * slope, *window)
    close(dx, dx_m + 2 * x * dx_v, 1 + np.abs(2 * x * dx_v).max())
    close(dprobe, dense_mean)
    close(dmean, dense_mean.ravel()[kernel.index], np.abs(dense_mean).max() + 1e-3)
    want = 2 * np.float64(kernel.sigma) * dense_variance.ravel()[kernel.index]
    close(dsigma, want, np.abs(dense_variance).max() + 1e-3)


@pytest.mark.parametrize("leading", [(4,), (2, 3)])
def test_lrt_dense_and_gradients_equal_float64(leading):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(*leading, 6)).astype(np.float32)
    kernel, key = packed(rng, (6, 5), 0.5, probe=True), jax.random.key(1)
    mean, variance = unpacked(kernel)
    rank = len(leading)
    epsilon = draw_epsilon(key, (*leading, 5), (rank, *range(rank)))
    expected, slope = lrt_value(np.float64(x), mean, variance, epsilon, np.matmul)
    g = rng.normal(size=expected.shape)
    y, (dx, dk) = pulled(
        lambda x, k: ops.lrt_dense(x, k, key), g, jnp.asarray(x), kernel
    )
    close(y, expected)
    gv = g * slope
    close(dx, g @ mean.T + 2 * x * (gv @ variance.T))
    rows = x.reshape(-1, 6)
    dense_mean = rows.T @ g.reshape(-1, 5)
    dense_variance = (rows**2).T @ gv.reshape(-1, 5)
    close(dk.probe, dense_mean)
    close(dk.mean, dense_mean.ravel()[kernel.index])
    close(dk.sigma, 2 * np.float64(kernel.sigma) * dense_variance.ravel()[kernel.index])


def test_probe_is_added_to_the_mean():
    rng = np.random.default_rng(2)
    kernel = packed(rng, (4, 3), 0.5)
    probe = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    with_probe = PackedKernel(
        kernel.mean, kernel.sigma, kernel.index, kernel.shape, probe
    )
    x, key = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32), jax.random.key(0)
    moved = ops.lrt_dense(x, with_probe, key) - ops.lrt_dense(x, kernel, key)
    close(moved, np.asarray(x, np.float64) @ np.asarray(probe, np.float64))


def test_moments_over_many_keys_are_the_closed_form():
    rng = np.random.default_rng(3)
    x = jnp.asarray(np.abs(rng.normal(size=(2, 4, 4, 3))), jnp.float32)
    kernel, num = packed(rng, (3, 3, 3, 4), 0.4), 4000
    window = ((2, 1), ((1, 1), (0, 1)), (1, 1))

    def layer(key):
        return ops.lrt_conv(x, kernel, key, strides=window[0], padding=window[1])

    keys = jax.random.split(jax.random.key(9), num)
    y = np.float64(jax.jit(jax.vmap(layer))(keys))
    mean, variance = unpacked(kernel)
    m = conv_loops(x, mean, *window)
    v = conv_loops(np.float64(x) ** 2, variance, *window)
    z = (y.mean(0) - m) / np.sqrt(v / num)
    assert abs(z).max() < 4.5
    assert np.mean(z**2) == pytest.approx(1, abs=0.6)
    assert abs((y.var(0) / v - 1) / np.sqrt(2 / num)).max() < 4.5
    # Noise is independent from output to output.
    flat = ((y - m) / np.sqrt(v)).reshape(num, -1)
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert abs(correlation).max() < 5 / np.sqrt(num)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-19, 1e-12, 1.0, 1e8])
def test_gradients_are_finite_and_zero_where_nothing_can_move(scale):
    x = np.zeros((1, 6, 6, 2), np.float32)
    x[:, :2] = scale
    kernel = packed(np.random.default_rng(0), (3, 3, 2, 2), 1.0, probe=True)

    def loss(x, kernel):
        y = ops.lrt_conv(
            x, kernel, jax.random.key(0), strides=(1, 1), padding=((1, 1), (1, 1))
        )
        return jnp.sum(jnp.sin(y)), y

    (dx, dk), y = jax.jit(jax.grad(loss, (0, 1), has_aux=True, allow_int=True))(
        jnp.asarray(x), kernel
    )
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
    assert all(np.isfinite(v).all() for v in (dk.mean, dk.sigma, dk.probe))
    np.testing.assert_array_equal(y[:, 3:], 0)
    if scale == 0:
        np.testing.assert_array_equal(dk.sigma, 0)


def test_one_residual_is_kept_and_is_zero_for_zero_variance():
    mean, epsilon = jnp.ones(4), jnp.array([1.0, -2.0, 3.0, 4.0])
    variance = jnp.array([0.0, 4.0, 1e-30, 1e-45])
    y, residual = local_reparam._perturb_fwd(mean, variance, epsilon)
    np.testing.assert_allclose(y, 1 + np.sqrt(variance) * epsilon, rtol=1e-6)
    assert residual.shape == (4,)
    assert residual[0] == 0
    assert residual[1] == -0.5
    assert np.isfinite(residual).all()


def test_scan_vmap_and_grad_together():
    rng = np.random.default_rng(4)
    xs = jnp.asarray(rng.normal(size=(3, 2, 4, 4, 2)), jnp.float32)
    kernel = packed(rng, (3, 3, 2, 2), 0.3)
    options = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}

    def gradient(x, key):
        def loss(mean, sigma):
            k = PackedKernel(mean, sigma, kernel.index, kernel.shape)
            return jnp.sum(ops.lrt_conv(x, k, key, **options) ** 2)

        return jax.grad(loss, (0, 1))(kernel.mean, kernel.sigma)

    keys = jax.random.split(jax.random.key(0), 3)
    one_by_one = [jax.jit(gradient)(x, key) for x, key in zip(xs, keys, strict=True)]
    mapped = jax.jit(jax.vmap(gradient))(xs, keys)
    _, scanned = jax.lax.scan(lambda c, item: (c, gradient(*item)), None, (xs, keys))
    for i, j in itertools.product(range(3), range(2)):
        close(mapped[j][i], np.asarray(one_by_one[i][j]))
        close(scanned[j][i], np.asarray(one_by_one[i][j]))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_gets_a_program(platform):
    kernel = packed(np.random.default_rng(0), (3, 3, 4, 4), 0.3, probe=True)

    def loss(mean, sigma, x):
        k = PackedKernel(mean, sigma, kernel.index, kernel.shape, kernel.probe)
        y = ops.lrt_conv(
            x, k, jax.random.key(0), strides=(1, 1), padding=((1, 1), (1, 1))
        )
        return jnp.sum(y**2)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    exported = jax.export.export(gradient, platforms=[platform])(
        kernel.mean, kernel.sigma, jnp.ones((2, 8, 8, 4))
    )
    text = exported.mlir_module()
    # Two forward, two for the input; off the CPU also two for the kernel.
    count = [
        text.count(f"= stablehlo.{name}") for name in ("convolution", "dot_general")
    ]
    assert count == ([4, 2] if platform == "cpu" else [6, 0])

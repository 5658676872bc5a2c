"""The compiled sparse layers against loops over taps in float64."""

import itertools
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.ops import custom_calls, noise, sparse

pytestmark = pytest.mark.skipif(
    not custom_calls.available(), reason=custom_calls.why_not()
)
ISAS = custom_calls.instruction_sets()
PLAIN = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Outputs are full of NaN before a kernel writes them."""
    monkeypatch.setenv("SSVI_JAX_POISON", "1")


def place(values, index, shape):
    full = np.zeros(int(np.prod(shape)))
    full[np.asarray(index)] = np.asarray(values, np.float64)
    return full.reshape(shape)


def taps(x, shape, strides, padding, out):
    """(kernel row and column, the padded inputs under it at every output)."""
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    for i, j in itertools.product(range(shape[0]), range(shape[1])):
        rows = slice(i, i + (out[0] - 1) * strides[0] + 1, strides[0])
        cols = slice(j, j + (out[1] - 1) * strides[1] + 1, strides[1])
        yield (i, j), (slice(None), rows, cols), padded


def size_out(x, shape, strides, padding):
    return [
        (x.shape[a + 1] + sum(padding[a]) - shape[a]) // strides[a] + 1 for a in (0, 1)
    ]


def convolve(x, kernel, strides, padding):
    out = size_out(x, kernel.shape, strides, padding)
    y = np.zeros((x.shape[0], *out, kernel.shape[3]))
    for tap, where, padded in taps(x, kernel.shape, strides, padding, out):
        y += padded[where] @ kernel[tap]
    return y


def gradients(x, g, kernel, strides, padding):
    """Of the input and of the kernel."""
    out, dkernel = g.shape[1:3], np.zeros(kernel.shape)
    dpadded = np.zeros(np.pad(x, ((0, 0), *padding, (0, 0))).shape)
    for tap, where, padded in taps(x, kernel.shape, strides, padding, out):
        dkernel[tap] = np.einsum("npqi,npqo->io", padded[where], g)
        dpadded[where] += g @ kernel[tap].T
    (top, _), (left, _) = padding
    dx = dpadded[:, top : top + x.shape[1], left : left + x.shape[2]]
    return dx, dkernel


def normals(rng, *shape):
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


def together(f, g, *operands):
    def run(*operands):
        y, pull = jax.vjp(f, *operands)
        return y, *pull(jnp.asarray(g))

    return jax.jit(run)(*operands)


def apart(f, g, x, *weights):
    def run(x, *weights):
        y, of_input = jax.vjp(lambda x: f(x, *weights), x)
        _, of_weights = jax.vjp(partial(f, x), *weights)
        return y, *of_input(jnp.asarray(g)), *of_weights(jnp.asarray(g))

    return jax.jit(run)(x, *weights)


class Case:
    """Random operands of one layer."""

    def __init__(self, seed, batch, image, shape, strides, padding, density):
        rng = np.random.default_rng(seed)
        self.shape, self.options = shape, {"strides": strides, "padding": padding}
        keep = np.asarray(rng.random(shape) < density)
        keep[..., -1] &= shape[3] == 1  # an output channel without a weight
        self.index = jnp.asarray(np.flatnonzero(keep), jnp.int32)
        self.x = normals(rng, batch, *image, shape[2])
        self.mean = normals(rng, self.index.size)
        self.sigma = 0.1 + jnp.abs(normals(rng, self.index.size))
        self.bias = normals(rng, shape[3])
        self.key = jax.random.key(seed)
        out = size_out(self.x, shape, strides, padding)
        self.g = np.asarray(normals(rng, batch, *out, shape[3]))

    def sample(self, x, mean, sigma):
        return sparse.lrt_conv(
            x, mean, sigma, self.index, self.shape, self.key, **self.options
        )

    def run(self):
        """A sample and its gradients."""
        return together(self.sample, self.g, self.x, self.mean, self.sigma)

    def run_apart(self):
        """The same again, with the gradients of input and weights each alone."""
        return apart(self.sample, self.g, self.x, self.mean, self.sigma)

    def mean_of(self, x, mean, bias=None):
        return sparse.conv(x, mean, self.index, self.shape, **self.options, bias=bias)

    def run_mean(self):
        return together(self.mean_of, self.g, self.x, self.mean, self.bias)

    def run_mean_apart(self):
        return apart(self.mean_of, self.g, self.x, self.mean, self.bias)

    def run_dense(self):
        """The gradient of the mean of every weight."""
        window = sparse.make_window(self.shape, *self.options.values())
        size = [(int(np.prod(self.shape)),)]
        call = partial(custom_calls.call, "ssvi_dense_gradient", window, size)
        return jax.jit(call)(self.x, jnp.asarray(self.g))

    def expected_dense(self):
        x, kernel = np.asarray(self.x, np.float64), np.zeros(self.shape)
        return [gradients(x, self.g, kernel, *self.options.values())[1].ravel()]

    def expected(self):
        x = np.asarray(self.x, np.float64)
        window = list(self.options.values())
        kernel = place(self.mean, self.index, self.shape)
        variances = place(
            np.asarray(self.sigma, np.float64) ** 2, self.index, self.shape
        )
        m, v = convolve(x, kernel, *window), convolve(x**2, variances, *window)
        epsilon = noise.normal(self.key, tuple(np.array(m.shape)[[1, 2, 3, 0]]))
        epsilon = np.asarray(epsilon, np.float64).transpose(3, 0, 1, 2)
        positive = v > 0
        slope = np.where(positive, epsilon / (2 * np.sqrt(v + ~positive)), 0)
        dx, dmean = gradients(x, self.g, kernel, *window)
        dx2, dvariance = gradients(x**2, self.g * slope, variances, *window)
        dsigma = 2 * np.asarray(self.sigma) * dvariance.ravel()[self.index]
        y = m + np.sqrt(v) * epsilon
        return y, dx + 2 * x * dx2, dmean.ravel()[self.index], dsigma

    def expected_mean(self):
        window = list(self.options.values())
        kernel = place(self.mean, self.index, self.shape)
        x = np.asarray(self.x, np.float64)
        dx, dmean = gradients(x, self.g, kernel, *window)
        y = convolve(x, kernel, *window) + np.asarray(self.bias)
        return y, dx, dmean.ravel()[self.index], self.g.sum((0, 1, 2))


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        # A slope ε/(2√v) can be large where v is small: errors are of the largest.
        scale = np.abs(b).max(initial=1e-3)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * scale)


def check_passes(case):
    expected, expected_mean = case.expected(), case.expected_mean()
    assert_close(case.run(), expected)
    assert_close(case.run_apart(), expected)
    assert_close(case.run_mean(), expected_mean)
    assert_close(case.run_mean_apart(), expected_mean)
    assert_close(case.run_dense(), case.expected_dense())


sizes = st.integers(1, 5)
pads = st.tuples(st.integers(0, 6), st.integers(0, 6))


@st.composite
def cases(draw):
    kernel = draw(st.tuples(sizes, sizes))
    padding = draw(st.tuples(pads, pads))
    image = [
        draw(st.integers(max(1, k - sum(p)), 18))
        for k, p in zip(kernel, padding, strict=True)
    ]
    return Case(
        draw(st.integers(0, 1 << 20)),
        draw(st.integers(1, 40)),
        image,
        (*kernel, draw(st.integers(1, 7)), draw(st.integers(1, 7))),
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding,
        draw(st.sampled_from([0.02, 0.2, 1.0])),
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=5)
@given(case=cases(), threads=st.integers(1, 3))
def test_any_geometry(isa, case, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSVI_JAX_ISA", isa)
        patch.setenv("SSVI_JAX_THREADS", str(threads))
        check_passes(case)


LAYERS = {
    "whole vectors": Case(1, 32, (9, 9), (3, 3, 20, 24), (1, 1), ((1, 1), (1, 1)), 0.1),
    "column blocks": Case(2, 64, (5, 40), (3, 3, 64, 5), (1, 1), ((1, 1), (1, 1)), 0.1),
    # More channels than any cache holds: of the input, of the output.
    "turns forward": Case(
        3, 17, (4, 4), (3, 3, 10000, 3), (1, 1), ((1, 1), (1, 1)), 0.01
    ),
    "turns backward": Case(
        7, 17, (3, 4), (3, 3, 3, 7000), (2, 1), ((1, 1), (1, 0)), 0.02
    ),
    # Many weights that read the same: turns that fit the L1 cache, of a prime number.
    "turns of the first cache": Case(
        8, 64, (9, 8), (3, 3, 61, 16), (2, 2), ((0, 0), (0, 0)), 0.5
    ),
    "stride beyond the kernel": Case(
        4, 33, (11, 10), (1, 1, 9, 12), (2, 3), ((0, 0), (0, 0)), 0.4
    ),
    "streamed": Case(5, 64, (20, 20), (3, 3, 4, 12), (1, 1), ((1, 1), (1, 1)), 0.3),
    "no weights": Case(6, 5, (4, 4), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), 0.0),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_take_other_paths(monkeypatch, isa, name):
    monkeypatch.setenv("SSVI_JAX_ISA", isa)
    check_passes(LAYERS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_threads_do_not_change_a_bit(monkeypatch, name):
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("SSVI_JAX_THREADS", threads)
        case = LAYERS[name]
        runs = case.run, case.run_mean, case.run_apart, case.run_mean_apart
        runs += (case.run_dense,)
        results.append([array for run in runs for array in run()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [1, 7, 31, 32, 40, 96])
def test_noise_is_that_of_the_library(monkeypatch, isa, batch):
    monkeypatch.setenv("SSVI_JAX_ISA", isa)
    x = jnp.ones((batch, 6, 5, 1))
    index, one = jnp.arange(40, dtype=jnp.int32), jnp.ones(40)
    key = jax.random.key(batch)
    window = {"strides": (1, 1), "padding": ((0, 0), (0, 0))}
    # Mean 0 and variance 1: what comes out is the noise.
    got = sparse.lrt_conv(x, 0 * one, one, index, (1, 1, 1, 40), key, **window)
    expected = noise.normal(key, (6, 5, 40, batch)).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6)


def test_dense_is_a_matrix_product():
    rng = np.random.default_rng(0)
    for batch in ((3,), (128,), (2, 5)):
        x, bias = normals(rng, *batch, 70), normals(rng, 10)
        index = jnp.asarray(np.flatnonzero(rng.random(700) < 0.2), jnp.int32)
        mean = normals(rng, index.size)
        kernel = place(mean, index, (70, 10))
        got = sparse.dense(x, mean, index, (70, 10), bias)
        m = np.asarray(x, np.float64) @ kernel
        np.testing.assert_allclose(got, m + np.asarray(bias), rtol=1e-4, atol=1e-4)
        key = jax.random.key(3)
        y = sparse.lrt_dense(x, mean, 0.5 + 0 * mean, index, (70, 10), key)
        num = int(np.prod(batch))
        epsilon = np.asarray(noise.normal(key, (10, num))).T.reshape(*batch, 10)
        v = np.asarray(x, np.float64) ** 2 @ (
            place(0.5 + 0 * mean, index, (70, 10)) ** 2
        )
        expected = m + np.sqrt(v) * epsilon
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_under_scan_vmap_and_grad():
    case = LAYERS["whole vectors"]
    y, dx, dmean, _ = case.run()

    def loss(mean, x):
        return (case.sample(x, mean, case.sigma) * case.g).sum()

    def step(carry, x):
        return carry + jax.grad(loss)(case.mean, x), loss(case.mean, x)

    xs = jnp.stack([case.x, case.x])
    total, losses = jax.jit(lambda: jax.lax.scan(step, 0 * case.mean, xs))()
    np.testing.assert_allclose(total, 2 * dmean, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(losses, [(y * case.g).sum()] * 2, rtol=1e-4)
    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=1), in_axes=(None, 0)))
    np.testing.assert_allclose(mapped(case.mean, xs)[1], dx, rtol=1e-5, atol=1e-5)


def test_first_layer_does_not_compute_an_unused_gradient():
    case = LAYERS["whole vectors"]

    def loss(mean):
        return case.sample(case.x, mean, case.sigma).sum()

    text = jax.jit(jax.grad(loss)).lower(case.mean).compile().as_text()
    assert text is not None
    assert "ssvi_sample_weights" in text
    assert "ssvi_sample_input" not in text
    assert "ssvi_sample_gradients" not in text


def test_a_list_is_of_one_shape_of_images():
    """What the kernel would read elsewhere is refused."""
    window = custom_calls.Window((3, 3, 4, 8), (1, 1), ((1, 1), (1, 1)))
    index = jnp.arange(0, 288, 7, dtype=jnp.int32)
    mean = jnp.ones(index.size)
    none = jnp.zeros((0, 0, 0, 0)), jnp.zeros(0)

    def call(x, made_for):
        lists = sparse.list_mean(mean, index, made_for, window)
        operands = (x, *lists, none[1], none[0])
        (y,) = custom_calls.call(
            "ssvi_mean", window, [(*x.shape[:3], 8)], *operands, relu=np.bool_(False)
        )
        return jax.block_until_ready(y)

    x = jnp.ones((40, 32, 32, 4))
    assert np.isfinite(call(x, x.shape)).all()
    with pytest.raises(ValueError, match="list: made for images of"):
        call(x, (3, 8, 8, 4))


def test_bad_arguments_name_themselves():
    case = LAYERS["whole vectors"]
    good = {"x": case.x, "mean": case.mean, "sigma": case.sigma, "index": case.index}

    def call(shape=case.shape, window=None, **changes):
        a = {**good, **changes}
        values = (a["x"], a["mean"], a["sigma"], a["index"], shape)
        return sparse.lrt_conv(*values, case.key, **(window or PLAIN))

    pad, bare = PLAIN["padding"], {**PLAIN, "padding": ((0, 0), (0, 0))}
    for text, change in [
        ("x: got shape", {"x": case.x[0]}),
        ("x: got shape", {"x": case.x[..., 1:]}),
        ("x: got float16", {"x": case.x.astype(np.float16)}),
        ("sigma: got shape", {"sigma": case.sigma[1:]}),
        ("index: got uint32", {"index": case.index.astype(jnp.uint32)}),
        ("shape, strides", {"shape": (3, 20, 24)}),
        ("strides, padding", {"window": {"strides": (0, 1), "padding": pad}}),
        ("at least as large", {"x": case.x[:, :1], "window": bare}),
    ]:
        with pytest.raises(InputError, match=text):
            call(**change)
    with pytest.raises(InputError, match="bias"):
        sparse.conv(
            case.x, case.mean, case.index, case.shape, **PLAIN, bias=case.bias[1:]
        )
    outside = case.index.at[-1].set(int(np.prod(case.shape)))
    with pytest.raises(Exception, match="outside of the kernel"):
        jax.block_until_ready(call(index=outside))


def test_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("SSVI_JAX_ISA", "mmx")
    with pytest.raises(InputError, match="SSVI_JAX_ISA"):
        LAYERS["no weights"].run()
    assert "SSVI_JAX_ISA" in os.environ

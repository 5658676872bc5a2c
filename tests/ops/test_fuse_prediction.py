"""Elementwise operations done by the sparse kernels, against XLA doing them."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from ssvi_jax.core import trees
from ssvi_jax.networks import models
from ssvi_jax.ops import custom_calls, fuse_prediction, sparse
from ssvi_jax.vi import posterior as posterior_lib
from ssvi_jax.vi import predictive
from ssvi_jax.vi.likelihoods import Categorical

pytestmark = pytest.mark.skipif(
    not custom_calls.available() or jax.default_backend() != "cpu",
    reason="the sparse kernels are not compiled",
)

SIZE = 4  # of every axis, so that no mistaken axis shows in a shape
relu = nn.relu


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Outputs are full of NaN before a kernel writes them."""
    monkeypatch.setenv("SSVI_JAX_POISON", "1")


def text_of(fn, *args):
    return jax.jit(fn).lower(*args).as_text()


def calls(text):
    """Sparse convolutions and layers in a lowered program."""
    return text.count("@ssvi_mean(")


def passes(text):
    """Elementwise operations on whole images in a lowered program."""
    names = "add|subtract|multiply|divide|maximum|minimum|negate|select"
    images = r"tensor<(?!1x1x1x)\d+x\d+x\d+x\d+xf32>"
    return len(re.findall(rf"= stablehlo\.(?:{names}) .*{images}", text))


def assert_near(got, want, tolerance=1e-5):
    """Close relative to an array's largest finite value; NaN in the same places."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        largest = np.max(np.abs(b), where=np.isfinite(b), initial=1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


# One operation at a time -------------------------------------------------------------


def operands(seed=0):
    """Two images, two kernels and their index, and two vectors of a value a channel."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *[SIZE] * 4))
    index = np.flatnonzero(rng.random((3, 3, SIZE, SIZE)) < 0.4).astype(np.int32)
    kernels = rng.normal(size=(2, index.size))
    vectors = rng.normal(size=(2, 1, 1, 1, SIZE))
    floats = (jnp.asarray(a, jnp.float32) for a in (images, kernels, vectors))
    return *floats, jnp.asarray(index)


def around_convolutions(fn):
    """``fn(a, b, x, v, w)``: convolutions (b with a bias), image, vectors."""

    def whole(images, kernels, vectors, index):
        options = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}
        shape = (3, 3, SIZE, SIZE)
        a = sparse.conv(images[0], kernels[0], index, shape, **options)
        bias = vectors[0, 0, 0, 0]
        b = sparse.conv(images[0], kernels[1], index, shape, **options, bias=bias)
        return fn(a, b, images[1], *vectors)

    return whole


def along(axis, v):
    """The vector `v` along another axis, at the full shape of the images."""
    return jax.lax.broadcast_in_dim(v.reshape(-1), (SIZE,) * 4, (axis,))


# Name, operation, kernel calls, operations left to XLA.
CASES = [
    ("batch norm", lambda a, b, x, v, w: relu((a - v) * w + v), 1, 0),
    ("no relu", lambda a, b, x, v, w: (a - v) * w, 1, 0),
    ("bias", lambda a, b, x, v, w: relu(b * w), 1, 0),
    ("scalars", lambda a, b, x, v, w: 3.0 * (a + 2.0) / 7.0, 1, 0),
    ("vector divides", lambda a, b, x, v, w: -(a / w), 1, 0),
    ("constant minus", lambda a, b, x, v, w: 1.0 - b, 1, 0),
    ("vector minus", lambda a, b, x, v, w: v - a * w, 1, 0),
    ("traced scalar", lambda a, b, x, v, w: a * v.sum(), 1, 0),
    ("whole vector", lambda a, b, x, v, w: a * along(3, v) + along(3, w), 1, 0),
    ("whole zeros", lambda a, b, x, v, w: jnp.maximum(jnp.zeros_like(a), a), 1, 0),
    ("residual", lambda a, b, x, v, w: relu(x + a * v), 1, 0),
    ("residual minus", lambda a, b, x, v, w: relu(x - b * v), 1, 0),
    ("shift after residual", lambda a, b, x, v, w: relu((b + x) - v), 1, 0),
    ("two", lambda a, b, x, v, w: relu((a * v + w) + (b * w - v)), 2, 0),
    ("difference of two", lambda a, b, x, v, w: a * v - b, 2, 0),
    ("relu and one", lambda a, b, x, v, w: relu(a) + b, 2, 0),
    ("one and relu", lambda a, b, x, v, w: a + relu(b), 2, 0),
    ("next layer", lambda a, b, x, v, w: a.sum((1, 2)), 1, 0),
    ("inside jit", lambda a, b, x, v, w: jax.jit(lambda y: relu(y * w))(a), 1, 0),
    # What the kernel cannot do.
    ("minus residual", lambda a, b, x, v, w: a - x, 1, 1),
    ("relu minus relu", lambda a, b, x, v, w: relu(a) - relu(b), 2, 1),
    ("relu before", lambda a, b, x, v, w: relu(a) * v, 1, 1),
    ("relu, then shift", lambda a, b, x, v, w: relu(a) + v, 1, 1),
    ("relu, then negation", lambda a, b, x, v, w: -relu(a), 1, 1),
    ("scale after residual", lambda a, b, x, v, w: (a + x) * v, 1, 1),
    ("division after residual", lambda a, b, x, v, w: (a + x) / v, 1, 1),
    ("negation after residual", lambda a, b, x, v, w: v - (a + x), 1, 1),
    ("two residuals", lambda a, b, x, v, w: (a + x) + x, 1, 1),
    ("three", lambda a, b, x, v, w: (a + b) + x, 2, 1),
    ("product of two", lambda a, b, x, v, w: a * b, 2, 1),
    ("divides", lambda a, b, x, v, w: v / a, 1, 1),
    ("limit above 0", lambda a, b, x, v, w: jnp.maximum(a, 0.5), 1, 1),
    ("limit by channel", lambda a, b, x, v, w: jnp.maximum(a, v), 1, 1),
    ("limit by pixel", lambda a, b, x, v, w: jnp.maximum(a, x), 1, 1),
    ("by image", lambda a, b, x, v, w: a * along(0, v), 1, 1),
    ("by row", lambda a, b, x, v, w: a * along(1, v), 1, 1),
    ("by column", lambda a, b, x, v, w: a * v.reshape(1, 1, SIZE, 1), 1, 1),
    ("term by column", lambda a, b, x, v, w: a + v.reshape(1, 1, SIZE, 1), 1, 1),
    ("min", lambda a, b, x, v, w: jnp.minimum(a * v, 0.0), 1, 1),
    # More than one reader: convolved once all the same.
    ("used twice", lambda a, b, x, v, w: a * v + relu(a), 1, 3),
    ("with itself", lambda a, b, x, v, w: a + a, 1, 1),
    ("returned", lambda a, b, x, v, w: (a, relu(a)), 1, 1),
    ("returned between", lambda a, b, x, v, w: [y := a * v, relu(y + w)], 1, 2),
    ("returned twice", lambda a, b, x, v, w: (y := relu(a), y), 1, 0),
    ("twice to jit", lambda a, b, x, v, w: jax.jit(jnp.add)(a, a), 1, 1),
    ("used twice in jit", lambda a, b, x, v, w: jax.jit(lambda y: y * v + y)(a), 1, 2),
    (
        "branch",
        lambda a, b, x, v, w: jax.lax.cond(
            v.sum() > 0, lambda y: y * w, lambda y: y, a - v
        ),
        1,
        1,
    ),
]


@pytest.mark.parametrize(
    ("fn", "num_calls", "num_passes"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_operation(fn, num_calls, num_passes):
    plain, args = around_convolutions(fn), operands()

    def folded(*args):
        return fuse_prediction.evaluate(plain, *args)

    assert_near(tiny.jit(folded)(*args), tiny.jit(plain)(*args))
    text = text_of(folded, *args)
    assert (calls(text), passes(text)) == (num_calls, num_passes)


@pytest.mark.parametrize("what", ["residual", "term"])
def test_one_pixel_grows_to_images(what):
    def plain(x, kernel, index, images):
        shape = (1, 1, SIZE, SIZE)
        options = {"strides": (1, 1), "padding": ((0, 0), (0, 0))}
        other = images if what == "residual" else along(3, images[0, 0, 0])
        return sparse.conv(x, kernel, index, shape, **options) * 2.0 + other

    images, kernels, _, _ = operands()
    index = jnp.arange(0, SIZE * SIZE, 2, dtype=jnp.int32)
    args = (images[0, :1, :1, :1], kernels[0, : index.size], index, images[1])
    got = tiny.jit(lambda *args: fuse_prediction.evaluate(plain, *args))(*args)
    assert_near(got, tiny.jit(plain)(*args))


def test_nan_stays_where_it_is():
    def fn(a, b, x, v, w):
        return relu((a - v) * w + v), relu(b + x), relu(a / v)

    plain = around_convolutions(fn)
    images, kernels, vectors, index = operands()
    images = images.at[0, 1, 2, 1, 3].set(jnp.nan).at[1, 0, 0, 0, 0].set(jnp.nan)
    vectors = vectors.at[0, 0, 0, 0, 2].set(jnp.nan)
    index = index[index % SIZE != 2]  # a channel without a weight
    args = (images, kernels[:, : index.size], vectors, index)
    got = tiny.jit(lambda *args: fuse_prediction.evaluate(plain, *args))(*args)
    want = tiny.jit(plain)(*args)
    assert all(np.isnan(y).any() and np.isfinite(y).any() for y in want)
    assert_near(got, want)


def test_extreme_batch_norm():
    """Each channel to 1e-5 of its own largest value."""
    plain = nn.BatchNorm(use_running_average=True)
    scale = jnp.array([0.0, -3.0, 1e-20, 1e20], jnp.float32)
    for variance in (0.0, 1e-12, 1.0, 1e12):
        stats = {"mean": scale[::-1] / 1e19, "var": jnp.full(SIZE, variance)}
        params = {"scale": scale, "bias": jnp.arange(SIZE) * 1e-3}
        variables = {"params": params, "batch_stats": stats}

        def fn(a, b, x, v, w, variables=variables):
            return plain.apply(variables, a)

        args = operands()
        whole = around_convolutions(fn)
        got = tiny.jit(
            lambda *args, whole=whole: fuse_prediction.evaluate(whole, *args)
        )(*args)
        want = tiny.jit(whole)(*args)
        for channel in range(SIZE):
            assert_near(got[..., channel], want[..., channel])


# Whole networks ----------------------------------------------------------------------


class Awkward(nn.Module):
    """What a model may do to a convolution besides batch norm and ReLU."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        def norm():
            return nn.BatchNorm(use_running_average=not train)

        y = nn.Conv(6, (3, 3))(x)
        skip = nn.Conv(6, (1, 1), use_bias=False)(nn.gelu(y))
        y = norm()(nn.relu(y)) + skip  # relu first, and y read twice
        y = nn.relu(nn.GroupNorm(2)(nn.Conv(6, (3, 3))(y)))  # of batch and pixels
        y = norm()(nn.Conv(6, (3, 3))(y)) + norm()(nn.Conv(6, (1, 1))(y))
        y = nn.max_pool(1.0 - nn.Conv(6, (3, 3), strides=2)(y) / 3.0, (2, 2))
        gate = nn.sigmoid(nn.Dense(6)(y.mean((1, 2))))[:, None, None]
        y = nn.leaky_relu(nn.Conv(6, (3, 3), padding="VALID")(y) * gate)
        return nn.Dense(10)(y.reshape(y.shape[0], -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(6, 6, (3, 3), strides=2, rngs=rngs)
        self.norm1 = nnx.BatchNorm(6, rngs=rngs)
        self.norm2 = nnx.BatchNorm(6, rngs=rngs)
        self.linear = nnx.Linear(6, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        return self.linear(nnx.relu(self.norm2(self.conv2(x))).mean((1, 2)))


NETWORKS = {
    "resnet18": lambda: models.build("resnet18", num_classes=10, width=0.1),
    "convnet": lambda: models.build("convnet", num_classes=10, width=0.2),
    "awkward": Awkward,
    "nnx": lambda: Nnx(nnx.Rngs(0)),
}


def problem(name, num=3):
    """A network with random parameters, as `predictive._batch_features` takes it."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(num, 16, 16, 3)), jnp.float32)
    net, params, model_state = tiny.from_flax(NETWORKS[name](), x[:1])
    weights, subspace = tiny.random_weights(params, model_state, sigma=0.1, density=0.3)
    kernels = posterior_lib.packed_sample(
        weights.posterior, subspace, tiny.KEY, backend="sparse"
    )
    return net, weights.params, kernels, model_state, x


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_a_network(name):
    net, params, kernels, model_state, x = problem(name)
    params = trees.merge(params, posterior_lib.full_kernels(kernels))

    def plain(params, kernels, x):
        options = {"train": False, "key": tiny.KEY, "kernels": kernels}
        return net(params, model_state, x, **options)[0]

    got = tiny.jit(lambda *args: fuse_prediction.evaluate(plain, *args))(
        params, kernels, x
    )
    want = tiny.jit(plain)(params, kernels, x)
    assert np.ptp(want, axis=0).max() > 1e-2 * np.abs(want).max()
    assert_near(got, want)


def test_no_pass_over_images_is_left_of_a_residual_network(monkeypatch):
    net, *args = problem("resnet18")
    lower = predictive._batch_features.lower
    text = lower(net, Categorical(), *args).as_text()
    assert calls(text) == 20 + 1
    assert passes(text) == 0
    monkeypatch.setattr(fuse_prediction, "evaluate", lambda fn, *args: fn(*args))
    jax.clear_caches()
    plain = lower(net, Categorical(), *args).as_text()
    assert calls(plain) == 20 + 1
    assert passes(plain) >= 20 * 3 + 8


@pytest.mark.parametrize("num", [64, 81])
def test_a_batch_is_predicted_in_parts_with_one_list_a_layer(num):
    net, params, kernels, model_state, x = problem("nnx", num)
    probs = partial(predictive._batch_features, net, Categorical())
    compiled = probs.func.lower(*probs.args, params, kernels, model_state, x).compile()
    text = compiled.as_text()
    assert text is not None
    inside = [part for part in text.split("\n\n") if "ssvi_mean" in part]
    assert inside
    for part in inside:
        assert "ENTRY" not in part
        assert "ssvi_list_mean" not in part
    got = compiled(params, kernels, model_state, x)
    want = [
        probs(params, kernels, model_state, x[i : i + 20]) for i in range(0, num, 20)
    ]
    assert_near(got, jnp.concatenate(want))


def test_other_predictions_are_left_alone(monkeypatch):
    monkeypatch.setattr(fuse_prediction, "evaluate", None)
    net, params, kernels, model_state, x = problem("nnx")
    full = posterior_lib.full_kernels(kernels)
    merged = trees.merge(params, full)
    operands = net, Categorical(), merged, None, model_state, x
    text = predictive._batch_features.lower(*operands)
    assert calls(text.as_text()) == 0

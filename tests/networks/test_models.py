"""The networks: shapes, exact sizes and costs, names, batch statistics, errors."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssvi_jax.core.errors import InputError
from ssvi_jax.networks import models
from ssvi_jax.networks.models import airbench, pooling, wide_resnet

COLOUR = (32, 32, 3)
DIGITS = (8, 8, 1)


def shapes(model: nn.Module, image: tuple[int, ...]):
    """The variables' shapes and dtypes, without computing anything."""
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), key, x)


def flatten(tree) -> dict[str, Any]:
    """Path "a/b/kernel" → leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in leaves}


def kernel_sizes(model: nn.Module, image: tuple[int, ...]) -> dict[str, int]:
    """Path → number of weights of every kernel."""
    flat = flatten(shapes(model, image)["params"])
    return {
        path: math.prod(leaf.shape)
        for path, leaf in flat.items()
        if path.endswith("/kernel")
    }


def random_variables(model: nn.Module, image: tuple[int, ...]):
    """Variables that need no compilation: He-normal kernels, unit norms."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            scale = math.sqrt(2 / math.prod(leaf.shape[:-1]))
            return rng.normal(0, scale, leaf.shape).astype(np.float32)
        value = 1.0 if name in ("scale", "var") else 0.0
        return np.full(leaf.shape, value, np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes(model, image))


def multiply_adds(model: nn.Module, image: tuple[int, ...]) -> int:
    """Multiply-adds of the products in one image's forward pass, read off the jaxpr."""
    x = jnp.zeros((1, *image))

    def forward(key):
        variables = model.init(key, x, train=False)
        return model.apply(variables, x, train=False)

    # The initialisation runs the network too, and multiplies nothing else.
    equations = jax.make_jaxpr(forward)(jax.random.key(0)).jaxpr.eqns
    twice = sum(equation_cost(equation) for equation in flatten_equations(equations))
    assert twice % 2 == 0
    return twice // 2


def flatten_equations(equations):
    for equation in equations:
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if inner is None:
            yield equation
        else:
            yield from flatten_equations(getattr(inner, "jaxpr", inner).eqns)


def equation_cost(equation) -> int:
    name = equation.primitive.name
    if name not in ("dot_general", "conv_general_dilated"):
        return 0
    left, right = (v.aval.shape for v in equation.invars)
    out = math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return out * math.prod(left[axis] for axis in contracted)
    return out * math.prod(right[:-1])


@pytest.mark.parametrize("name", sorted(models.MODELS))
@pytest.mark.parametrize("image", [COLOUR, DIGITS, (9, 6, 2)])
def test_logits_shape(name, image):
    model = models.build(name, num_classes=7, width=0.1)
    x = jax.ShapeDtypeStruct((5, *image), jnp.float32)
    variables = shapes(model, image)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, x)
    assert logits.shape == (5, 7)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet18"])
def test_every_logit_of_the_jitted_network_depends_on_the_image(name):
    model = models.build(name, num_classes=3, width=0.1)
    x = jax.random.normal(jax.random.key(1), (5, *DIGITS))
    predict = jax.jit(lambda v, x: model.apply(v, x, train=False))
    logits = predict(random_variables(model, DIGITS), x)
    assert np.isfinite(logits).all()
    assert np.std(logits, axis=0).min() > 1e-4


@pytest.mark.parametrize(
    ("name", "num_kernels", "num_weights"),
    [
        # ResNet-18: the authors' count. ResNet-34 by hand: stem 1,728; stages
        # 6 * 9 * 64², then for c = 128, 256, 512 with 4, 6, 3 blocks
        # 9c²(1/2 + 2 * blocks - 1) + c²/2; dense layer 5,120.
        ("resnet18", 21, 11_164_352),
        ("resnet34", 37, 21_265_088),
        # 27 * 32 + 9 * (32 * 64 + 64² + 64 * 128 + 128² + 128 * 256 + 256²) + 2,560.
        ("convnet", 8, 1_164_640),
        # 3,072 * 256 + 256² + 2,560.
        ("mlp", 3, 854_528),
    ],
)
def test_kernel_counts_at_width_one(name, num_kernels, num_weights):
    sizes = kernel_sizes(models.build(name, num_classes=10), COLOUR)
    assert len(sizes) == num_kernels
    assert sum(sizes.values()) == num_weights


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        # Stem 27 * 64 * 32²; stage 1: 4 * 9 * 64² * 32²; every later stage 8/9 of the
        # same for its four 3x3 convolutions plus 2 % for its shortcut: 134,217,728.
        ("resnet18", COLOUR, 1_769_472 + 150_994_944 + 3 * 134_217_728 + 5_120),
        # Stem 27 * 32 * 32²; blocks 9 * (c/2 * c * size² + c² * (size/2)²).
        ("convnet", COLOUR, 884_736 + 3 * (4_718_592 + 2_359_296) + 2_560),
        # The image is pooled from 8 to 4 and to 2 pixels, then stays.
        (
            "convnet",
            DIGITS,
            9 * 32 * 64
            + 9 * (32 * 64 * 16 + 64 * 64 * 4)
            + 9 * (64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) * 4
            + 2_560,
        ),
        ("mlp", DIGITS, 64 * 256 + 256 * 256 + 2_560),
        # Images of 31 pixels are halved to 15, 7 and 3 by the first of each block.
        (
            "airbench",
            COLOUR,
            9 * 225 * (24 * 64 + 64 * 64)
            + 9 * 49 * (64 * 256 + 2 * 256 * 256)
            + 9 * 9 * (256 * 512 + 2 * 512 * 512)
            + 5_120,
        ),
    ],
)
def test_multiply_adds_by_hand(name, image, expected):
    assert multiply_adds(models.build(name, num_classes=10), image) == expected


@pytest.mark.parametrize(
    ("name", "width", "classes", "image", "count"),
    [
        # The count of the paper's Table (36.5 M) and of PyTorch's implementations.
        ("wrn28", 10, 10, COLOUR, 36_479_194),
        ("wrn28", 2, 10, COLOUR, 1_467_610),
        ("resnet50", 1, 1000, (224, 224, 3), 25_557_032),
    ],
)
def test_published_parameter_counts(name, width, classes, image, count):
    model = models.build(name, num_classes=classes, width=width)
    leaves = jax.tree.leaves(shapes(model, image)["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_a_wide_network_of_any_depth():
    def kernels(depth):
        model = wide_resnet.WideResNet(depth, num_filters=8, num_classes=3)
        return kernel_sizes(model, DIGITS)

    # Stem, dense layer, two convolutions a block, three shortcuts (16 is not 8).
    assert len(kernels(16)) == 2 + 2 * 6 + 3
    # Two digits, so that names sort in the order of application.
    assert "group1_00/conv1/kernel" in kernels(70)
    with pytest.raises(InputError, match="depth: got 17, allowed: 10, 16"):
        kernels(17)


def test_laptop_network_is_small_and_fast():
    model = models.build("convnet", num_classes=10)
    assert sum(kernel_sizes(model, COLOUR).values()) <= 2_000_000
    assert multiply_adds(model, COLOUR) <= 25_000_000


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_sorted_kernel_paths_are_in_the_order_of_application(name):
    model = models.build(name, num_classes=10, width=0.1)
    applied = []

    def record(next_fn, args, kwargs, context):
        if isinstance(context.module, (nn.Conv, nn.Dense)):
            applied.append("/".join((*context.module.path, "kernel")))
        return next_fn(*args, **kwargs)

    with nn.intercept_methods(record):
        sizes = kernel_sizes(model, COLOUR)
    assert sorted(sizes) == list(dict.fromkeys(applied))


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_batch_statistics_move_a_tenth_of_the_way(name):
    model = models.build(name, num_classes=3, width=0.1)
    x = jax.random.normal(jax.random.key(1), (8, *DIGITS))
    variables = random_variables(model, DIGITS)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    stem = jax.lax.conv_general_dilated(
        x,
        variables["params"]["conv1"]["kernel"],
        window_strides=(1, 1),
        padding=[(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if name == "convnet":
        stem = pooling.pool_2x2(stem)
    _, updated = apply(variables, x)
    after = updated["batch_stats"]["bn1"]
    expected_mean = 0.1 * stem.mean(axis=(0, 1, 2))
    expected_var = 0.9 + 0.1 * stem.var(axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], expected_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["var"], expected_var, rtol=1e-4, atol=1e-6)
    start = flatten(variables["batch_stats"])
    end = flatten(updated["batch_stats"])
    assert start.keys() == end.keys()
    assert all(not np.array_equal(start[path], end[path]) for path in start)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (3, 4), (5, 3)])
def test_pool_and_its_gradient_are_those_of_flax(height, width):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    expected, pull = jax.vjp(
        partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2)), x
    )
    y, own_pull = jax.vjp(pooling.pool_2x2, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)
    g = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(own_pull(g)[0], pull(g)[0], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (3, 4), (5, 3)])
def test_a_convolution_of_averages_is_the_average_of_a_convolution(height, width):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    convolve = partial(
        jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

    def averaged_last(x, kernel):
        return pooling.pool_2x2(convolve(x, kernel, (1, 1), [(1, 1), (1, 1)]))

    def averaged_first(x, kernel):
        return convolve(pooling.smooth_2x2(x), kernel, (2, 2), "VALID")

    expected, pull = jax.vjp(averaged_last, x, kernel)
    y, own_pull = jax.vjp(averaged_first, x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    g = jax.random.normal(jax.random.key(2), y.shape)
    for own, other in zip(own_pull(g), pull(g), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)


# Of 8 pixels the last block has one, which is not halved.
@pytest.mark.parametrize("image", [COLOUR, DIGITS])
def test_airbench_is_a_network_that_pools(image):
    model = models.build("airbench", num_classes=3, width=0.1)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    variables = jax.tree.map(
        lambda leaf: jnp.abs(jax.random.normal(next(keys), leaf.shape)) + 0.1 * leaf,
        random_variables(model, image),
    )
    x = jax.random.normal(jax.random.key(1), (4, *image))
    filters = {"whitening": variables["whitening"]["whiten"]}
    hidden: Any = airbench.Whiten().apply(filters, x)
    hidden = nn.relu(hidden)
    places = [place for depth in model.depths for place in range(depth)]
    for number, place in enumerate(places, start=1):
        y = jax.lax.conv_general_dilated(
            hidden,
            variables["params"][f"conv{number}"]["kernel"],
            window_strides=(1, 1),
            padding=[(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = pooling.pool_2x2(y) if place == 0 else y
        norm = nn.BatchNorm(use_running_average=True, use_scale=False)
        own = {c: variables[c][f"bn{number}"] for c in ("params", "batch_stats")}
        y: Any = norm.apply(own, y)
        hidden = nn.relu(y + hidden if place == 2 else y)
    head = variables["params"]["linear"]["kernel"]
    expected = hidden.max(axis=(1, 2)) @ head / 9
    logits: Any = model.apply(variables, x, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_pool_leaves_tiny_images():
    x = jnp.ones((1, 2, 5, 3))
    assert pooling.pool_2x2(x) is x


def test_width_scales_the_channels():
    half = models.build("resnet18", num_classes=10, width=0.5)
    assert kernel_sizes(half, COLOUR)["layer4_1/conv2/kernel"] == 9 * 256 * 256
    least = models.build("mlp", num_classes=10, width=1e-9)
    assert kernel_sizes(least, DIGITS)["dense1/kernel"] == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "resnet19"},
            "model: got 'resnet19', allowed: airbench, convnet, lstm, mlp, res",
        ),
        ({"width": 0.0}, "width: got 0.0"),
        ({"width": math.nan}, "width: got nan"),
        ({"width": math.inf}, "width: got inf"),
        ({"num_classes": 0}, "num_classes: got 0"),
        ({"num_classes": 2.5}, "num_classes: got 2.5, allowed: a whole number of at"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"name": "mlp", "num_classes": 10, "width": 1.0, **changes}
    with pytest.raises(InputError, match=message):
        models.build(arguments.pop("name"), **arguments)

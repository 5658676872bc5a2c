"""Layer counts against the published totals, an independent solve and brute force."""

import itertools
import math

import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi.densities import RULES, layer_counts


def resnet18_shapes():
    """The 21 convolution and dense kernels of the CIFAR ResNet-18."""
    shapes, num_in = {"stem/kernel": (3, 3, 3, 64)}, 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            path = f"stage{stage}_block{block}"
            shapes[f"{path}/conv1/kernel"] = (3, 3, num_in, width)
            shapes[f"{path}/conv2/kernel"] = (3, 3, width, width)
            if num_in != width:
                shapes[f"{path}/shortcut/kernel"] = (1, 1, num_in, width)
            num_in = width
    return shapes | {"head/kernel": (512, 10)}


RESNET18 = resnet18_shapes()
MLP = {"a": (64, 100), "b": (100, 30), "c": (30, 10)}
SMALL = {"conv1": (3, 3, 1, 2), "conv2": (3, 3, 2, 3), "head": (3, 4)}


def dense_layers(shapes, counts):
    """The layers that keep every weight."""
    return tuple(path for path in shapes if counts[path] == math.prod(shapes[path]))


@pytest.mark.parametrize(("sparsity", "total"), [(0.9, 1_117_990), (0.95, 559_859)])
def test_uniform_gives_the_published_totals(sparsity, total):
    assert len(RESNET18) == 21
    assert sum(map(math.prod, RESNET18.values())) == 11_164_352
    counts = layer_counts(RESNET18, sparsity, "uniform")
    assert list(counts) == list(RESNET18)
    assert sum(counts.values()) == total
    assert dense_layers(RESNET18, counts) == ("stem/kernel",)
    assert counts["head/kernel"] == round(512 * 10 * (1 - sparsity))


def test_uniform_without_a_convolution_keeps_nothing_dense():
    counts = layer_counts(MLP, 0.9, "uniform")
    assert counts == {"a": 640, "b": 300, "c": 30}
    assert dense_layers(MLP, counts) == ()


def test_uniform_keeps_the_first_convolution_in_the_order_given():
    shapes = {"z_dense": (8, 8), "y_conv": (3, 4, 4), "a_conv": (3, 3, 4, 4)}
    counts = layer_counts(shapes, 0.5, "uniform")
    assert counts == {"z_dense": 32, "y_conv": 48, "a_conv": 72}


RAW = {
    "er": lambda s: (s[-1] + s[-2]) / (s[-1] * s[-2]),
    "erk": lambda s: sum(s) / math.prod(s),
    "sqrt_erk": lambda s: math.sqrt(sum(s) / math.prod(s)),
}


def independent_shares(shapes, sparsity, rule):
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    raw = {path: RAW[rule](shape) for path, shape in shapes.items()}
    budget = round((1 - sparsity) * sum(sizes.values()))
    return sizes, budget, oracles.proportional_shares(sizes, raw, budget)


@pytest.mark.parametrize("rule", RAW)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("shapes", [RESNET18, MLP])
def test_erdos_renyi_agrees_with_bisection(shapes, sparsity, rule):
    counts = layer_counts(shapes, sparsity, rule)
    sizes, budget, shares = independent_shares(shapes, sparsity, rule)
    assert sum(counts.values()) == budget
    for path, count in counts.items():
        assert abs(count - shares[path]) < 1
        assert count == sizes[path] or shares[path] < sizes[path]


@pytest.mark.parametrize("rule", RAW)
@pytest.mark.parametrize("sparsity", [0.15, 0.33, 0.5, 0.71, 0.8])
def test_rounding_is_the_closest_of_all_roundings(sparsity, rule):
    counts = layer_counts(SMALL, sparsity, rule)
    sizes, budget, shares = independent_shares(SMALL, sparsity, rule)

    def distance(candidate):
        return sum((n - shares[path]) ** 2 for path, n in candidate.items())

    candidates = (
        dict(zip(sizes, numbers, strict=True))
        for numbers in itertools.product(*(range(n + 1) for n in sizes.values()))
        if sum(numbers) == budget
    )
    assert distance(counts) == pytest.approx(min(map(distance, candidates)))


def test_erk_by_hand():
    # sizes 18, 54, 12, budget 42, shares sum(shape) = 9, 11, 7, so ε = 42/27 and the
    # counts are 14, 17.11, 10.89: floors 14, 17, 10, the one left goes to the head
    assert layer_counts(SMALL, 0.5, "erk") == {"conv1": 14, "conv2": 17, "head": 11}
    # er: shares 27, 45, 7, ε = 42/79: 14.35, 23.92, 3.72, two left
    assert layer_counts(SMALL, 0.5, "er") == {"conv1": 14, "conv2": 24, "head": 4}
    # sqrt_erk: shares √(size · sum(shape)) = 12.73, 24.37, 9.17, so ε = .9077 and the
    # counts are 11.55, 22.12, 8.32, one left
    counts = layer_counts(SMALL, 0.5, "sqrt_erk")
    assert counts == {"conv1": 12, "conv2": 22, "head": 8}
    # budget 71: all but conv2 are capped
    counts = layer_counts(SMALL, 0.15, "erk")
    assert counts == {"conv1": 18, "conv2": 41, "head": 12}
    assert dense_layers(SMALL, counts) == ("conv1", "head")


def test_equal_remainders_go_to_the_earlier_layer():
    shapes = {"z": (3, 3), "a": (3, 3)}  # 4.5 each, budget 9
    assert layer_counts(shapes, 0.5, "erk") == {"z": 5, "a": 4}


dimensions = st.integers(1, 40)
kernels = st.one_of(
    st.tuples(dimensions, dimensions),
    st.tuples(st.integers(1, 5), st.integers(1, 5), dimensions, dimensions),
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    kernel_list=st.lists(kernels, min_size=1, max_size=8),
    sparsity=st.floats(0, 1, exclude_max=True),
    rule=st.sampled_from(sorted(RAW)),
)
def test_total_is_exact_for_any_shapes(kernel_list, sparsity, rule):
    shapes = {str(i): kernel for i, kernel in enumerate(kernel_list)}
    try:
        counts = layer_counts(shapes, sparsity, rule)
    except InputError as error:
        assert "without a weight" in str(error)  # noqa: PT017 (either outcome is fine)
        return
    total = sum(map(math.prod, kernel_list))
    assert sum(counts.values()) == round((1 - sparsity) * total)
    assert all(1 <= counts[path] <= math.prod(shapes[path]) for path in shapes)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_sparsity_zero_is_dense(rule):
    counts = layer_counts(RESNET18, 0.0, rule)
    assert dense_layers(RESNET18, counts) == tuple(RESNET18)


def test_densities_by_hand():
    densities = {"c": 1.0, "a": 0.25, "b": 0.0009}
    counts = layer_counts(MLP, None, densities)
    assert counts == {"a": 1600, "b": 3, "c": 300}
    assert list(counts) == ["a", "b", "c"]
    assert dense_layers(MLP, counts) == ("c",)


@pytest.mark.parametrize(
    ("shapes", "sparsity", "rule", "message"),
    [
        (MLP, 1.0, "erk", r"sparsity: got 1.0, allowed: a number in \[0, 1\)"),
        (MLP, -0.1, "uniform", "sparsity: got -0.1"),
        (MLP, math.nan, "er", "sparsity: got nan"),
        (MLP, None, "er", "sparsity: got None"),
        (
            MLP,
            0.9,
            "random",
            "densities: got 'random', allowed: er, erk, sqrt_erk, uniform",
        ),
        (MLP, None, {"a": 0.1, "b": 0.1}, "no density for c"),
        (MLP, None, dict.fromkeys("abcd", 0.1), "a density for unknown d"),
        (MLP, None, dict.fromkeys("abc", 1.1), "density of a: got 1.1"),
        (MLP, 0.9, dict.fromkeys("abc", 0.1), "sparsity: got 0.9 together"),
        (MLP, 0.999, "uniform", r"layer c with 300 weights \(30, 10\) is left without"),
        (MLP, None, {"a": 0.1, "b": 0.0, "c": 1.0}, "layer b with 3000 weights"),
        (RESNET18, 0.9999999, "erk", "layer stem/kernel with 1728 weights"),
        ({}, 0.9, "erk", "got no kernels"),
    ],
)
def test_bad_input(shapes, sparsity, rule, message):
    with pytest.raises(InputError, match=message):
        layer_counts(shapes, sparsity, rule)

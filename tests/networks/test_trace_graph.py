"""What of a network becomes nodes, and what is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runtime_models
from flax import nnx

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import graph
from ssvi_jax.networks import trace_graph


def traced(module, x, **options):
    fit = runtime_models.fitted(module, x, **options)
    example = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return trace_graph.trace(fit.apply_fn, fit.weights, fit.masks, example)


def operations(found) -> list[str]:
    return [node.operation for node in found.nodes]


def test_batch_norms_and_residuals_are_parts_of_products():
    module, shape = runtime_models.KINDS["resnet"]
    found = traced(module, runtime_models.inputs(shape))
    rest = set(operations(found)) - {"kernel", "constant", "input"}
    assert rest == {"product", "reduce_sum", "div", "reshape"}
    bits = [n.numbers[-1][1] for n in found.nodes if n.operation == "product"]
    plain, added = graph.SCALE | graph.SHIFT | graph.RELU, graph.RESIDUAL
    want = [plain, plain, plain | added, plain, plain | added, graph.SHIFT]
    assert sorted(bits) == sorted([*want, graph.SCALE | graph.SHIFT])


def test_a_batch_norm_is_its_scale_and_shift():
    module = runtime_models.ResNet()
    x = runtime_models.inputs(runtime_models.IMAGE)
    fit = runtime_models.fitted(module, x)
    example = jax.ShapeDtypeStruct(x.shape, x.dtype)
    found = trace_graph.trace(fit.apply_fn, fit.weights, fit.masks, example)
    first = next(node for node in found.nodes if node.operation == "product")
    scale, shift = (
        found.constants[found.nodes[i].numbers[0][1]] for i in first.inputs[2:4]
    )
    norm = fit.weights.params["BatchNorm_0"]
    moments = fit.weights.model_state["batch_stats"]["BatchNorm_0"]
    want = norm["scale"] / np.sqrt(moments["var"] + 1e-5)
    np.testing.assert_allclose(scale, want, rtol=1e-6)
    np.testing.assert_allclose(shift, norm["bias"] - moments["mean"] * want, rtol=1e-5)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        return nn.relu(x) * x


def test_what_two_read_is_not_folded():
    """Otherwise one of them would read it after the ReLU."""
    found = traced(Twice(), runtime_models.inputs((3,)))
    assert operations(found)[-2:] == ["max", "mul"]


def test_numbers_scale_with_the_batch():
    module, shape = runtime_models.KINDS["vision transformer"]
    found = traced(module, runtime_models.inputs(shape))
    numbers = {n for node in found.nodes for n in node.numbers}
    assert (1, 0) in numbers  # a batch
    assert (4, 0) in numbers  # heads of a batch
    assert all(array.size < 100 for array in found.constants)


class Sorts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.sort(x, axis=-1))


class Embeds(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Embed(5, 4)(jnp.int32(x)).mean(1))


class Halves(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, dtype=jnp.bfloat16)(x)


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x) * len(x)


class Computes(nn.Module):
    """A function of the input, then a layer."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.float32(self.function(x)))


class NnxSorts(nnx.Module):
    """Flax's nnx does not name its layers in a trace."""

    def __init__(self):
        self.first = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return jnp.sort(self.first(x), axis=-1)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Sorts(), "got the operation 'sort' in Sorts"),
        (NnxSorts(), "got the operation 'sort' after first/kernel"),
        (Embeds(), "got arithmetic on whole numbers: indices.*in Embeds/Embed_0"),
        (Halves(), "got computations in bfloat16 in Halves/Dense_0"),
        (Counts(), "got what it computes depends on the number of examples"),
    ],
)
def test_what_is_not_in_the_set_is_named_with_its_layer(module, text):
    with pytest.raises(InputError, match=text):
        traced(module, runtime_models.inputs((4,)))


def test_a_file_says_why_it_has_no_graph():
    x = runtime_models.inputs((4,))
    fit = runtime_models.fitted(Sorts(), x)
    args = (fit.apply_fn, fit.weights, fit.masks)
    one = [[list(x.shape), "float32"]]
    asked = {"half": True, "classes": True}
    assert "'sort' in Sorts" in trace_graph.for_file(*args, one, **asked)
    assert trace_graph.for_file(*args, None, **asked) == (
        "its inputs are not one array of known shape"
    )
    asked["classes"] = False
    assert trace_graph.for_file(*args, one, **asked) == (
        "its outputs are not logits of classes"
    )


def test_python_and_cpp_know_the_same_operations():
    source = Path(trace_graph.__file__).parents[1] / "runtime" / "csrc" / "graph.h"
    table = source.read_text().partition("SSVI_OPERATIONS(X)")[2]
    names = re.findall(r"X\((\w+)\)", table.partition("enum class")[0])
    assert tuple(names) == graph.OPERATIONS


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (jax.lax.round, "rounding of halves away from zero"),
        (lambda x: jax.lax.div(jnp.int32(x), 2), r"arithmetic on whole numbers.*'div'"),
        (lambda x: jnp.int32(x) * 3, r"arithmetic on whole numbers.*'mul'"),
        (lambda x: jnp.int32(x) ** 3, "arithmetic on whole numbers"),
        (lambda x: (x > 0).sum(-1, keepdims=True), "arithmetic .*'reduce_sum'"),
        (jnp.uint8, "a conversion from float32 to uint8, which does not hold it"),
        (lambda x: jnp.int32(x).astype(jnp.int8), "a conversion from int32 to int8"),
    ],
)
def test_what_float32_would_get_wrong_is_refused(function, text):
    """The runtime computes in float32: no rest, no wrapping around."""
    with pytest.raises(InputError, match=text):
        traced(Computes(function), runtime_models.inputs((4,)))


def test_pixels_do_not_wrap_around():
    pixels = np.zeros((2, 4), np.uint8)
    with pytest.raises(InputError, match=r"arithmetic on whole numbers.*'sub'"):
        traced(Computes(lambda x: x - jnp.uint8(128)), pixels)
    found = traced(Computes(lambda x: jnp.maximum(x, 7) > 9), pixels)
    assert {"max", "gt"} <= {*operations(found)}


def test_whole_numbers_may_be_made_and_compared():
    found = traced(Computes(lambda x: jnp.int32(x) > 1), runtime_models.inputs((4,)))
    assert {"trunc", "gt"} <= {*operations(found)}
    found = traced(Computes(jnp.round), runtime_models.inputs((4,)))
    assert "round" in operations(found)

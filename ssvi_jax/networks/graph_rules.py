"""How each primitive of JAX becomes nodes of a graph: see `networks.trace_graph`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax

from ssvi_jax.core.jaxprs import JaxprEqn, aval
from ssvi_jax.io import graph
from ssvi_jax.networks.graph_builder import Builder, Dynamic, Known, Refused, Value

Rule = Callable[[Builder, JaxprEqn, list[Value]], Value]


def _elementwise(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    return b.elementwise(eqn.primitive.name, operands)


def _max(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    """JAX's softmax takes the maximum with -∞, which is the other operand."""
    for value, other in (operands, operands[::-1]):
        if isinstance(value, Known) and (value.array == -np.inf).all():
            return b.whole(other, aval(eqn.outvars[0]).shape)
    return b.elementwise("max", operands)


def _logical(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    if aval(eqn.outvars[0]).dtype != bool:
        raise Refused("operations on bits")
    return b.elementwise(eqn.primitive.name, operands)


def _select(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    if len(operands) != 3:
        raise Refused("a choice between more than two")
    return b.elementwise("select", operands)


def _clamp(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    low, x, high = operands
    return b.elementwise("min", [b.elementwise("max", [x, low]), high])


def _integer_pow(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    power = eqn.params["y"]
    if power == 2:
        return b.elementwise("square", operands)
    return b.elementwise("pow", [*operands, b.known(power)])


def _round(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise Refused("rounding of halves away from zero, where jnp.round is to even")
    return b.elementwise("round", operands)


def _convert(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    old, new = (aval(atom).dtype for atom in (eqn.invars[0], eqn.outvars[0]))
    if str(new) == "bool" != str(old):
        return b.elementwise("ne", [*operands, b.known(0)])
    if np.issubdtype(old, np.floating) and new == np.int32:
        return b.elementwise("trunc", operands)
    if np.issubdtype(new, np.integer) and not np.can_cast(old, new):
        raise Refused(f"a conversion from {old} to {new}, which does not hold it")
    return operands[0]


def _same(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    return operands[0]


def _reshape(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    if eqn.params.get("dimensions") is not None:
        raise Refused("a reshape in another order")
    return b.reshape(b.whole(operands[0], _shape(eqn)), aval(eqn.outvars[0]).shape)


def _broadcast(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    small = b.whole(operands[0], _shape(eqn))
    lengths = [1] * aval(eqn.outvars[0]).ndim
    for axis, length in zip(
        eqn.params["broadcast_dimensions"], small.shape, strict=True
    ):
        lengths[axis] = length
    # What reads it may broadcast by itself, so it is not made larger yet.
    return b.reshape(small, tuple(lengths))


def _transpose(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    return b.transpose(b.whole(operands[0], _shape(eqn)), eqn.params["permutation"])


def _reverse(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    x = b.whole(operands[0], _shape(eqn))
    return b.add("reverse", [x], eqn.params["dimensions"], x.shape)


def _concatenate(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    parts = [
        b.whole(value, aval(atom).shape)
        for value, atom in zip(operands, eqn.invars, strict=True)
    ]
    axis = eqn.params["dimension"]
    return b.add("concatenate", parts, [axis], aval(eqn.outvars[0]).shape)


def _slice(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    p = eqn.params
    return b.slice(
        b.whole(operands[0], _shape(eqn)),
        p["start_indices"],
        p["limit_indices"],
        p["strides"] or (1,) * len(p["start_indices"]),
    )


def _dynamic_slice(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    x, *starts = operands
    sizes, shape = eqn.params["slice_sizes"], _shape(eqn)
    begins = []
    for start, size, length in zip(starts, sizes, shape, strict=True):
        if isinstance(start, Dynamic):
            raise Refused("a position that depends on the input")
        begins.append(min(max(int(start.array), 0), length - size))
    ends = [start + size for start, size in zip(begins, sizes, strict=True)]
    return b.slice(b.whole(x, shape), begins, ends, (1,) * len(shape))


def _split(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
    x, axis = b.whole(operands[0], _shape(eqn)), eqn.params["axis"]
    parts, begin = [], 0
    for size in eqn.params["sizes"]:
        starts, ends = [0] * len(x.shape), list(x.shape)
        starts[axis], ends[axis] = begin, begin + size
        parts.append(b.slice(x, starts, ends, (1,) * len(x.shape)))
        begin += size
    return parts


def _pad(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    x, value = operands
    return b.pad(b.whole(x, _shape(eqn)), value, eqn.params["padding_config"])


def _reduce(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    if eqn.params.get("out_sharding") is not None:
        raise Refused("a sharding")
    x = b.whole(operands[0], _shape(eqn))
    name, axes = eqn.primitive.name, eqn.params["axes"]
    return b.add(name, [x], axes, aval(eqn.outvars[0]).shape)


def _window(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    p = eqn.params
    if any(d != 1 for d in p["base_dilation"]):
        raise Refused("windows over inputs that are spread")
    x = b.whole(operands[0], _shape(eqn))
    numbers = [
        number
        for size, step, (low, high), dilation in zip(
            p["window_dimensions"],
            p["window_strides"],
            p["padding"],
            p["window_dilation"],
            strict=True,
        )
        for number in (size, step, low, high, dilation)
    ]
    name = eqn.primitive.name.replace("reduce_", "")
    return b.add(name, [x], numbers, aval(eqn.outvars[0]).shape)


def _dot(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    """As a product of rows with a kernel, or as products of pairs of matrices."""
    (x_sum, w_sum), (x_batch, w_batch) = eqn.params["dimension_numbers"]
    x, w = (
        b.whole(value, aval(atom).shape)
        for value, atom in zip(operands, eqn.invars, strict=True)
    )
    x_free = [i for i in range(len(x.shape)) if i not in (*x_sum, *x_batch)]
    w_free = [i for i in range(len(w.shape)) if i not in (*w_sum, *w_batch)]
    summed = math.prod(x.shape[i] for i in x_sum)
    outputs = math.prod(w.shape[i] for i in w_free)
    batch = tuple(x.shape[i] for i in x_batch)
    rows = tuple(x.shape[i] for i in x_free)
    shape = (*batch, *rows, *(w.shape[i] for i in w_free))
    x = b.transpose(x, (*x_batch, *x_free, *x_sum))
    if not x_batch and tuple(w_sum) == tuple(range(len(w_sum))) and b.is_weight(w):
        x = b.reshape(x, (math.prod(rows), 1, 1, summed))
        window = [1, 1, summed, outputs, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0]
        y = b.add("product", [x, w], window, (math.prod(rows), 1, 1, outputs))
        return b.reshape(y, shape)
    w = b.transpose(w, (*w_batch, *w_sum, *w_free))
    groups = math.prod(batch)
    x = b.reshape(x, (groups, math.prod(rows), summed))
    w = b.reshape(w, (groups, summed, outputs))
    y = b.add("matmul", [x, w], [], (groups, math.prod(rows), outputs))
    return b.reshape(y, shape)


def _conv(b: Builder, eqn: JaxprEqn, operands: list[Value]) -> Value:
    """As a product with channels last, of two spatial dimensions."""
    p, names = eqn.params, eqn.params["dimension_numbers"]
    x, w = (
        b.whole(value, aval(atom).shape)
        for value, atom in zip(operands, eqn.invars, strict=True)
    )
    spatial = len(x.shape) - 2
    if spatial > 2 or p["batch_group_count"] != 1:
        raise Refused(
            "a convolution over more than two dimensions, or grouped by batch"
        )
    x_names, w_names, y_names = names.lhs_spec, names.rhs_spec, names.out_spec
    x = b.transpose(x, (x_names[0], *x_names[2:], x_names[1]))
    w = b.transpose(w, (*w_names[2:], w_names[1], w_names[0]))
    padding = [(int(low), int(high)) for low, high in p["padding"]]
    spread = [d - 1 for d in p["lhs_dilation"]]
    if any(spread) or any(n < 0 for pair in padding for n in pair):
        edges = [(low, high, d) for (low, high), d in zip(padding, spread, strict=True)]
        zero, padding = b.known(0), [(0, 0)] * spatial
        x = b.pad(x, zero, [(0, 0, 0), *edges, (0, 0, 0)])
    lengths = [aval(eqn.outvars[0]).shape[i] for i in y_names]
    kept = (lengths[0], *lengths[2:], lengths[1])
    missing = (1,) * (2 - spatial)
    x = b.reshape(x, (*x.shape[:-1], *missing, x.shape[-1]))
    taps = (*w.shape[:spatial], *missing)
    sides = [*padding, *[(0, 0)] * len(missing)]
    window = [
        *(*taps, *w.shape[spatial:]),
        *(*p["window_strides"], *missing),
        *(n for pair in sides for n in pair),
        *(*p["rhs_dilation"], *missing),
        *(p["feature_group_count"], 0),
    ]
    full = (*kept[:-1], *missing, kept[-1])
    y = b.reshape(b.add("product", [x, w], window, full), kept)
    back = [0] * len(y_names)
    for place, name in enumerate((y_names[0], *y_names[2:], y_names[1])):
        back[name] = place
    return b.transpose(y, tuple(back))


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    return aval(eqn.invars[0]).shape


_PLAIN = {
    *set(graph.UNARY) - {"not", "round", "trunc"},
    *set(graph.BINARY) - {"and", "or"},
}

RULES: dict[str, Callable[[Builder, JaxprEqn, list[Value]], Any]] = {
    **dict.fromkeys(_PLAIN, _elementwise),
    **dict.fromkeys(("and", "or", "not"), _logical),
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), _same),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), _reduce),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max"), _window),
    "max": _max,
    "round": _round,
    "select_n": _select,
    "clamp": _clamp,
    "integer_pow": _integer_pow,
    "convert_element_type": _convert,
    "reshape": _reshape,
    "squeeze": lambda b, eqn, operands: b.reshape(
        b.whole(operands[0], _shape(eqn)), aval(eqn.outvars[0]).shape
    ),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "rev": _reverse,
    "concatenate": _concatenate,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "pad": _pad,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
}
"""Primitive → what becomes of it where an operand depends on the input."""


_ARITHMETIC = {
    *_PLAIN - {"max", "min", "eq", "ne", "lt", "le", "gt", "ge"},
    *("reduce_sum", "reduce_window_sum", "integer_pow"),
    *("dot_general", "conv_general_dilated"),
}


def check_exact(eqn: JaxprEqn) -> None:
    """Refuses arithmetic on whole numbers, which a runtime of float32 would round.

    It would neither wrap around nor divide without a rest either.
    """
    types = {aval(atom).dtype for atom in eqn.outvars}
    whole = any(np.issubdtype(dtype, np.integer) for dtype in types)
    if whole and eqn.primitive.name in _ARITHMETIC:
        raise Refused(
            "arithmetic on whole numbers: indices, as embeddings take, or pixels"
            " that are no floats"
        )


def results(found: Any) -> Sequence[Value]:
    """What a rule returned, as the results of an equation."""
    return found if isinstance(found, list) else [found]

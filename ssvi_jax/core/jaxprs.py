"""Traces of functions, and what of JAX may move or change between its versions.

Whatever here looks into a jaxpr imports from this file, so that another version of JAX
is a matter of this file. `make_jaxpr`, names of primitives and their parameters are
used where they are needed; none of them is promised by JAX either.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax import Array
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    get_opaque_trace_state,
)
from jax.interpreters import partial_eval

__all__ = [
    "CALL",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Var",
    "aval",
    "bind",
    "inner",
    "needed",
    "place_of",
    "scan_split",
    "trace_state",
]

CALL = "jit"
"""Name of the primitive that calls a jitted function, its parameter "jaxpr"."""


def aval(atom: Any) -> Any:
    """Shape and type of an operand or result."""
    return atom.aval


def inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The traces that an equation runs, as a loop its body."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def needed(jaxpr: Jaxpr) -> tuple[Jaxpr, list[bool]]:
    """A trace without what its results do not need, and which inputs they need."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))


def place_of(equation: JaxprEqn) -> str:
    """The layer that an equation is in, in what calls it; empty where none says so."""
    return str(equation.source_info.name_stack)


def scan_split(equation: JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan are constants of its body, and how many its carry.

    They are counted by their ranks, as the parameters that say so have changed: what is
    scanned over has one axis more outside of the body.
    """
    body = equation.params["jaxpr"].jaxpr

    def same(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(a.aval.ndim == b.aval.ndim for a, b in pairs)

    num_carry = same(equation.outvars, body.outvars)
    return same(equation.invars, body.invars) - num_carry, num_carry


def bind(
    equation: JaxprEqn, operands: Sequence[Any], params: Mapping[str, Any] | None = None
) -> Sequence[Array]:
    """The results of an equation on other operands, with other parameters if given."""
    primitive = equation.primitive
    chosen = primitive.get_bind_params(equation.params if params is None else params)
    with equation.ctx.manager:
        results = primitive.bind(*operands, **chosen)
    return results if primitive.multiple_results else [results]


def trace_state() -> object:
    """What tells transformations that are being traced apart; compared by ==."""
    return get_opaque_trace_state(convention="flax")

"""What a trace shows of whether a model is told that it trains, or does not."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from ssvi_jax.core import jaxprs
from ssvi_jax.core.jaxprs import Jaxpr

_DRAWING = {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator"}
"""Primitives that make numbers of a key, unlike those that make keys of it."""


def draws(apply: Callable[[jax.Array, Any], Any], x: Any) -> bool:
    """Whether the results of a function are random; it is traced only.

    They are if they need its key, and need random numbers.

    Args:
      apply: (key, batch) → outputs of any structure.
      x: a batch, of which only shapes and types are read.
    """
    jaxpr = jax.make_jaxpr(apply)(jax.random.key(0), x).jaxpr
    needed, used = jaxprs.needed(jaxpr)
    return used[0] and any(name in _DRAWING for name in _primitives(needed))


def unmoved(
    step: Callable[[dict[str, Any]], dict[str, Any]], before: dict[str, Any]
) -> list[str]:
    """Names of the arrays that a function returns as they came; it is traced only.

    Args:
      step: arrays by name → the same ones, later.
      before: arrays by name.
    """
    jaxpr = jax.make_jaxpr(step)(before).jaxpr
    each = zip(sorted(before), jaxpr.invars, jaxpr.outvars, strict=True)
    return [name for name, came, left in each if left is came]


def _primitives(jaxpr: Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for part in jaxprs.inner(equation):
            yield from _primitives(part)

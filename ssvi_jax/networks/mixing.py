"""Whether what a network says of an example depends on the others in its batch.

In evaluation it must not, or a prediction would change with its batch. Two traces, of
batches of 2 and of 3 examples, differ in the lengths of the axes that hold the batch;
a network mixes examples where its output sums, compares or sorts along such an axis.
"""

from collections.abc import Callable
from typing import Any

import jax

from ssvi_jax.core.jaxprs import Jaxpr, JaxprEqn, inner, needed

_JOINS = ("reduce_", "arg", "cum", "sort")
"""How the names of primitives begin that join what lies along an axis."""

_ALONG = ("axes", "axis", "dimension")
"""How their parameters name it."""


def mixes(apply: Callable[[Any], Any], x: Any) -> bool:
    """Whether the results of a function mix examples; it is traced only.

    False too where it cannot be judged, because batches of 2 and of 3 are computed
    differently or not at all.

    Args:
      apply: batch → outputs of any structure.
      x: a batch, of which only shapes and types are read.
    """
    try:
        two, three = (_needed(apply, rows(x, number)) for number in (2, 3))
    except Exception:  # whatever a model raises that takes one batch size only
        return False
    return _differ(two, three)


def rows(x: Any, number: int) -> Any:
    """Shapes and types of a batch of so many examples like those of `x`."""

    def of(leaf):
        shape = (number, *leaf.shape[1:]) if leaf.shape else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(of, x)


def _needed(apply: Callable[[Any], Any], x: Any) -> Jaxpr:
    """The trace without what the results do not need."""
    return needed(jax.make_jaxpr(apply)(x).jaxpr)[0]


def _differ(two: Jaxpr, three: Jaxpr) -> bool:
    for a, b in zip(two.eqns, three.eqns, strict=False):
        if a.primitive is not b.primitive:
            return False
        if _joined(a) != _joined(b):
            return True
        if any(map(_differ, inner(a), inner(b))):
            return True
    return False


def _joined(equation: JaxprEqn) -> list[int]:
    """Lengths of the axes of an equation's first operand along which it joins."""
    name, params = equation.primitive.name, equation.params
    axes: Any = ()
    if name == "dot_general":
        axes = params["dimension_numbers"][0][0]
    elif name.startswith(_JOINS):
        axes = next((params[along] for along in _ALONG if along in params), ())
    axes = (axes,) if isinstance(axes, int) else axes
    return [getattr(equation.invars[0].aval, "shape")[axis] for axis in axes]  # noqa: B009

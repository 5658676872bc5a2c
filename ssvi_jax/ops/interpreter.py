"""Evaluates a function with some results put off until it is known who reads them.

The function is traced and its jaxpr interpreted. What is put off, and what becomes of
it, is up to the rules; everything else is computed as written.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax

from ssvi_jax.core.jaxprs import Jaxpr, JaxprEqn, Literal, Var, bind


class Rules(Protocol):
    """What an evaluation does differently.

    Attributes:
      calls: primitives that only call, and are looked into → the parameter that holds
        what they call.
    """

    calls: ClassVar[Mapping[str, str]]

    def step(self, equation: JaxprEqn, operands: list[Any]) -> Sequence[Any] | None:
        """The results of an equation, arrays or put off; None: compute them."""
        ...

    def is_put_off(self, value: Any) -> bool:
        """Whether a value that is read more than once must be computed first."""
        ...

    def array(self, value: Any) -> Any:
        """A value as an array."""
        ...


def evaluate(rules: Rules, fn: Callable[..., Any], *args: Any) -> Any:
    """``fn(*args)`` by these rules.

    Args:
      rules: what to do differently.
      fn: a function of pytrees of arrays, traced once.
      *args: its arguments.
    """
    traced, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    outputs = _run(rules, traced.jaxpr, traced.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), map(rules.array, outputs))


def _run(
    rules: Rules, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    values: dict[Var, Any] = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True)
    )
    read_by = [*jaxpr.outvars, *(a for eqn in jaxpr.eqns for a in eqn.invars)]
    uses = Counter(atom for atom in read_by if isinstance(atom, Var))

    def read(atom: Var | Literal) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        value = values[atom]
        # Handed to each of its readers, it would be computed once for each.
        if uses[atom] > 1 and rules.is_put_off(value):
            value = values[atom] = rules.array(value)
        return value

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        values.update(
            zip(equation.outvars, _step(rules, equation, operands), strict=True)
        )
    return [read(atom) for atom in jaxpr.outvars]


def _step(rules: Rules, equation: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    results = rules.step(equation, operands)
    if results is not None:
        return results
    name = equation.primitive.name
    if name in rules.calls:
        called = equation.params[rules.calls[name]]
        return _run(rules, called.jaxpr, called.consts, operands)
    return bind(equation, [rules.array(value) for value in operands])

"""What follows a batch norm between sparse layers, done in its own passes over memory.

A training step on few weights waits for memory: every operation between two layers
reads and writes whole arrays of activations. No model has to say what belongs together:
its computation is traced, and evaluated again with every batch norm put off until it is
known whether a residual is added and a ReLU follows. The moments of what a convolution
made come from the convolution, whose kernels take the gradient through the batch norm
as they read it. Results and gradients are the same up to rounding.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax

from ssvi_jax.core.jaxprs import CALL, Jaxpr, JaxprEqn, Literal, bind
from ssvi_jax.ops import interpreter, norm, sparse


@dataclasses.dataclass(frozen=True)
class _Normalized:
    """The result of a batch norm, and what was added; not computed yet.

    Attributes:
      x: what it reads.
      operands: of `norm.normalize`, from the mean to the bias.
      residual: what is added; None: nothing.
    """

    x: jax.Array | sparse.Sampled
    operands: tuple[jax.Array, ...]
    residual: jax.Array | None = None

    def compute(self, *, rectified: bool = False) -> jax.Array:
        """The result, or its positive part."""
        x, rest = self.x, (*self.operands, self.residual, rectified)
        if isinstance(x, sparse.Sampled):
            return norm.normalize_sampled(x.normed, x.lines, *rest)
        return norm.normalize(x, *rest)


def evaluate(fn: Callable[..., Any], *args: Any) -> Any:
    """``fn(*args)`` with batch norms that do what follows them; differentiable.

    Args:
      fn: a function of pytrees of arrays, traced once.
      *args: its arguments.
    """
    return interpreter.evaluate(_Rules(), fn, *args)


class _Rules:
    """See `interpreter.Rules`."""

    calls: ClassVar[Mapping[str, str]] = {CALL: "jaxpr"}

    def __init__(self) -> None:
        self._normed: dict[int, sparse.Sampled] = {}

    def step(self, equation: JaxprEqn, operands: list[Any]) -> Sequence[Any] | None:
        name, params = equation.primitive.name, equation.params
        if name == CALL:
            return self._own(params["name"], equation, operands)
        if name == "add":
            return _sum(operands)
        if name == "custom_jvp_call" and _is_relu(params["call_jaxpr"].jaxpr):
            (value,) = operands
            if isinstance(value, _Normalized):
                return [value.compute(rectified=True)]
        return None

    def _own(
        self, name: str, equation: JaxprEqn, operands: list[Any]
    ) -> Sequence[Any] | None:
        if name == sparse.LRT_CONV:
            sampled = sparse.Sampled(*bind(equation, _arrays(operands)))
            return [sampled, *sampled[1:]]
        if name == norm.MOMENTS:
            (x,) = operands
            if isinstance(x, sparse.Sampled):
                return norm.moments(x.y, x.total, x.squares)
        if name == norm.NORMALIZE:
            x, *rest = operands
            return [_Normalized(self._once(x), _arrays(rest))]
        return None

    def _once(self, x: Any) -> Any:
        """What a batch norm may read: of one behind it a layer's kernels can know."""
        if not isinstance(x, sparse.Sampled) or id(x) in self._normed:
            return _array(x)
        self._normed[id(x)] = x
        return x

    def is_put_off(self, value: Any) -> bool:
        return isinstance(value, _Normalized)

    def array(self, value: Any) -> Any:
        return _array(value)


def _array(value: Any) -> Any:
    if isinstance(value, sparse.Sampled):
        return value.y
    return value.compute() if isinstance(value, _Normalized) else value


def _arrays(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(map(_array, values))


def _sum(operands: list[Any]) -> list[_Normalized] | None:
    # The second first: it is likelier to be the one made later.
    for value, other in (operands[::-1], operands):
        if isinstance(value, _Normalized) and value.residual is None:
            other = _array(other)
            if getattr(other, "shape", None) == _array(value.x).shape:
                return [dataclasses.replace(value, residual=other)]
    return None


def _is_relu(jaxpr: Jaxpr) -> bool:
    """Whether this is the body of `jax.nn.relu`, whose gradient at 0 is 0."""
    if len(jaxpr.eqns) != 1 or len(jaxpr.invars) != 1:
        return False
    (equation,) = jaxpr.eqns
    if equation.primitive.name == CALL:
        return _is_relu(equation.params["jaxpr"].jaxpr)
    literals = [a.val for a in equation.invars if isinstance(a, Literal)]
    return equation.primitive.name == "max" and [float(v) for v in literals] == [0.0]

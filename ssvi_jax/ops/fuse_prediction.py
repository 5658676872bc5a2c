"""Elementwise operations after a sparse convolution, done inside its kernel.

A pass of XLA over the output of a convolution (batch norm in evaluation, a residual
sum, ReLU) reads and writes all of it again. The kernel can do such work while an output
is at hand. No model has to say so: its computation is traced, and evaluated again with
every sparse convolution put off for as long as the operations on its result can be done
by the kernel. A factor of each channel becomes one of the weights, so results are equal
up to rounding.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.jaxprs import CALL, JaxprEqn, bind
from ssvi_jax.ops import interpreter


@dataclasses.dataclass(frozen=True)
class _List:
    """The weights of a convolution in the order of its kernel, not sorted yet.

    Attributes:
      equation: the custom call that sorts them.
      weights: ``[s]``.
      index: ``[s]`` flat positions of the weights.
      scale: ``[out]`` factors of the weights, or of size 0 for 1.
      output: which result of the call this is.
    """

    equation: JaxprEqn
    weights: jax.Array
    index: jax.Array
    scale: jax.Array
    output: int

    def compute(self) -> Sequence[jax.Array]:
        """All results, by one call."""
        operands = (self.weights, self.index, self.scale)
        return bind(self.equation, operands, self.equation.params)

    def array(self) -> jax.Array:
        """This result."""
        return self.compute()[self.output]


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """relu(scale · conv(x, weights) + shift + residual), not computed yet.

    Attributes:
      equation: the custom call that computes conv(x, weights).
      x: ``[n, h, w, in]``.
      weights: the list of the weights, without the scale.
      scale: ``[out]``, or None for 1.
      shift: ``[out]``.
      residual: of the output's shape, or of size 0 for none.
      rectified: whether there is a ReLU.
    """

    equation: JaxprEqn
    x: jax.Array
    weights: _List
    scale: jax.Array | None
    shift: jax.Array
    residual: jax.Array
    rectified: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return _shape(self.equation.outvars[0])

    @property
    def is_affine(self) -> bool:
        """Whether it is linear in each channel of conv(x, weights)."""
        return not self.rectified and self.residual.size == 0

    def mapped(self, linear: Callable[[jax.Array], jax.Array]) -> "_Convolution":
        """A linear function, the same for all pixels of a channel, of the output."""
        one = jnp.ones_like(self.shift)
        scale = linear(one if self.scale is None else self.scale)
        return dataclasses.replace(self, scale=scale, shift=linear(self.shift))

    def plus(self, term: jax.Array) -> "_Convolution":
        """A term added to each channel."""
        return dataclasses.replace(self, shift=self.shift + term)

    def compute(self) -> jax.Array:
        """The output, by one call of the kernel."""
        lists = self.weights
        if self.scale is not None:
            lists = dataclasses.replace(lists, scale=self.scale)
        params = self.equation.params
        attributes = {**dict(params["attributes"]), "relu": np.bool_(self.rectified)}
        operands = (self.x, *lists.compute(), self.shift, self.residual)
        changed = {**params, "attributes": tuple(attributes.items())}
        return bind(self.equation, operands, changed)[0]


class _Channels(NamedTuple):
    """An array that is constant over all axes but the last.

    Attributes:
      vector: ``[]`` or ``[size of the last axis]``.
      array: the whole; XLA drops it where nobody reads it.
    """

    vector: jax.Array
    array: jax.Array


_Value = jax.Array | _Convolution | _Channels


def evaluate(fn: Callable[..., Any], *args: Any) -> Any:
    """``fn(*args)`` with the kernels doing what they can of the elementwise operations.

    Args:
      fn: a function of pytrees of arrays, traced once; it is not differentiated.
      *args: its arguments.
    """
    return interpreter.evaluate(_Rules(), fn, *args)


class _Rules:
    """See `interpreter.Rules`."""

    calls: ClassVar[Mapping[str, str]] = {
        CALL: "jaxpr",
        "custom_jvp_call": "call_jaxpr",
        "custom_vjp_call": "call_jaxpr",
    }

    def step(
        self, equation: JaxprEqn, operands: list[Any]
    ) -> Sequence[_Value | _List] | None:
        name, params = equation.primitive.name, equation.params
        if name in self.calls:
            return None
        target = params.get("target_name")
        if target == "ssvi_mean" and isinstance(lists := operands[1], _List):
            others = (_array(operands[i]) for i in (0, 3, 4))
            return [_put_off(equation, lists, *others)]
        values = [v.array() if isinstance(v, _List) else v for v in operands]
        if name in _FOLDS:
            folded = _fold(equation, values)
            if folded is not None:
                return [folded]
        arrays = [_array(value) for value in values]
        if target == "ssvi_list_mean":
            weights, index, scale = arrays
            return [_List(equation, weights, index, scale, output) for output in (0, 1)]
        results = bind(equation, arrays)
        if name == "broadcast_in_dim":
            return [_channels(equation, arrays[0], results[0])]
        return results

    def is_put_off(self, value: Any) -> bool:
        return isinstance(value, _Convolution)

    def array(self, value: Any) -> Any:
        return _array(value)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _array(value: _Value | _List) -> jax.Array:
    if isinstance(value, _Convolution):
        return value.compute()
    if isinstance(value, _List):
        return value.array()
    return value.array if isinstance(value, _Channels) else value


def _put_off(
    equation: JaxprEqn,
    lists: _List,
    x: jax.Array,
    bias: jax.Array,
    residual: jax.Array,
) -> _Convolution:
    channels = _shape(equation.outvars[0])[-1]
    shift = bias if bias.size else jnp.zeros(channels, jnp.float32)
    rectified = bool(dict(equation.params["attributes"])["relu"])
    return _Convolution(equation, x, lists, None, shift, residual, rectified)


def _channels(equation: JaxprEqn, small: jax.Array, whole: jax.Array) -> _Value:
    """What `broadcast_in_dim` gives, remembering where its values differ by channel."""
    axes, last = equation.params["broadcast_dimensions"], whole.ndim - 1
    if any(
        n > 1 and axis != last for n, axis in zip(np.shape(small), axes, strict=True)
    ):
        return whole
    return _Channels(jnp.reshape(small, -1) if axes else small, whole)


def _vector(value: _Value, channels: int) -> jax.Array | None:
    """A value as ``[]`` or ``[channels]``, if it differs by channel only."""
    if isinstance(value, _Convolution):
        return None
    if isinstance(value, _Channels):
        return value.vector
    *pixels, last = np.shape(value) or (1,)
    if any(n != 1 for n in pixels) or last not in (1, channels):
        return None
    return jnp.reshape(value, -1) if np.ndim(value) else value


def _fold(equation: JaxprEqn, operands: list[_Value]) -> _Convolution | None:
    """The result of an elementwise operation, if the kernel can do it."""
    shape = _shape(equation.outvars[0])
    fold = _FOLDS[equation.primitive.name]
    # The second first: of two convolutions the one made later is likelier to be.
    for place in reversed(range(len(operands))):
        conv = operands[place]
        if not isinstance(conv, _Convolution) or conv.rectified or conv.shape != shape:
            continue
        others = operands[:place] + operands[place + 1 :]
        folded = fold(conv, place == 0, *others)
        if folded is not None:
            return folded
    return None


def _negated(conv: _Convolution, first: bool) -> _Convolution | None:
    return conv.mapped(jnp.negative) if conv.is_affine else None


def _sum(conv: _Convolution, first: bool, other: _Value) -> _Convolution | None:
    term = _vector(other, conv.shape[-1])
    if term is not None:
        return conv.plus(term)
    # What differs by channel is a term, so this is an array or another convolution.
    if not conv.is_affine or isinstance(other, _Channels) or other.shape != conv.shape:
        return None
    return dataclasses.replace(conv, residual=_array(other))


def _difference(conv: _Convolution, first: bool, other: _Value) -> _Convolution | None:
    if not first:
        return _sum(conv.mapped(jnp.negative), False, other) if conv.is_affine else None
    term = _vector(other, conv.shape[-1])
    return None if term is None else conv.plus(-term)


def _product(conv: _Convolution, first: bool, other: _Value) -> _Convolution | None:
    factor = _vector(other, conv.shape[-1]) if conv.is_affine else None
    return None if factor is None else conv.mapped(lambda a: a * factor)


def _quotient(conv: _Convolution, first: bool, other: _Value) -> _Convolution | None:
    divisor = _vector(other, conv.shape[-1]) if conv.is_affine and first else None
    return None if divisor is None else conv.mapped(lambda a: a / divisor)


def _maximum(conv: _Convolution, first: bool, other: _Value) -> _Convolution | None:
    limit = _vector(other, conv.shape[-1])
    if limit is None or isinstance(limit, jax.Array) or np.any(limit):
        return None
    return dataclasses.replace(conv, rectified=True)


_FOLDS: dict[str, Callable[..., _Convolution | None]] = {
    "neg": _negated,
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "max": _maximum,
}

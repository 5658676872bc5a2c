"""What a graph's operations are in ONNX, one at a time: see `networks.onnx_graph`.

Everything is in operator set 13 (2020), which nearly every reader of ONNX knows. What
it lacks is made of what it has. There are no booleans: as in `io.graph`, false is 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

OPERATOR_SET, FORMAT = 13, 7
"""Of the operators, and of the file; the oldest format that has these operators."""

_LARGEST = float(np.finfo(np.float32).max)


class Writer:
    """Nodes and arrays of an ONNX graph, as they are made.

    Args:
      onnx: the package.

    Attributes:
      nodes: NodeProto one after the other.
      arrays: TensorProto of what is known.
      size: bytes of the arrays.
    """

    def __init__(self, onnx: Any):
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self.size = 0
        self._onnx = onnx
        self._known: dict[tuple, str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node more; the name of its result."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        made = self._onnx.helper.make_node(kind, inputs, [name], name, **attributes)
        self.nodes.append(made)
        return name

    def rename(self, result: str, name: str) -> None:
        """Gives the result of the last node another name."""
        assert self.nodes[-1].output[0] == result
        self.nodes[-1].output[0] = name

    def array(self, values: Any) -> str:
        """A known array; the same values are written once."""
        array = np.ascontiguousarray(values)
        if array.ndim != np.ndim(values):  # NumPy makes an axis of a number
            array = array.reshape(())
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self._known:
            name = self._known[key] = f"array_{len(self.arrays)}"
            self.arrays.append(self._onnx.numpy_helper.from_array(array, name))
            self.size += array.nbytes
        return self._known[key]

    def number(self, value: float) -> str:
        """A known float32."""
        return self.array(np.float32(value))

    def integers(self, values: Sequence[int]) -> str:
        """Known whole numbers, int64 ``[k]``."""
        return self.array(np.array(values, np.int64).reshape(-1))

    def cast(self, x: str, kind: str) -> str:
        """The same values in another type: "FLOAT" or "BOOL"."""
        return self.add("Cast", x, to=getattr(self._onnx.TensorProto, kind))

    def choice(self, which: str, yes: str, no: str) -> str:
        """`yes` where a boolean is true, else `no`."""
        return self.add("Where", which, yes, no)


def elementwise(w: Writer, operation: str, operands: Sequence[str]) -> str:
    """A unary or binary operation of `io.graph`, or a select."""
    if operation in _PLAIN:
        return w.add(_PLAIN[operation], *operands)
    if operation in _COMPARED:
        return w.cast(w.add(_COMPARED[operation], *operands), "FLOAT")
    return _MADE[operation](w, *operands)


def _not(w: Writer, x: str) -> str:
    return w.cast(w.add("Equal", x, w.number(0)), "FLOAT")


def _not_equal(w: Writer, a: str, b: str) -> str:
    return w.cast(w.add("Not", w.add("Equal", a, b)), "FLOAT")


def _both(w: Writer, a: str, b: str) -> str:
    return w.cast(w.add("And", w.cast(a, "BOOL"), w.cast(b, "BOOL")), "FLOAT")


def _either(w: Writer, a: str, b: str) -> str:
    return w.cast(w.add("Or", w.cast(a, "BOOL"), w.cast(b, "BOOL")), "FLOAT")


def _select(w: Writer, which: str, no: str, yes: str) -> str:
    return w.choice(w.cast(which, "BOOL"), yes, no)


def _trunc(w: Writer, x: str) -> str:
    return w.add("Mul", w.add("Sign", x), w.add("Floor", w.add("Abs", x)))


def _rsqrt(w: Writer, x: str) -> str:
    return w.add("Reciprocal", w.add("Sqrt", x))


def _cbrt(w: Writer, x: str) -> str:
    root = w.add("Pow", w.add("Abs", x), w.number(1 / 3))
    return w.add("Mul", w.add("Sign", x), root)


def _small(w: Writer, x: str) -> str:
    return w.add("Less", w.add("Abs", x), w.number(0.5))


def _expm1(w: Writer, x: str) -> str:
    """Near 0 as 2t / (1 - t) with t = tanh(x / 2), for e^x - 1 keeps no digits."""
    t = w.add("Tanh", w.add("Mul", x, w.number(0.5)))
    near = w.add("Div", w.add("Add", t, t), w.add("Sub", w.number(1), t))
    return w.choice(_small(w, x), near, w.add("Sub", w.add("Exp", x), w.number(1)))


def _log1p(w: Writer, x: str) -> str:
    """Near 0 as 2 artanh(x / (2 + x)), for log(1 + x) keeps no digits."""
    t = w.add("Atanh", w.add("Div", x, w.add("Add", x, w.number(2))))
    far = w.add("Log", w.add("Add", x, w.number(1)))
    return w.choice(_small(w, x), w.add("Add", t, t), far)


def _erfc(w: Writer, x: str) -> str:
    return w.add("Sub", w.number(1), w.add("Erf", x))


def _is_finite(w: Writer, x: str) -> str:
    largest = w.number(_LARGEST)
    return w.cast(w.add("LessOrEqual", w.add("Abs", x), largest), "FLOAT")


_PLAIN = {
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
}

_COMPARED = {
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}

_MADE: dict[str, Callable[..., str]] = {
    "not": _not,
    "ne": _not_equal,
    "and": _both,
    "or": _either,
    "select": _select,
    "trunc": _trunc,
    "rsqrt": _rsqrt,
    "cbrt": _cbrt,
    "square": lambda w, x: w.add("Mul", x, x),
    "exp2": lambda w, x: w.add("Pow", w.number(2), x),
    "expm1": _expm1,
    "log1p": _log1p,
    "erfc": _erfc,
    "is_finite": _is_finite,
}

ELEMENTWISE = (*_PLAIN, *_COMPARED, *_MADE)
"""What `elementwise` takes."""

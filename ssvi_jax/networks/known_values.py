"""Computes what depends on parameters only, while a graph is traced.

JAX would compile a program for each operation, which takes longer than the rest of an
export; NumPy has the common ones. Both round to float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssvi_jax.core.jaxprs import JaxprEqn, aval, bind


def compute(eqn: JaxprEqn, operands: Sequence[Any]) -> list[np.ndarray]:
    """The results of an equation on arrays."""
    name = eqn.primitive.name
    if name in _SHAPES:
        return [_SHAPES[name](eqn.params, np.asarray(operands[0]))]
    dtypes = {str(aval(atom).dtype) for atom in (*eqn.invars, *eqn.outvars)}
    if name in _FLOATS and dtypes == {"float32"}:
        arrays = [np.asarray(array, np.float32) for array in operands]
        with np.errstate(all="ignore"):
            return [np.asarray(_FLOATS[name](*arrays), np.float32)]
    return [_host(found) for found in bind(eqn, operands)]


def _host(array: Any) -> Any:
    """In NumPy, but for random keys, which have no place there."""
    return np.asarray(array) if isinstance(array.dtype, np.dtype) else array


def _broadcast(params: Any, x: np.ndarray) -> np.ndarray:
    lengths = [1] * len(params["shape"])
    for axis, length in zip(params["broadcast_dimensions"], x.shape, strict=True):
        lengths[axis] = length
    return np.broadcast_to(x.reshape(lengths), params["shape"])


def _slice(params: Any, x: np.ndarray) -> np.ndarray:
    steps = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return x[tuple(slice(*axis) for axis in bounds)]


_SHAPES: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, params["dimensions"]),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
}

_FLOATS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "square": np.square,
}

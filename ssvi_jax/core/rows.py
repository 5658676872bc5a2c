"""Rows of data: inputs and labels that may be pytrees of arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data


def num_rows(data: Data) -> int:
    """n, the number of examples."""
    return len(jax.tree.leaves(data)[-1])


def rows_of(data: Data, rows: jax.Array) -> Data:
    """The examples at these rows; inputs and labels may be pytrees."""
    return jax.tree.map(lambda leaf: leaf[rows], data)


def as_arrays(argument: str, tree: Any) -> Any:
    """Arrays of what a user gives: lists of numbers, data frames, anything NumPy reads.

    Arrays of NumPy and JAX stay as they are, and so does what only looks like an array.

    Args:
      argument: its name.
      tree: arrays ``[n, ...]``, or a pytree of them; a list of arrays is such a pytree.

    Raises:
      InputError: no numbers, or rows of different lengths.
    """
    return jax.tree.map(lambda leaf: _array(argument, leaf), tree, is_leaf=_is_list)


def _is_list(node: Any) -> bool:
    if not isinstance(node, list):
        return False
    return all(getattr(leaf, "shape", ()) == () for leaf in jax.tree.leaves(node))


def _array(argument: str, leaf: Any) -> Any:
    if isinstance(leaf, list) or hasattr(leaf, "__array__"):
        if not isinstance(leaf, (np.ndarray, jax.Array)):
            leaf = _read(argument, leaf)
        if np.ma.isMaskedArray(leaf) and np.ma.is_masked(leaf):
            raise InputError(
                f"{argument}: got a masked array with masked values, allowed: numbers; "
                "fill in what is missing: array.filled(value)."
            )
        real = jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool
        if not real or jnp.issubdtype(leaf.dtype, np.complexfloating):
            raise InputError(
                f"{argument}: got an array of {leaf.dtype}, allowed: real numbers; "
                f"{_BECOME_NUMBERS.get(leaf.dtype.kind, 'convert it with astype')}."
            )
        if leaf.ndim:
            return np.asarray(leaf) if np.ma.isMaskedArray(leaf) else leaf
    elif hasattr(leaf, "shape") and not hasattr(leaf, "toarray"):
        return leaf
    dense = "; call its toarray() first" if hasattr(leaf, "toarray") else ""
    raise InputError(
        f"{argument}: got a {type(leaf).__name__}, allowed: arrays of n rows, or "
        f"pytrees of them{dense}."
    )


_BECOME_NUMBERS = {
    "c": "give real and imaginary parts as two features",
    **dict.fromkeys(
        "OSUT",
        "array.astype(float) of numbers; names of classes become some by "
        "numpy.unique(labels, return_inverse=True)[1]",
    ),
}
"""Kind of a NumPy type → what to do."""


def _read(argument: str, leaf: Any) -> np.ndarray:
    try:
        return np.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{argument}: got a {type(leaf).__name__} that is not an array ({error}), "
            "allowed: rows of equal length."
        ) from error


def check_lengths(argument: str, tree: Any, what: str) -> None:
    """Raises `InputError` unless all arrays have as many rows, at least one."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            f"{argument}: got arrays of {sorted(lengths)} rows, allowed: {what}, at "
            "least one."
        )


@contextmanager
def like_trained(
    argument: str, x: Any, trained: Sequence[Sequence[int]] | None
) -> Iterator[None]:
    """Says of inputs of another shape that they are so, where a network fails on them.

    A network may take several lengths; as many arrays of as many axes it always needs.

    Args:
      argument: name of the inputs.
      x: inputs ``[n, ...]``.
      trained: shapes of the arrays of a batch that it was trained with; None: unknown.

    Raises:
      InputError: another number of arrays or axes; or, of other lengths, what the block
        raises.
    """
    if trained is None:
        yield
        return
    found = [list(leaf.shape[1:]) for leaf in jax.tree.leaves(x)]
    known = [list(shape[1:]) for shape in trained]
    if len(found) != len(known):
        raise InputError(
            f"{argument}: got {len(found)} arrays, trained with {len(known)}."
        )
    said = ", ".join(map(str, found)), ", ".join(map(str, known))
    message = f"{argument}: got {said[0]} an example, trained with {said[1]}."
    if list(map(len, found)) != list(map(len, known)):
        raise InputError(message)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever a module of the user's own raises
        if found == known:
            raise
        raise InputError(message) from error

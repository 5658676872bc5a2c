"""Rows of data: inputs and labels that may be pytrees of arrays."""

import jax

from ssvi_jax.core.types import Data


def num_rows(data: Data) -> int:
    """n, the number of examples."""
    return len(jax.tree.leaves(data)[-1])


def rows_of(data: Data, rows: jax.Array) -> Data:
    """The examples at these rows; inputs and labels may be pytrees."""
    return jax.tree.map(lambda leaf: leaf[rows], data)

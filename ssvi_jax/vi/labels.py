"""What labels a likelihood has, looked at on the host before anything is made of them.

A loss takes any numbers, and one of labels that the likelihood does not have trains a
network that means nothing, or says NaN later.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError

_SUM = 1e-3
"""How far from 1 the probabilities of an example may add up, unless their type is
coarser."""

CLASSES = "whole numbers from 0, or probabilities [n, C] as floats"

_NUMBER = "number them: numpy.unique(labels, return_inverse=True)[1]"


def classes(y: Any, argument: str) -> None:
    """Refuses what are neither classes nor probabilities of classes.

    Args:
      y: whole numbers or booleans ``[n, ...]``, or floats ``[n, ..., C]``.
      argument: what an error names.

    Raises:
      InputError: another type, a class below 0, or probabilities that are none.
    """
    found = _on_host(y)
    if found is None or found.dtype == bool or not found.size:
        return
    if jnp.issubdtype(found.dtype, jnp.integer):
        _all(found >= 0, found, argument, "0 or above; number the classes from 0")
    elif jnp.issubdtype(found.dtype, jnp.floating):
        _probabilities(found, argument)
    else:
        raise _kind(found, argument, f"{CLASSES}; {_NUMBER}")


def _probabilities(y: np.ndarray, argument: str) -> None:
    if y.ndim < 2:
        raise _kind(y, argument, f"{CLASSES}; if they are classes, labels.astype(int)")
    tolerance = max(_SUM, float(jnp.finfo(y.dtype).eps))
    y = y.astype(np.float64)
    _all(np.isfinite(y) & (y >= 0), y, argument, "probabilities, from 0 to 1")
    sums = y.sum(axis=-1)
    what = "1, of the probabilities in a row; if these are classes, labels.astype(int)"
    _all(np.abs(sums - 1.0) <= tolerance, sums, argument, what, "a sum of ")


def zero_or_one(y: Any, argument: str) -> None:
    """Refuses what is not 0, 1 or between, or a boolean.

    Raises:
      InputError: another type or number.
    """
    found = _numbers(y, argument, "0, 1, or probabilities of 1")
    if found is not None:
        allowed = "0 and 1, or probabilities of 1 between; of two other labels one "
        _all((0 <= found) & (found <= 1), found, argument, f"{allowed}is labels == one")


def counts(y: Any, argument: str) -> None:
    """Refuses what is not a whole number from 0.

    Raises:
      InputError: another type or number.
    """
    found = _numbers(y, argument, "whole numbers from 0")
    if found is not None:
        is_count = np.isfinite(found) & (found >= 0) & (found == np.floor(found))
        _all(is_count, found, argument, "whole numbers from 0, as counts are")


def finite(y: Any, argument: str) -> None:
    """Refuses what is not a finite number.

    Raises:
      InputError: another type or number.
    """
    found = _numbers(y, argument, "numbers")
    if found is not None:
        _all(np.isfinite(found), found, argument, "finite numbers; drop the others")


def _on_host(y: Any) -> np.ndarray | None:
    """Labels as an array; None if this process has only a part of them."""
    if isinstance(y, jax.Array) and not y.is_fully_addressable:
        return None
    return np.asarray(y)


def _numbers(y: Any, argument: str, allowed: str) -> np.ndarray | None:
    """Real numbers in float64, or None: see `_on_host`."""
    found = _on_host(y)
    if found is None:
        return None
    real = jnp.integer, jnp.floating, jnp.bool_
    if not any(jnp.issubdtype(found.dtype, kind) for kind in real):
        raise _kind(found, argument, f"{allowed}; make numbers of the labels")
    return found.astype(np.float64)


def _kind(y: np.ndarray, argument: str, allowed: str) -> InputError:
    return InputError(f"{argument}: got labels of dtype {y.dtype}, allowed: {allowed}.")


def _all(
    good: np.ndarray, y: np.ndarray, argument: str, allowed: str, what: str = ""
) -> None:
    """Names the first example whose label is not good."""
    if good.all():
        return
    first = np.unravel_index(np.argmin(good), good.shape)
    value = f"{y[first]:.6g}" if y.dtype.kind == "f" else str(y[first])
    example = f"at example {first[0]}" if first else "as the label"
    raise InputError(f"{argument}: got {what}{value} {example}, allowed: {allowed}.")

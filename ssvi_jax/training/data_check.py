"""Data of the user's own, looked at once before they are trained on."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, Data, ModelState, Params
from ssvi_jax.training.feeds import Batches
from ssvi_jax.vi import checks, likelihoods

Network = tuple[ApplyFn, Params, ModelState]
"""Function, parameters and running statistics: what `adapters.from_flax` returns."""

_CHUNK = 2**24
"""Numbers that are looked at together, to need little memory besides the data."""


def checked(data: Any, validation: Any, likelihood: likelihoods.Likelihood) -> Any:
    """The data, if their labels are the likelihood's and their inputs finite.

    What is no pair of inputs and labels is passed on, for others to refuse.

    Args:
      data: inputs and labels, or `Batches`, whose labels are looked at as they come.
      validation: likewise a pair, or anything else.
      likelihood: of the labels.

    Raises:
      InputError: names the first example that is none.
    """
    if _is_pair(validation):
        _check(validation, likelihood, "validation")
    if isinstance(data, Batches):
        return dataclasses.replace(data, source=partial(_batches, data, likelihood))
    if _is_pair(data):
        _check(data, likelihood, "data")
    return data


def check_classes(network: Network, example: Any, y: Any, argument: str) -> None:
    """Refuses labels that a classifier has no output for, before it is trained.

    Args:
      network: the model itself, without members or factors.
      example: shapes and types of its inputs ``[1, ...]``.
      y: labels ``[n, ...]``.
      argument: what an error names.

    Raises:
      InputError: a label out of range, or one output only.
    """
    apply_fn, params, model_state = network
    evaluated = partial(apply_fn, train=False, key=jax.random.key(0))

    def output_shape() -> tuple[int, ...]:
        return jax.eval_shape(evaluated, params, model_state, example)[0].shape

    checks.Labels().check(y, output_shape, argument)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2


def _check(data: Data, likelihood: likelihoods.Likelihood, argument: str) -> None:
    x, y = data
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        row = _first_not_finite(leaf)
        if row is not None:
            where = f" of {jax.tree_util.keystr(path)}" if path else ""
            raise InputError(
                f"{argument}: input {row}{where} is not finite, allowed: finite "
                "numbers; drop the example, or fill in what is missing."
            )
    likelihoods.check_labels(likelihood, y, argument)


def _first_not_finite(leaf: Any) -> int | None:
    """The first row with NaN or infinity, in the type that is trained on."""
    if not isinstance(leaf, np.ndarray | jax.Array) or not leaf.ndim or not leaf.size:
        return None
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    if isinstance(leaf, jax.Array):
        flags = jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        return None if flags.all() else int(jnp.argmin(flags))
    trained = jax.dtypes.canonicalize_dtype(leaf.dtype)
    rows = max(1, _CHUNK // max(1, leaf[0].size))
    for start in range(0, len(leaf), rows):
        with np.errstate(over="ignore"):
            part = np.asarray(leaf[start : start + rows]).astype(trained, copy=False)
        good = np.isfinite(part)
        if not good.all():
            each = good.reshape(len(good), -1).all(axis=1)
            return start + int(np.argmin(each))
    return None


def _batches(
    data: Batches, likelihood: likelihoods.Likelihood, epoch: int
) -> Iterator[Any]:
    """The batches of an epoch, of which the labels are looked at as they come."""
    for i, batch in enumerate(data.epoch(epoch)):
        if _is_pair(batch):
            what = f"data, batch {i} of epoch {epoch}"
            likelihoods.check_labels(likelihood, batch[1], what)
        yield batch

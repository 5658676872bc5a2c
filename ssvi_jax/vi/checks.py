"""What data and likelihood must be, checked before a step is made of them.

JAX would clip rows, broadcast shapes and go on with NaN, and say nothing.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError, check_rows
from ssvi_jax.core.types import Masks


def check_masks(masks: Masks, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses masks of other kernels.

    Args:
      masks: the basis selection.
      shapes: path → full shape of the model's kernels.

    Raises:
      InputError: no mapping of arrays, or a path or a shape differs.
    """
    if not isinstance(masks, Mapping):
        own = " (of a trained network fit.masks)" if hasattr(masks, "masks") else ""
        raise InputError(
            f"masks: got a {type(masks).__name__}, allowed: kernel path → boolean "
            f"array{own}."
        )
    for path, mask in masks.items():
        if not hasattr(mask, "shape"):
            raise InputError(
                f"masks[{path!r}]: got a {type(mask).__name__}, allowed: a boolean "
                "array."
            )
    got = {path: tuple(mask.shape) for path, mask in masks.items()}
    if got != shapes:
        wrong = sorted({*got.items()} ^ {*shapes.items()}, key=str)
        raise InputError(
            f"masks: differ from the model's kernels at {wrong[:4]}; needed: one "
            "boolean array of the full shape for each path of kernel_shapes()."
        )


def check_batches(data: Any, batch_index: np.ndarray) -> None:
    """Refuses data of different lengths, and rows that they do not have.

    Args:
      data: pytree of arrays (inputs and labels), ``[n, ...]`` each.
      batch_index: rows of every batch.

    Raises:
      InputError: an array has other rows than the labels, or `batch_index` is anything
        but integers ``[steps, batch]`` from 0 to n - 1.
    """
    leaves = jax.tree_util.tree_leaves_with_path(data)
    rows = {
        f"data{jax.tree_util.keystr(path)}": np.shape(leaf)[:1] for path, leaf in leaves
    }
    if len({*rows.values()}) != 1 or () in rows.values():
        got = ", ".join(
            f"{name} has {size[0] if size else 'no'} rows"
            for name, size in rows.items()
        )
        raise InputError(
            f"data: got {got or 'no array'}, needed: the same number in every array of "
            "the inputs and labels."
        )
    shape, dtype = np.shape(batch_index), getattr(batch_index, "dtype", None)
    if len(shape) != 2 or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(
            f"batch_index: got shape {shape} of {dtype or type(batch_index).__name__}, "
            "needed: an integer array [steps, batch], the rows of each step's batch "
            "(of one step: rows[None])."
        )
    ((num_rows,),) = {*rows.values()}
    check_rows("batch_index", batch_index, num_rows)


def per_example(values: jax.Array, labels: Any) -> jax.Array:
    """Log-likelihoods as they are, if there is one an example; inside jit too.

    Args:
      values: what a log-likelihood made of a batch.
      labels: pytree of arrays ``[batch, ...]``.

    Raises:
      InputError: its shape is not ``[batch]``.
    """
    batch = np.shape(jax.tree.leaves(labels)[0])[:1]
    if np.shape(values) != batch:
        raise InputError(
            f"log_likelihood: got shape {np.shape(values)} for a batch of {batch[0]}, "
            f"needed: {batch}, one number in nats an example. Is an output "
            "[batch, 1] compared with targets [batch]?"
        )
    return values


class Labels:
    """Remembers which labels were found to be of the network's classes."""

    def __init__(self):
        self._checked: weakref.ref | None = None
        self._num_classes: int | None = None

    def check(
        self,
        labels: Any,
        output_shape: Callable[[], tuple[int, ...]],
        argument: str = "data",
    ) -> None:
        """Refuses whole labels that are not 0 to classes - 1; any other kind passes.

        Args:
          labels: ``[n, ...]``; looked at once, if the next call brings the same array.
          output_shape: finds what the network returns, ``[..., classes]``; asked once.
          argument: what an error names.

        Raises:
          InputError: a label is out of range, or there is one class only.
        """
        if self._checked is not None and self._checked() is labels:
            return
        if not isinstance(labels, np.ndarray | jax.Array) or not labels.size:
            return
        if labels.dtype != bool and not jnp.issubdtype(labels.dtype, jnp.integer):
            return
        if self._num_classes is None:
            self._num_classes = output_shape()[-1]
        parts = [np.asarray(part) for part in _local(labels)]
        low = min(int(p.min()) for p in parts)
        high = max(int(p.max()) for p in parts)
        most = self._num_classes - 1
        if most < 1:
            raise InputError(
                "network: got one output, of which a softmax is always 1; allowed: a "
                "logit for each class, or another likelihood (Bernoulli, Normal, "
                "Poisson)."
            )
        if low < 0 or high > most:
            raise InputError(
                f"{argument}: got labels from {low} to {high}, allowed: 0 to {most}, "
                f"as the network has {most + 1} outputs. Number the classes from 0, or "
                "give the network an output for each."
            )
        self._checked = weakref.ref(labels)


def _local(array: np.ndarray | jax.Array) -> list[Any]:
    """What this process has of an array."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable:
        return [array]
    return [shard.data for shard in array.addressable_shards]

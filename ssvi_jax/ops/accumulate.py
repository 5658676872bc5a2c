"""A mean over a batch that is computed in parts, to need the memory of one part only.

Examples stay what they are in the whole batch: noise, dropout and augmentation are the
same however it is cut (see `ops.shard`). What looks at other examples, as batch norm,
sees those of its part.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import InputError
from ssvi_jax.ops import shard

Batch = TypeVar("Batch")
Found = TypeVar("Found")


def mean(function: Callable[[Batch], Found], batch: Batch, number: int) -> Found:
    """The mean of what a function finds in each part of a batch; inside jit.

    Args:
      function: part → arrays. Floating ones are averaged; others must not depend on
        the part.
      batch: arrays ``[batch, ...]``.
      number: how many parts of consecutive examples.

    Raises:
      InputError: the batch cannot be divided evenly.
    """
    if number == 1:
        return function(batch)
    parts = _cut(batch, number)

    def one(i, part):
        with shard.part(i, number):
            return function(part)

    return mean_over(lambda item: one(*item), (jnp.arange(number), parts), number)


def mean_over(function: Callable[[Batch], Found], items: Batch, number: int) -> Found:
    """The mean of what a function finds for each of several items; inside jit.

    Args:
      function: item → arrays. Floating ones are averaged; of others the last counts.
      items: arrays ``[number, ...]``.
      number: how many; one is computed without a loop.
    """
    first = jax.tree.map(lambda a: a[0], items)
    if number == 1:
        return function(first)

    def body(total, item):
        return jax.tree.map(_add, total, function(item)), None

    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, items)
    return jax.tree.map(lambda a: a / number if _is_averaged(a) else a, total)


def each(
    function: Callable[[Batch], jax.Array], batch: Batch, number: int
) -> jax.Array:
    """What a function gives each example ``[batch]``, of all shards and in order.

    Args:
      function: part → ``[part]``.
      batch: arrays ``[batch, ...]``, of this shard.
      number: how many parts.
    """
    parts = _cut(batch, number)

    def one(item):
        i, part = item
        with shard.part(i, number):
            return function(part)

    if number == 1:
        found = function(batch)[None]
    else:
        found = jax.lax.map(one, (jnp.arange(number), parts))
    found = shard.gather(found)
    return found.swapaxes(0, 1).reshape(-1)


def _cut(batch: Batch, number: int) -> Batch:
    return jax.tree.map(lambda a: a.reshape(cut(len(a), number, a.shape[1:])), batch)


def cut(size: int, number: int, rest: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The shape ``[number, part, *rest]`` of a batch of `size` examples in parts.

    Raises:
      InputError: it cannot be divided evenly.
    """
    if size % number:
        raise InputError(
            f"accumulate: got {number} parts of a batch of {size}, allowed: a number "
            "that divides it (on several devices, the batch of each)."
        )
    return number, size // number, *rest


def _is_averaged(value: jax.Array) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _add(total: jax.Array, value: jax.Array) -> jax.Array:
    return total + value if _is_averaged(value) else value

"""A shard of the batch: which one this is, and what it shares with the others.

Inside `jax.shard_map` over an axis named `AXIS` a network sees the examples of its own
device only. Code whose result depends on the other examples, or on an example's number
in the batch, asks here; JAX itself knows whether it is traced for a shard, so no
function needs an argument for it. Outside of shards nothing here does anything.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

T = TypeVar("T")

AXIS = "batch"
"""Name of the mesh axis that a batch is cut along."""


def is_shard() -> bool:
    """Whether the code being traced is that of one of several shards."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def place(count: int) -> tuple[int, jax.typing.ArrayLike]:
    """How many there are of something of which each shard has `count`, and the first.

    Shards hold consecutive examples; outside of shards the first is 0.
    """
    if not is_shard():
        return count, 0
    return count * jax.lax.axis_size(AXIS), count * jax.lax.axis_index(AXIS)


def rows(draw: Callable[[int], jax.Array], count: int, axis: int = 0) -> jax.Array:
    """This shard's part of what is drawn for the examples of the whole batch.

    Args:
      draw: number of examples → an array with as many entries along `axis`.
      count: examples of this shard.
      axis: which axis the examples are.
    """
    total, first = place(count)
    if total == count:
        return draw(count)
    return jax.lax.dynamic_slice_in_dim(draw(total), first, count, axis)


def mean(tree: T) -> T:
    """Averages the floating leaves over all shards, as one message.

    Others are left as they are: they must be the same on every shard.
    """
    if not is_shard():
        return tree
    leaves, structure = jax.tree.flatten(tree)
    chosen = [i for i, v in enumerate(leaves) if jnp.issubdtype(v.dtype, jnp.floating)]
    flat, restore = ravel_pytree([leaves[i] for i in chosen])
    for i, value in zip(chosen, restore(jax.lax.pmean(flat, AXIS)), strict=True):
        leaves[i] = value
    return jax.tree.unflatten(structure, leaves)


def gather(values: jax.Array) -> jax.Array:
    """The values ``[...]`` of all shards, ``[shards, ...]``."""
    return jax.lax.all_gather(values, AXIS) if is_shard() else values[None]

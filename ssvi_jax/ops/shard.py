"""A part of the batch: which one this is, and what it shares with the others.

A network sees a part of the batch only where devices share it (inside `jax.shard_map`
over an axis named `AXIS`; such a part is a shard) and where a step computes it in parts
one after the other (inside `part`); or both, and then each part is cut into shards.
Code whose result depends on the other examples, or on an example's number in the batch,
asks here: JAX knows what is traced for a part, so no function needs an argument for it.
Shards can exchange numbers; parts cannot. Otherwise nothing here does anything.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ssvi_jax.core.errors import InputError

T = TypeVar("T")

AXIS = "batch"
"""Name of the mesh axis that a batch is cut along."""


class _Now:
    """What is traced now; compared by identity, as part of the keys of JAX's caches."""

    def __init__(self, index: jax.typing.ArrayLike = 0, parts: int = 1, tiles: int = 1):
        self.index, self.parts, self.tiles = index, parts, tiles


_now = jax.make_user_context(_Now())


class Rows(NamedTuple):
    """Where the examples of a part lie in the whole batch.

    Attributes:
      tiles: the batch is repeated so many times (see `tiled`), nearly always once.
      whole: examples of the whole batch.
      first: number of the part's first; those after it follow.
    """

    tiles: int
    whole: int
    first: jax.typing.ArrayLike


@contextlib.contextmanager
def part(index: jax.typing.ArrayLike, number: int) -> Iterator[None]:
    """What is traced inside is for one of several parts of a batch, cut in order.

    Args:
      index: which, from 0; may be traced.
      number: how many there are; 1: all of this does nothing.
    """
    if number == 1:
        yield
        return
    with _now(_Now(index, number, _now.value.tiles)):
        yield


@contextlib.contextmanager
def tiled(number: int) -> Iterator[None]:
    """What is traced inside gets its examples so many times, one after the other."""
    now = _now.value
    with _now(_Now(now.index, now.parts, now.tiles * number)):
        yield


def is_shard() -> bool:
    """Whether the code being traced is that of one of several shards."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def size() -> int:
    """How many shards there are, 1 outside of shards."""
    return jax.lax.axis_size(AXIS) if is_shard() else 1


def is_part() -> bool:
    """Whether the code being traced sees a part of the batch only, shard or not."""
    return is_shard() or _now.value.parts > 1


def place(count: int) -> tuple[int, jax.typing.ArrayLike]:
    """How many there are of something of which each part has `count`, and the first.

    Parts hold consecutive examples; the first of the whole batch is 0.

    Raises:
      InputError: of a repeated batch, whose parts are not consecutive.
    """
    tiles, whole, first = among(count)
    if tiles > 1:
        raise InputError(
            "backend: got sparse with Gaussian kernels and members that get every "
            "example, allowed for a part of a batch: xla."
        )
    return whole, first


def among(count: int) -> Rows:
    """Where `count` examples, all that there are here, lie in the whole batch."""
    now = _now.value
    if not is_part():
        return Rows(1, count, 0)
    each, shards = count // now.tiles, size()
    index = now.index * shards + (jax.lax.axis_index(AXIS) if is_shard() else 0)
    return Rows(now.tiles, each * now.parts * shards, each * index)


def numbers(count: int) -> jax.Array:
    """The number ``[count]`` of each example here in the whole (repeated) batch."""
    tiles, whole, first = among(count)
    each = jnp.arange(count // tiles) + first
    return (jnp.arange(tiles)[:, None] * whole + each[None]).reshape(-1)


def rows(draw: Callable[[int], jax.Array], count: int, axis: int = 0) -> jax.Array:
    """This part of what is drawn for the examples of the whole batch.

    Args:
      draw: number of examples → an array with as many entries along `axis`.
      count: examples of this part.
      axis: which axis the examples are.
    """
    if not is_part():
        return draw(count)
    tiles, whole, first = among(count)
    drawn = draw(tiles * whole)
    before, after = drawn.shape[:axis], drawn.shape[axis + 1 :]
    each = drawn.reshape(*before, tiles, whole, *after)
    own = jax.lax.dynamic_slice_in_dim(each, first, count // tiles, axis + 1)
    return own.reshape(*before, count, *after)


def noise(
    draw: Callable[..., jax.Array], shape: tuple[int, ...], examples: int
) -> jax.Array:
    """This part of what `ops.noise` draws for the whole batch, example by example.

    Args:
      draw: shape, `whole`, `first` → numbers, as `ops.noise.normal`.
      shape: of this part; its first axes count the examples.
      examples: their number.
    """
    if not is_part():
        return draw(shape)
    tiles, whole, first = among(examples)
    each = math.prod(shape) // examples
    flat = (tiles, math.prod(shape) // tiles)
    return draw(flat, whole * each, jnp.uint32(first) * each).reshape(shape)


def own(key: jax.Array) -> jax.Array:
    """A random key of this part's own; outside of parts the key itself."""
    return jax.random.fold_in(key, among(_now.value.tiles).first) if is_part() else key


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

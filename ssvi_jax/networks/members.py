"""K networks of one architecture as one: every array has a first axis of members.

A kernel of shape ``[...]`` is one of shape ``[K, ...]``, and so is its mask, of which
every member selects as many weights. As flat positions count the first axis last, the
packed posterior ``[K * s]`` is that of the members one after the other. Masks,
checkpoints, model files and the ledger therefore see an ordinary network; training and
prediction take a member out of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import Masks, Subspace, Weights


def keys(key: jax.Array, number: int) -> jax.Array:
    """A random key for each of K members ``[K]``; the first is the key itself."""
    later = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(1, number))
    return jnp.concatenate([key[None], later])


def first(tree: Any) -> Any:
    """Shapes and types of one member's arrays."""
    return jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), tree)


def each(subspace: Subspace, number: int) -> Subspace:
    """Where the packed kernels of each of K members sit, along a first axis."""
    shapes = tuple((path, shape[1:]) for path, shape in subspace.shapes)
    index = {}
    for path, shape in shapes:
        starts = math.prod(shape) * jnp.arange(number, dtype=jnp.int32)
        index[path] = subspace.index[path].reshape(number, -1) - starts[:, None]
    return Subspace(index, shapes)


def one(
    weights: Weights, subspace: Subspace, member: jax.typing.ArrayLike, number: int
) -> tuple[Weights, Subspace]:
    """The weights of one of K members, and where its packed kernels sit.

    Args:
      weights: of all members.
      subspace: of all members.
      member: 0 to K - 1.
      number: K.
    """
    posterior = jax.tree.map(lambda a: a.reshape(number, -1), weights.posterior)
    all_of_them = weights._replace(posterior=posterior), each(subspace, number)
    return jax.tree.map(lambda leaf: leaf[member], all_of_them)


def stack(each: Sequence[Masks]) -> Masks:
    """Masks of all members from those of each."""
    return {path: np.stack([masks[path] for masks in each]) for path in each[0]}


def unstack(masks: Masks, number: int) -> list[Masks]:
    """Inverse of `stack`, for K members."""
    return [{path: mask[k] for path, mask in masks.items()} for k in range(number)]


def is_even(masks: Masks) -> bool:
    """Whether all members select equally many weights of each kernel."""
    return all(
        len(np.unique(np.count_nonzero(mask.reshape(len(mask), -1), axis=1))) == 1
        for mask in masks.values()
    )

"""The few coordinates that a swap can add, found where their gradients are.

A swap adds the `count` coordinates of the highest score among those that were not
selected and those that it has just removed. The former are at most the `count` highest
of their kind, so an accelerator sends these and the scores of what is selected, and
keeps the rest: the decision on the host (`vi.subspace`) is the same bit for bit.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import Masks


class Shortlist(NamedTuple):
    """What a layer's addition can depend on, on the host.

    Attributes:
      positions: int ``[s]`` flat positions of the selected coordinates, sorted.
      selected: ``[s]`` their scores.
      index: int ``[k]`` flat positions of the highest scores among the others, sorted;
        of equal scores the lower positions are on the list.
      scores: ``[k]`` theirs.
      is_finite: whether every score of the layer is.
    """

    positions: np.ndarray
    selected: np.ndarray
    index: np.ndarray
    scores: np.ndarray
    is_finite: bool


Scores = Mapping[str, np.ndarray | jax.Array | Shortlist]
"""Kernel path → score of every coordinate, or what a swap needs of them."""


def on_host(scores: Scores, masks: Masks, counts: Mapping[str, int]) -> Scores:
    """Arrays of the host as they are, and shortlists of those of accelerators.

    Args:
      scores: of every coordinate; those of another shape than the mask's are left for
        the caller to refuse.
      masks: the selection.
      counts: kernel path → how many coordinates are added.
    """
    remote = {
        path: each
        for path, each in scores.items()
        if isinstance(each, jax.Array)
        and path in masks
        and each.shape == masks[path].shape
        and not _is_on_host(each)
    }
    return {**scores, **shortlists(remote, masks, counts)}


def shortlists(
    scores: Mapping[str, jax.Array], masks: Masks, counts: Mapping[str, int]
) -> dict[str, Shortlist]:
    """What a swap needs of `scores`; see `on_host`."""
    lengths = []
    for path in sorted(scores):
        free = int(np.count_nonzero(~masks[path]))
        # Rates fall over a training; a program for every count would be compiled.
        lengths.append(min(1 << max(0, counts[path] - 1).bit_length(), free))
    positions = {path: np.flatnonzero(masks[path]) for path in scores}
    found = jax.device_get(
        _shortlists(
            dict(scores),
            {path: each.astype(np.int32) for path, each in positions.items()},
            tuple(lengths),
        )
    )
    return {path: Shortlist(positions[path], *found[path]) for path in scores}


@partial(jax.jit, static_argnames="lengths")
def _shortlists(scores, selected, lengths):
    found = {}
    for path, length in zip(sorted(scores), lengths, strict=True):
        flat, index = scores[path].reshape(-1), selected[path]
        others = flat.at[index].set(-jnp.inf)
        highest, where = jax.lax.top_k(others, length)
        where, highest = jax.lax.sort((where, highest))
        found[path] = flat[index], where, highest, jnp.all(jnp.isfinite(flat))
    return found


def _is_on_host(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())

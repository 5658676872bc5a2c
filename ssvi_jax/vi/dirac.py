"""Convolutions that begin as the identity on their first channels.

Of a kernel ``[*window, c_in, c_out]`` the first min(c_in, c_out) filters pass on a
channel each: 1 in the middle of the window, 0 elsewhere (the `dirac_` initialization of
PyTorch; K. Jordan 2024, arXiv 2404.00498, section 3.2). Under a mask those taps have to
be in it from the start.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def taps(shape: tuple[int, ...]) -> np.ndarray:
    """Flat positions of the ones; none of a kernel that is not of a convolution.

    Args:
      shape: of the full kernel, ``(*window, c_in, c_out)``.
    """
    window, (ins, outs) = shape[:-2], shape[-2:]
    if not window or math.prod(window) == 1:
        return np.zeros(0, np.int64)
    middle = np.ravel_multi_index([size // 2 for size in window], window)
    channels = np.arange(min(ins, outs))
    return (middle * ins + channels) * outs + channels


def select(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask of as many weights, with as many of the taps as fit.

    Args:
      mask: boolean, of the kernel's full shape.
      rng: chooses which others give way.
    """
    chosen = mask.reshape(-1).copy()
    wanted = taps(mask.shape)[: int(chosen.sum())]
    missing = int((~chosen[wanted]).sum())
    chosen[wanted] = True
    others = np.setdiff1d(np.flatnonzero(chosen), wanted)
    chosen[rng.choice(others, missing, replace=False)] = False
    return chosen.reshape(mask.shape)


def means(drawn: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Packed means with the identity in their first filters.

    Args:
      drawn: ``[s]``, of all filters.
      index: int32 ``[s]``, where they are in the kernel.
      shape: of the full kernel.
    """
    ones = taps(shape)
    if not ones.size:
        return drawn
    is_first = index % shape[-1] < ones.size
    return jnp.where(is_first, jnp.isin(index, ones).astype(drawn.dtype), drawn)

"""Dropout of the inputs of a network's layers (Gal and Ghahramani, arXiv 1506.02142).

With dropout in prediction too, a forward pass is a draw from an approximate posterior,
whose noise is Bernoulli noise on the rows of kernels. In training each example is
dropped from on its own, as usual. In a prediction all examples share what is dropped: a
pass then is one network, and it does not matter how the examples are batched.
"""

import zlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssvi_jax.ops import noise, shard

_STREAM = 0x64726F70  # separates it from other noise of the same layer and key


class Dropout(NamedTuple):
    """What one forward pass drops.

    Attributes:
      rate: probability that a number becomes 0, in [0, 1); the others are divided by
        1 - rate, so that the mean stays.
      key: random key of the pass.
      is_shared: whether all examples of a batch share what is dropped.
    """

    rate: float
    key: jax.Array
    is_shared: bool = False

    def __call__(self, x: jax.Array, path: str, use: int = 0) -> jax.Array:
        """Drops from the input of a layer.

        Args:
          x: ``[batch, ...]``.
          path: the layer's kernel.
          use: how often the layer has been used before in this pass.
        """
        if self.rate == 0:
            return x
        key = jax.random.fold_in(self.key, _STREAM)
        key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        draw = partial(noise.bits, jax.random.fold_in(key, use))
        if self.is_shared:
            words = draw((1, *x.shape[1:]))
        else:
            words = shard.noise(draw, x.shape, len(x))
        kept = words >= jnp.uint32(self.rate * 2**32)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))

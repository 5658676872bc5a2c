"""Flipout: one draw of the weights for a batch, decorrelated between its examples.

With a shared deviation ΔW, symmetric around 0, and signs s, r in {-1, 1} of each
example's own, the products ``x·M + ((x∘s)·ΔW)∘r`` have for every example the
distribution of a fresh weight sample, and their noise is uncorrelated between examples
(Wen et al., "Flipout", ICLR 2018, arXiv 1803.04386, equation 4).
"""

import dataclasses
from collections.abc import Callable

import jax

from ssvi_jax.core.types import PackedKernel
from ssvi_jax.ops import shard


def sample(
    x: jax.Array,
    kernel: PackedKernel,
    key: jax.Array,
    product: Callable[[jax.Array, PackedKernel], jax.Array],
) -> jax.Array:
    """Pre-activations ``[batch, ..., out]`` of a dense layer or a convolution.

    Args:
      x: ``[batch, ..., in]`` inputs; all positions of an example share its signs, as
        they share its weights.
      kernel: packed kernel with a deviation.
      key: random key of this layer and step, for the signs.
      product: the layer's product with a kernel without noise.
    """
    assert kernel.deviation is not None
    mean = dataclasses.replace(kernel, deviation=None)
    noise = dataclasses.replace(mean, mean=kernel.deviation, probe=None)
    y = product(x, mean)
    flipped = product(x * _signs(jax.random.fold_in(key, 0), x), noise)
    return y + flipped * _signs(jax.random.fold_in(key, 1), y)


def _signs(key: jax.Array, like: jax.Array) -> jax.Array:
    """±1 for each example and channel, to be broadcast over positions."""

    def draw(*examples: int) -> jax.Array:
        shape = (*examples, *(like.ndim - 2) * (1,), like.shape[-1])
        return jax.random.rademacher(key, shape, like.dtype)

    return draw() if like.ndim == 1 else shard.rows(draw, len(like))

"""Batch norm between sparse layers: sums by the C++ kernels, the rest fused by XLA.

XLA reduces over images and pixels fast in its own layout only. Between two sparse
layers the batch is innermost, and every sum of a batch norm and of its gradient would
copy the whole array first. In a shard of a batch the sums are those of the whole one;
a few numbers a channel and device are exchanged for them.
"""

import jax
import jax.numpy as jnp

from ssvi_jax.ops import custom_calls, shard

_NO_WINDOW = custom_calls.Window((1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)))


def comoment(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Per channel Σa and Σ(a − mean a)(b − mean b), summed in double precision.

    Args:
      a: float32 ``[batch, rows, columns, channels]``.
      b: the same shape.

    Returns:
      float32 ``[channels]`` twice. No gradient is defined.
    """
    channels = (a.shape[-1],)
    total, product = custom_calls.call(
        "ssvi_comoment", _NO_WINDOW, [channels, channels], a, b
    )
    return total, product


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes over all images and pixels (Ioffe and Szegedy 2015, algorithm 1).

    Of a shard (see `ops.shard`), over those of all shards.

    Args:
      x: float32 ``[batch, rows, columns, channels]``.
      scale: ``[channels]``.
      bias: ``[channels]``.
      epsilon: added to the variance.

    Returns:
      The normalized x, and mean and variance ``[channels]`` of the batch.
    """
    return _batch_norm(x, scale, bias, epsilon)


def _value(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    count = x.size // x.shape[-1]
    total, squares = comoment(x, x)
    own_mean = total / count
    if shard.is_shard():
        totals, products = shard.gather(jnp.stack([total, squares])).swapaxes(0, 1)
        total, squares = _together(totals, products, totals / count, count)
    whole = count * shard.size()
    mean, variance = total / whole, squares / whole
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = scale * inverse
    y = x * _channels(factor) + _channels(bias - mean * factor)
    return (y, mean, variance), (x, mean, own_mean, inverse, scale)


def _backward(epsilon, kept, cotangents):
    del epsilon
    x, mean, own_mean, inverse, scale = kept
    g, g_mean, g_variance = cotangents
    count = x.size // x.shape[-1]
    whole = count * shard.size()
    own_total, own_product = total, product = comoment(g, x)  # Σg and Σg(x − mean)
    if shard.is_shard():
        # Every shard normalizes by the same mean and variance, so what they get is the
        # sum over shards; scale and bias are each shard's own.
        own = jnp.stack([total, product, own_mean, g_mean, g_variance])
        totals, products, means, g_means, g_variances = shard.gather(own).swapaxes(0, 1)
        total, product = _together(totals, products, means, count)
        g_mean, g_variance = g_means.sum(0), g_variances.sum(0)
        own_product += own_total * (own_mean - mean)
    factor = scale * inverse
    slope = (2.0 * g_variance - factor * jnp.square(inverse) * product) / whole
    shift = (g_mean - factor * total) / whole - mean * slope
    dx = g * _channels(factor) + x * _channels(slope) + _channels(shift)
    return dx, own_product * inverse, own_total


def _together(
    totals: jax.Array, products: jax.Array, means: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """`comoment` of a and b over all shards.

    Args:
      totals: ``[shards, channels]``, Σa of each shard.
      products: likewise, Σ(a − mean a)(b − mean b) about its own means.
      means: likewise, the mean of b.
      count: numbers of a channel in a shard.
    """
    own = totals / count
    own, means = (v - v.mean(0, keepdims=True) for v in (own, means))
    return totals.sum(0), products.sum(0) + count * (own * means).sum(0)


def _channels(values: jax.Array) -> jax.Array:
    return values[None, None, None, :]


_batch_norm = jax.custom_vjp(_value, nondiff_argnums=(3,))
_batch_norm.defvjp(_forward, _backward)

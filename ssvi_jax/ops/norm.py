"""Batch norm between sparse layers: sums by the C++ kernels, the rest fused by XLA.

XLA reduces over images and pixels fast in its own layout only. Between two sparse
layers the batch is innermost, and every sum of a batch norm and of its gradient would
copy the whole array first.
"""

import jax
import jax.numpy as jnp

from ssvi_jax.ops import custom_calls

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
    mean, variance = total / count, squares / count
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = scale * inverse
    y = x * _channels(factor) + _channels(bias - mean * factor)
    return (y, mean, variance), (x, mean, inverse, scale)


def _backward(epsilon, kept, cotangents):
    del epsilon
    x, mean, inverse, scale = kept
    g, g_mean, g_variance = cotangents
    count = x.size // x.shape[-1]
    total, product = comoment(g, x)  # Σg and Σg(x − mean)
    factor = scale * inverse
    slope = (2.0 * g_variance - factor * jnp.square(inverse) * product) / count
    shift = (g_mean - factor * total) / count - mean * slope
    dx = g * _channels(factor) + x * _channels(slope) + _channels(shift)
    return dx, product * inverse, total


def _channels(values: jax.Array) -> jax.Array:
    return values[None, None, None, :]


_batch_norm = jax.custom_vjp(_value, nondiff_argnums=(3,))
_batch_norm.defvjp(_forward, _backward)

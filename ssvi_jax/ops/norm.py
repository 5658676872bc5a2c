"""Batch norm between sparse layers: sums by the C++ kernels, the rest fused by XLA.

XLA reduces over images and pixels fast in its own layout only. Between two sparse
layers the batch is innermost, and every sum of a batch norm and of its gradient would
copy the whole array first. In a shard of a batch the sums are those of the whole one;
a few numbers a channel and device are exchanged for them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ssvi_jax.ops import custom_calls, shard

_NO_WINDOW = custom_calls.Window((1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)))


def comoment(
    a: jax.Array,
    b: jax.Array,
    center: jax.Array | None = None,
    line: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Per channel Σa and Σa(b − center), summed in double precision.

    Args:
      a: float32 ``[batch, rows, columns, channels]``.
      b: the same shape.
      center: float32 ``[channels]``; None: the mean of b.
      line: factor and shift ``[channels]``: only those a count where b · factor + shift
        is positive; None: all.

    Returns:
      float32 ``[channels]`` twice. No gradient is defined.
    """
    channels, none = (a.shape[-1],), jnp.zeros(0, jnp.float32)
    factor, shift = line or (none, none)
    center = none if center is None else center
    total, product = custom_calls.call(
        *("ssvi_comoment", _NO_WINDOW, [channels, channels]),
        *(a, b, center, factor, shift),
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
    mean, variance = ssvi_moments(x)
    # The gradient of x in `normalize` is the whole one, through the moments too.
    fixed, inverse = jax.lax.stop_gradient(
        (mean, jax.lax.rsqrt(variance + jnp.float32(epsilon)))
    )
    return ssvi_normalize(x, fixed, inverse, scale, bias), mean, variance


MOMENTS, NORMALIZE = "ssvi_moments", "ssvi_normalize"
"""Names of the two parts of a batch norm in a jaxpr, for `fuse` to find them."""


@jax.jit
def ssvi_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel."""
    fixed = jax.lax.stop_gradient(x)
    return moments(x, *comoment(fixed, fixed))


@jax.jit
def ssvi_normalize(
    x: jax.Array,
    mean: jax.Array,
    inverse: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
) -> jax.Array:
    """`normalize` and nothing more."""
    return normalize(x, mean, inverse, scale, bias, None, False)


@jax.custom_vjp
def moments(
    x: jax.Array, total: jax.Array, squares: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance ``[channels]`` of x over all shards.

    Args:
      x: ``[batch, rows, columns, channels]``; for the gradient alone.
      total: ``[channels]``, Σx of this shard; without a gradient, as the next.
      squares: ``[channels]``, Σ(x − mean x)² of this shard.
    """
    return _moments(x, total, squares)


def _moments(x, total, squares):
    count = x.size // x.shape[-1]
    if shard.is_shard():
        totals, products = shard.gather(jnp.stack([total, squares])).swapaxes(0, 1)
        between = totals / count - (totals / count).mean(0, keepdims=True)
        total = totals.sum(0)
        squares = products.sum(0) + count * jnp.square(between).sum(0)
    whole = count * shard.size()
    return total / whole, squares / whole


def _moments_fwd(x, total, squares):
    found = _moments(x.value, total.value, squares.value)
    return found, (x.value, found[0])


def _moments_bwd(kept, cotangents):
    x, mean = kept
    if all(isinstance(g, SymbolicZero) for g in cotangents):
        return None, None, None
    g_mean, g_variance = (
        jnp.zeros_like(mean) if isinstance(g, SymbolicZero) else g for g in cotangents
    )
    whole = x.size // x.shape[-1] * shard.size()
    # Every shard has the same moments, so what they get is the sum over shards.
    g_mean, g_variance = shard.gather(jnp.stack([g_mean, g_variance])).sum(0) / whole
    slope = 2.0 * g_variance
    return x * _channels(slope) + _channels(g_mean - mean * slope), None, None


moments.defvjp(_moments_fwd, _moments_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def normalize(
    x: jax.Array,
    mean: jax.Array,
    inverse: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    rectified: bool,
) -> jax.Array:
    """relu((x − mean) · inverse · scale + bias + residual), in one pass each way.

    Args:
      x: ``[batch, rows, columns, channels]``.
      mean: ``[channels]``, that of x over all shards. The gradient of x goes through
        this and the next, which have none of their own.
      inverse: ``[channels]``, one over the standard deviation.
      scale: ``[channels]``.
      bias: ``[channels]``.
      residual: as x; None: 0.
      rectified: whether there is a ReLU.
    """
    return _normalize_fwd(x, mean, inverse, scale, bias, residual, rectified)[0]


def _normalize_fwd(x, mean, inverse, scale, bias, residual, rectified):
    factor = scale * inverse
    shift = bias - mean * factor
    y = x * _channels(factor) + _channels(shift)
    if residual is not None:
        y += residual
    if rectified:
        y = jnp.maximum(y, 0.0)
    # Without a residual the sign of y follows from x, which is read anyway.
    output = y if rectified and residual is not None else None
    return y, (x, mean, inverse, scale, shift, output, residual is not None)


def _normalize_bwd(rectified, kept, g):
    g, lines, rest = _gradient(kept, g, rectified)
    return through(g, kept[0], lines), *rest


def _gradient(kept, g, rectified):
    """The gradient of x as `through` takes it, and those of what follows x."""
    x, mean, inverse, scale, shift, output, has_residual = kept
    factor, line = scale * inverse, None
    if output is not None:
        g = jnp.where(output > 0, g, 0.0)
    elif rectified:
        line = factor, shift
    total, product = comoment(g, x, mean, line)
    # Scale and bias are each shard's own; x counts in the moments of all.
    whole = x.size // x.shape[-1] * shard.size()
    of_total, of_product = shard.gather(jnp.stack([total, product])).sum(0) / whole
    slope = -factor * jnp.square(inverse) * of_product
    level = -factor * of_total - mean * slope
    above = shift if line else jnp.full_like(shift, jnp.inf)  # else everything counts
    lines = jnp.stack([factor, above, slope, level])
    residual = g if has_residual else None
    return g, lines, (None, None, product * inverse, total, residual)


normalize.defvjp(_normalize_fwd, _normalize_bwd)


def through(g: jax.Array, x: jax.Array, lines: jax.Array) -> jax.Array:
    """The gradient of what a batch norm reads: what the kernels do as they read it.

    Where x · factor + shift > 0 it is g · factor, elsewhere 0, and x · slope + level on
    top.

    Args:
      g: as x, the gradient of the batch norm's result.
      x: ``[batch, rows, columns, channels]``.
      lines: ``[4, channels]``: factor, shift, slope, level.
    """
    factor, shift, slope, level = map(_channels, lines)
    return jnp.where(x * factor + shift > 0, g, 0.0) * factor + (x * slope + level)


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def normalize_sampled(
    normed: jax.Array,
    lines: jax.Array,
    mean: jax.Array,
    inverse: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    rectified: bool,
) -> jax.Array:
    """`normalize` of what a sparse layer sampled, whose kernels finish the gradient.

    Args:
      normed: of `sparse.Sampled`. Its cotangent is not its gradient, but the g of
        `through`.
      lines: of `sparse.Sampled`. Its cotangent is the lines of `through`.
      mean: see `normalize`, as the rest.
      inverse: ``[channels]``.
      scale: ``[channels]``.
      bias: ``[channels]``.
      residual: as normed, or None.
      rectified: whether there is a ReLU.
    """
    del lines
    return normalize(normed, mean, inverse, scale, bias, residual, rectified)


def _normalize_sampled_fwd(normed, lines, *operands):
    del lines
    return _normalize_fwd(normed, *operands)


def _normalize_sampled_bwd(rectified, kept, g):
    g, lines, rest = _gradient(kept, g, rectified)
    return g, lines, *rest


normalize_sampled.defvjp(_normalize_sampled_fwd, _normalize_sampled_bwd)


def _channels(values: jax.Array) -> jax.Array:
    return values[None, None, None, :]

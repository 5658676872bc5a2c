"""Local reparameterization: noise on the pre-activations instead of the weights.

For independent Gaussian weights the pre-activation of every example is Gaussian with
mean ``x·M`` and variance ``x²·V`` (Kingma, Salimans and Welling, "Variational dropout
and the local reparameterization trick", 2015, equation 6).
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ssvi_jax.core.types import PackedKernel
from ssvi_jax.ops import backend, convolution, flipout, noise, shard
from ssvi_jax.ops.packing import unpack


@jax.custom_vjp
def perturb(mean: jax.Array, variance: jax.Array, epsilon: jax.Array) -> jax.Array:
    """``mean + sqrt(variance) * epsilon``, keeping one array for the gradient.

    The gradient with respect to the variance is 0 where the variance is 0 (a patch of
    zeros, whose pre-activation no weight can move).
    """
    return mean + jnp.sqrt(variance) * epsilon


def _perturb_fwd(
    mean: jax.Array, variance: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, jax.Array]:
    std = jnp.sqrt(variance)
    slope = jnp.where(std > 0, 0.5 * epsilon / std, 0.0)
    return mean + std * epsilon, slope


def _perturb_bwd(
    slope: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    return cotangent, cotangent * slope, None


perturb.defvjp(_perturb_fwd, _perturb_bwd)


def lrt_dense(x: jax.Array, kernel: PackedKernel, key: jax.Array) -> jax.Array:
    """Samples ``[..., out]`` pre-activations of a dense layer with Gaussian weights.

    A kernel without sigma gives the plain product, one with a deviation that of
    `flipout`.

    Args:
      x: ``[..., in]`` inputs.
      kernel: packed kernel of shape ``[in, out]``.
      key: random key of this layer and step.
    """
    if kernel.deviation is not None:
        return flipout.sample(x, kernel, key, partial(lrt_dense, key=key))
    if backend.takes_dense(x, kernel):
        return backend.dense(x, kernel, key)
    mean, *variance = unpack(kernel)
    m = convolution.dense(x, mean)
    if not variance:
        return m
    last = m.ndim - 1
    v = convolution.dense(jnp.square(x), variance[0])
    return _noisy(m, v, key, (last, *range(last)), last)


def lrt_conv(
    x: jax.Array,
    kernel: PackedKernel,
    key: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> jax.Array:
    """Samples the pre-activations of a convolution with Gaussian weights.

    A kernel without sigma gives the plain convolution, one with a deviation that of
    `flipout`.

    Args:
      x: ``[batch, *spatial, in]`` inputs.
      kernel: packed kernel of shape ``[*window, in / groups, out]``.
      key: random key of this layer and step.
      strides: see `products.conv`, as the rest.
      padding: (low, high) a spatial dimension.
      rhs_dilation: distance between the kernel's taps.
      groups: number of channel groups.
    """
    if kernel.deviation is not None:
        plain = partial(
            lrt_conv,
            key=key,
            strides=strides,
            padding=padding,
            rhs_dilation=rhs_dilation,
            groups=groups,
        )
        return flipout.sample(x, kernel, key, plain)
    window = convolution.Window.make(strides, padding, rhs_dilation, groups)
    if backend.takes_conv(x, kernel, window):
        return backend.conv(x, kernel, key, window)
    m, *v = convolution.conv_powers(x, unpack(kernel), window)
    last = m.ndim - 1
    return _noisy(m, v[0], key, (*range(1, last + 1), 0), 1) if v else m


def _noisy(
    m: jax.Array, v: jax.Array, key: jax.Array, order: tuple[int, ...], examples: int
) -> jax.Array:
    """Adds noise whose positions are counted with the axes in this order.

    It is the order in which the sparse kernels hold their results: batch last. The last
    `examples` axes count the examples, of the whole batch where this is a part of it.
    """
    shape = tuple(m.shape[axis] for axis in order)
    if shard.is_part():
        number, each = math.prod(shape[-examples:]), math.prod(shape[:-examples])
        tiles, whole, first = shard.among(number)
        rows = each * tiles, number // tiles
        epsilon = noise.normal(key, rows, m.dtype, whole, first).reshape(shape)
    else:
        epsilon = noise.normal(key, shape, m.dtype)
    return perturb(m, v, epsilon.transpose([order.index(a) for a in range(m.ndim)]))

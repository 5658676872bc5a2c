"""The dense gradient of layers whose products visit the selected weights only.

A probe is zeros of a kernel's full shape added to its means: the result stays what it
is, and the gradient of the probe is that of every coordinate, kept or not. So only one
dense product a layer is computed, and the passes through the network stay sparse.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ssvi_jax.ops import custom_calls, sparse
from ssvi_jax.ops.convolution import Window


def conv(y: jax.Array, x: jax.Array, probe: jax.Array, window: Window) -> jax.Array:
    """Adds the convolution of x with a probe of zeros to y, which stays what it is.

    Args:
      y: ``[batch, rows out, columns out, out]``, the convolution of x and the kernel.
      x: ``[batch, rows, columns, in]``.
      probe: zeros ``[rows, columns, in, out]`` of the kernel.
      window: how the kernel slides, all channels in one group.
    """
    gradient = partial(_conv_gradient, shape=probe.shape, window=window)
    return _attach(y, x, probe, gradient)


def dense(y: jax.Array, x: jax.Array, probe: jax.Array) -> jax.Array:
    """Adds the product of x and a probe ``[in, out]`` of zeros to y; see `conv`."""
    return _attach(y, x, probe, _dense_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attach(
    y: jax.Array,
    x: jax.Array,
    probe: jax.Array,
    gradient: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    del x, probe, gradient
    return y


def _attach_fwd(y, x, probe, gradient):
    del probe, gradient
    return y, x


def _attach_bwd(gradient, x, g):
    return g, jnp.zeros_like(x), gradient(x, g)


_attach.defvjp(_attach_fwd, _attach_bwd)


def _dense_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])


def _conv_gradient(
    x: jax.Array, g: jax.Array, shape: tuple[int, ...], window: Window
) -> jax.Array:
    """Products of g with the patches of x, which the kernel makes as it goes."""
    own = sparse.make_window(shape, window.strides, window.padding)
    size = [(math.prod(shape),)]
    (flat,) = custom_calls.call("ssvi_dense_gradient", own, size, x, g)
    return flat.reshape(shape)

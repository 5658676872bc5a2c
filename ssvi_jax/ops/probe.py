"""The dense gradient of layers whose products visit the selected weights only.

A probe is zeros of a kernel's full shape added to its means: the result stays what it
is, and the gradient of the probe is that of every coordinate, kept or not. So only one
dense product a layer is computed, and the passes through the network stay sparse.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from ssvi_jax.ops.products import Window, make_patches


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
    """Products of g with the patches of x, one row of all images at a time.

    Both are read as they lie in memory between sparse layers, with the batch innermost,
    and the patches of a row stay in the cache.
    """
    order = Layout((0, 1, 2, 3))  # left to itself, XLA transposes to and fro
    x, g = (with_layout_constraint(a.transpose(1, 2, 3, 0), order) for a in (x, g))
    rows, columns = window.padding
    reach = (shape[0] - 1) * window.dilation[0] + 1
    one_row = Window(window.strides, ((0, 0), columns), window.dilation, 1)

    def row_of(number: jax.Array) -> jax.Array:
        inside = (number >= 0) & (number < x.shape[0])
        found = jax.lax.dynamic_index_in_dim(x, number, keepdims=False)
        return jnp.where(inside, found, 0.0)

    def add(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        first = row * window.strides[0] - rows[0]
        below = jnp.stack([row_of(first + i) for i in range(reach)])
        patches = make_patches(below.transpose(2, 0, 1, 3), shape[:2], one_row, axis=0)
        part = jax.lax.dynamic_index_in_dim(g, row, keepdims=False).transpose(1, 0, 2)
        # Flat, so that XLA contracts over what lies innermost in both.
        left, right = (a.reshape(a.shape[0], -1) for a in (part, patches))
        return total + jax.lax.dot_general(left, right, (((1,), (1,)), ((), ()))), None

    zeros = jnp.zeros((shape[3], shape[0] * shape[1] * shape[2]), x.dtype)
    total, _ = jax.lax.scan(add, zeros, jnp.arange(g.shape[0]))
    return total.T.reshape(shape)

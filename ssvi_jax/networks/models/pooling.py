"""Pooling of 2 x 2 pixels that a training step does not notice.

The gradient of a maximum would be most of a step on a CPU, so this averages. XLA's sum
over windows and its gradient leave the memory layout of the layers around them; these
slices and copies are fused with what is next to them, a tenth of a step of a network
that pools. Gradients are written out: the transpose of a slice is a pad, in an array of
its own.
"""

import jax
import jax.numpy as jnp


def pool_2x2(x: jax.Array) -> jax.Array:
    """Halves ``[batch, h, w, c]`` by averaging, dropping an odd last row or column.

    Images less than 3 pixels high or wide are returned as they are, so that small
    inputs survive every stage.
    """
    return x if is_tiny(x) else _average(x)


def is_tiny(x: jax.Array) -> bool:
    """Whether images ``[batch, h, w, c]`` are too small to be halved."""
    return min(x.shape[1:3]) < 3


@jax.custom_vjp
def _average(x: jax.Array) -> jax.Array:
    _, h, w, _ = x.shape
    top, bottom = x[:, 0 : h - h % 2 : 2], x[:, 1::2]
    rows = (top + bottom)[:, :, : w - w % 2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4


def _average_fwd(x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    return _average(x), x.shape


def _average_bwd(shape: tuple[int, ...], g: jax.Array) -> tuple[jax.Array]:
    n, h, w, c = shape
    rows, columns = g.shape[1:3]
    spread = jnp.broadcast_to(g[:, :, None, :, None] / 4, (n, rows, 2, columns, 2, c))
    whole = spread.reshape(n, 2 * rows, 2 * columns, c)
    return (jnp.pad(whole, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))),)


_average.defvjp(_average_fwd, _average_bwd)


@jax.custom_vjp
def smooth_2x2(x: jax.Array) -> jax.Array:
    """Averages windows of 2 x 2 pixels at every place, zeros beyond the borders.

    A convolution is linear: images may be averaged before it as well as after it. So a
    3x3 convolution with padding 1, then `pool_2x2`, is one with stride 2 and no padding
    of these averages: the same numbers for a quarter of the multiply-adds.

    Args:
      x: ``[batch, h, w, c]``.

    Returns:
      ``[batch, h + 1, w + 1, c]``.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _neighbours(padded)


def _neighbours(x: jax.Array) -> jax.Array:
    rows = x[:, :-1] + x[:, 1:]
    return (rows[:, :, :-1] + rows[:, :, 1:]) / 4


def _smooth_fwd(x: jax.Array) -> tuple[jax.Array, None]:
    return smooth_2x2(x), None


def _smooth_bwd(_: None, g: jax.Array) -> tuple[jax.Array]:
    return (_neighbours(g),)


smooth_2x2.defvjp(_smooth_fwd, _smooth_bwd)

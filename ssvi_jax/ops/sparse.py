"""Layers on the selected weights only, in C++ behind XLA's foreign function interface.

The kernels in ``csrc/`` visit the s selected weights and nothing else: x is read
once, the noise is drawn where it is used, and besides y only ε/(2√v) is kept for the
gradient. The noise of a layer is `noise.normal` of the shape ``(h, w, c, n)``, with the
n of the whole batch where the images are a shard of it (see `shard`).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from ssvi_jax.core.errors import InputError
from ssvi_jax.ops import norm, shard
from ssvi_jax.ops.custom_calls import Window, call, why_not

_HEADER, _MAX_TURNS = 4, 8  # of a list's table: kTableHeader and kMaxTurns in csrc/


def list_mean(
    mean: jax.Array, index: jax.Array, x: tuple[int, ...], window: Window
) -> list[jax.Array]:
    """The weights in the order in which "ssvi_mean" visits them for images of shape x.

    Its third operand, here of no elements, may be a factor of each output channel.
    """
    table = _HEADER + _MAX_TURNS * window.shape[3] + 1
    shapes = {
        "x_shape": np.array(x, np.int64),
        "y_shape": np.array(window.output_shape(x), np.int64),
    }
    sizes, none = [(*mean.shape, 3), (table,)], jnp.zeros(0, jnp.float32)
    operands = (mean, index, none)
    return call("ssvi_list_mean", window, sizes, *operands, dtype=jnp.int32, **shapes)


class Sampled(NamedTuple):
    """Sampled pre-activations, with what a batch norm behind them wants to know.

    Attributes:
      y: ``[batch, rows, columns, out]``.
      total: ``[out]``, Σy of each channel. It and the next have no gradient.
      squares: ``[out]``, Σ(y − mean y)².
      normed: y again, for `norm.normalize_sampled` alone: its cotangent is that of what
        the batch norm makes of it. The kernels take that through the batch norm while
        they read it, by the lines ``[4, out]`` that are the next one's cotangent.
      lines: zeros ``[4, out]``.
    """

    y: jax.Array
    total: jax.Array
    squares: jax.Array
    normed: jax.Array
    lines: jax.Array


def _wanted(x: CustomVJPPrimal, *weights: CustomVJPPrimal) -> str:
    """Which gradients are asked for; those of images, say, never are."""
    of_weights = any(value.perturbed for value in weights)
    if x.perturbed:
        return "both" if of_weights else "input"
    return "weights"


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _sample(
    x: jax.Array,
    mean: jax.Array,
    sigma: jax.Array,
    index: jax.Array,
    words: jax.Array,
    window: Window,
) -> Sampled:
    return _sample_call(x, mean, sigma, index, words, window)[0]


def _sample_call(
    x, mean, sigma, index, words, window: Window
) -> tuple[Sampled, jax.Array]:
    shape = window.output_shape(x.shape)
    shapes, operands = [shape, shape, shape[3:], shape[3:]], (mean, sigma, index, words)
    y, slope, total, squares = call("ssvi_sample", window, shapes, x, *operands)
    lines = jnp.zeros((4, shape[3]), jnp.float32)
    return Sampled(y, total, squares, y, lines), slope


def _sample_fwd(x, mean, sigma, index, words, window: Window) -> tuple[Sampled, Any]:
    wanted = _wanted(x, mean, sigma)
    x, mean, sigma, index, words = (a.value for a in (x, mean, sigma, index, words))
    sampled, slope = _sample_call(x, mean, sigma, index, words, window)
    return sampled, {wanted: (x, mean, sigma, index, slope, sampled.y)}


def _sample_bwd(
    window: Window, kept: dict[str, tuple[jax.Array, ...]], cotangents: Any
) -> tuple[jax.Array | None, ...]:
    ((wanted, (x, mean, sigma, index, slope, y)),) = kept.items()
    through = _through_norm(y, cotangents)
    if through is None:
        return (None,) * 5
    images, sizes = [x.shape], [mean.shape, mean.shape]
    g, y, lines = through
    of_images = (g, slope, y, lines, x)
    operands = (*of_images, mean, sigma, index)
    if wanted == "input":
        (dx,) = call("ssvi_sample_input", window, images, *operands)
        return dx, None, None, None, None
    if wanted == "weights":
        dx = None
        dmean, dvariance = call("ssvi_sample_weights", window, sizes, *of_images, index)
    else:
        dx, dmean, dvariance = call(
            "ssvi_sample_gradients", window, [*images, *sizes], *operands
        )
    return dx, dmean, 2.0 * sigma * dvariance, None, None


def no_norm() -> tuple[jax.Array, jax.Array]:
    """Operands of the gradients' kernels that say that no batch norm lies behind."""
    return jnp.zeros((0, 0, 0, 0), jnp.float32), jnp.zeros((0, 0), jnp.float32)


def _through_norm(
    y: jax.Array, cotangents: Any
) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """A gradient, and the y and lines of the batch norm it is to be taken through.

    Without such a batch norm these have no elements. None: there is no gradient.
    """
    direct, _, _, normed, lines = cotangents
    if isinstance(normed, SymbolicZero):
        if isinstance(direct, SymbolicZero):
            return None
        return direct, *no_norm()
    if isinstance(direct, SymbolicZero):
        return normed, y, lines
    # Somebody reads y besides: rare enough to pass over memory once more.
    g = direct + norm.through(normed, y, lines)
    return g, *no_norm()


_sample.defvjp(_sample_fwd, _sample_bwd, symbolic_zeros=True)


LRT_CONV = "ssvi_lrt_conv"
"""Name of the calls in a jaxpr that give `Sampled`, for `fuse` to find them."""


def _named_sample(*operands: jax.Array, window: Window) -> Sampled:
    # A function of its own for every call: of a trace that is used twice JAX keeps only
    # the latest residuals' structure, and ours depends on which gradients are wanted.
    def fresh(*operands: jax.Array) -> Sampled:
        return _sample(*operands, window)

    fresh.__name__ = LRT_CONV
    return jax.jit(fresh)(*operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mean(
    x: jax.Array, mean: jax.Array, index: jax.Array, bias: jax.Array, window: Window
) -> jax.Array:
    shape = window.output_shape(x.shape)
    none = jnp.zeros((0, 0, 0, 0), jnp.float32)
    # Apart from the product: where it does not change, as over the batches of one
    # network, XLA makes it once.
    lists = list_mean(mean, index, x.shape, window)
    operands = (x, *lists, bias, none)
    (y,) = call("ssvi_mean", window, [shape], *operands, relu=np.bool_(False))
    return y


def _mean_fwd(x, mean, index, bias, window: Window) -> tuple[jax.Array, Any]:
    values = tuple(a.value for a in (x, mean, index, bias))
    return _mean(*values, window), {_wanted(x, mean): values}


def _mean_bwd(
    window: Window, kept: dict[str, tuple[jax.Array, ...]], g: Any
) -> tuple[jax.Array | None, ...]:
    ((wanted, (x, mean, index, bias)),) = kept.items()
    if isinstance(g, SymbolicZero):
        return (None,) * 4
    dx = dmean = None
    if wanted == "input":
        (dx,) = call("ssvi_mean_input", window, [x.shape], g, mean, index)
    elif wanted == "weights":
        (dmean,) = call("ssvi_mean_weights", window, [mean.shape], x, g, index)
    else:
        shapes = [x.shape, mean.shape]
        dx, dmean = call("ssvi_mean_gradients", window, shapes, g, x, mean, index)
    dbias = g.sum((0, 1, 2)) if bias.size else jnp.zeros_like(bias)
    return dx, dmean, None, dbias


_mean.defvjp(_mean_fwd, _mean_bwd, symbolic_zeros=True)


def _check(x: jax.Array, index: jax.Array, window: Window, **values: jax.Array) -> None:
    """Raises `InputError` where the kernels would read something else than meant."""
    if why_not():
        raise InputError(f"backend: got 'sparse', but {why_not()}.")
    if x.ndim != 4 or x.shape[3] != window.shape[2]:
        raise InputError(
            f"x: got shape {x.shape}, allowed: [batch, rows, columns, "
            f"{window.shape[2]}] for a kernel of shape {window.shape}."
        )
    for name, value in {"x": x, **values}.items():
        if value.dtype != jnp.float32:
            raise InputError(
                f"{name}: got {value.dtype}, allowed: float32; use ops.lrt_conv."
            )
    if index.dtype != jnp.int32:
        raise InputError(f"index: got {index.dtype}, allowed: int32.")
    for name, value in values.items():
        if name != "bias" and value.shape != index.shape:
            raise InputError(
                f"{name}: got shape {value.shape}, allowed: {index.shape}, one value "
                "for each entry of the index."
            )
    if min(window.strides) < 1 or min(map(min, window.padding)) < 0:
        raise InputError(
            f"strides, padding: got {window.strides}, {window.padding}, allowed: "
            "strides of 1 or more, paddings of 0 or more."
        )
    if min(window.output_shape(x.shape)[1:3]) < 1:
        raise InputError(
            f"x: got shape {x.shape}, allowed: padded images at least as large as the "
            f"kernel {window.shape}."
        )


def make_window(
    shape: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Window:
    """A kernel's window; raises `InputError` unless it is one of two dimensions."""
    if not len(shape) - 2 == len(strides) == len(padding) == 2:
        raise InputError(
            f"shape, strides, padding: got {shape}, {strides}, {padding}, allowed: a "
            "kernel [rows, columns, in, out], two strides, two (low, high) pairs."
        )
    rows, columns, num_in, num_out = (int(size) for size in shape)
    (top, bottom), (left, right) = padding
    return Window(
        (rows, columns, num_in, num_out),
        (int(strides[0]), int(strides[1])),
        ((int(top), int(bottom)), (int(left), int(right))),
    )


def lrt_conv(
    x: jax.Array,
    mean: jax.Array,
    sigma: jax.Array,
    index: jax.Array,
    shape: Sequence[int],
    key: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Samples the pre-activations of a 2-D convolution with sparse Gaussian weights.

    y = m + √v·ε with m = conv(x, M), v = conv(x², V) (Kingma, Salimans and Welling
    2015, equation 6); M and V hold mean and sigma² at the index and 0 elsewhere.

    Args:
      x: float32 ``[batch, rows, columns, in]``.
      mean: float32 ``[s]`` means of the selected weights.
      sigma: float32 ``[s]`` standard deviations.
      index: int32 ``[s]`` flat positions in the kernel, without repetition.
      shape: ``(rows, columns, in, out)`` of the kernel.
      key: random key of this layer and step.
      strides: steps between outputs.
      padding: (low, high) rows of zeros, then columns.

    Returns:
      float32 ``[batch, rows out, columns out, out]``.

    Raises:
      InputError: where a shape or type is another, or without compiled kernels.
    """
    window = make_window(shape, strides, padding)
    _check(x, index, window, mean=mean, sigma=sigma)
    words = jnp.concatenate(
        [jax.random.bits(key, (2,), jnp.uint32), jnp.uint32(shard.place(x.shape[0]))]
    )
    return _named_sample(x, mean, sigma, index, words, window=window).y


def conv(
    x: jax.Array,
    mean: jax.Array,
    index: jax.Array,
    shape: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    bias: jax.Array | None = None,
) -> jax.Array:
    """2-D convolution with a sparse kernel: `lrt_conv` without noise.

    Args:
      x: see `lrt_conv`, as the rest.
      mean: float32 ``[s]`` selected weights.
      index: flat positions.
      shape: the kernel's.
      strides: steps between outputs.
      padding: rows and columns of zeros.
      bias: None, or float32 ``[out]`` added to every output.
    """
    window = make_window(shape, strides, padding)
    bias = jnp.zeros(0, jnp.float32) if bias is None else bias
    _check(x, index, window, mean=mean, bias=bias)
    if bias.shape not in ((0,), (window.shape[3],)):
        raise InputError(
            f"bias: got shape {bias.shape}, allowed: ({window.shape[3]},), one value "
            "an output channel."
        )
    return _mean(x, mean, index, bias, window)


def _as_image(x: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, tuple[int, ...]]:
    """A dense layer as a 1x1 convolution of images of one pixel."""
    if len(shape) != 2:
        raise InputError(f"shape: got {tuple(shape)}, allowed: (in, out).")
    return x.reshape(-1, 1, 1, x.shape[-1]), (1, 1, *shape)


_ONE_PIXEL: dict[str, Any] = {"strides": (1, 1), "padding": ((0, 0), (0, 0))}


def lrt_dense(
    x: jax.Array,
    mean: jax.Array,
    sigma: jax.Array,
    index: jax.Array,
    shape: Sequence[int],
    key: jax.Array,
) -> jax.Array:
    """Samples ``[..., out]`` pre-activations of a dense layer; see `lrt_conv`."""
    images, kernel = _as_image(x, shape)
    y = lrt_conv(images, mean, sigma, index, kernel, key, **_ONE_PIXEL)
    return y.reshape(*x.shape[:-1], shape[1])


def dense(
    x: jax.Array,
    mean: jax.Array,
    index: jax.Array,
    shape: Sequence[int],
    bias: jax.Array | None = None,
) -> jax.Array:
    """Product of ``[..., in]`` inputs and a sparse ``[in, out]`` kernel; see `conv`."""
    images, kernel = _as_image(x, shape)
    y = conv(images, mean, index, kernel, **_ONE_PIXEL, bias=bias)
    return y.reshape(*x.shape[:-1], shape[1])

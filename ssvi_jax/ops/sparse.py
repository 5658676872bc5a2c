"""Layers on the selected weights only, in C++ behind XLA's foreign function interface.

The kernels in ``csrc/`` visit the s selected weights and nothing else: x is read
once, the noise is drawn where it is used, and besides y only ε/(2√v) is kept for the
gradient. Arrays of images are handed over with the batch innermost (``[h, w, c, n]``);
XLA keeps that layout through the elementwise operations between two layers. The noise
of a layer is `noise.normal` of the shape ``(h, w, c, n)``.
"""

import ctypes
import dataclasses
import functools
import os
from collections.abc import Sequence
from importlib import machinery
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from ssvi_jax.errors import InputError, check_choice

_HANDLERS = (
    *("ssvi_sample", "ssvi_sample_input", "ssvi_sample_weights"),
    *("ssvi_mean", "ssvi_mean_input", "ssvi_mean_weights"),
    *("ssvi_sample_gradients", "ssvi_mean_gradients", "ssvi_comoment"),
)
BATCH_LAST = (1, 2, 3, 0)
"""How axes of ``[batch, rows, columns, channels]`` lie in memory, major to minor."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A kernel's shape and how it slides over the images.

    Attributes:
      shape: ``(rows, columns, in, out)`` of the kernel.
      strides: steps between outputs.
      padding: (low, high) rows of zeros, then columns.
    """

    shape: tuple[int, int, int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    def output_shape(self, x: tuple[int, ...]) -> tuple[int, int, int, int]:
        """``[batch, rows, columns, out]`` for images of shape `x`."""
        rows, columns = (
            (size + sum(pad) - kernel) // stride + 1
            for size, pad, kernel, stride in zip(
                x[1:3], self.padding, self.shape[:2], self.strides, strict=True
            )
        )
        return x[0], rows, columns, self.shape[3]


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled kernels with their calls registered, or why there are none."""
    files = [
        Path(__file__).with_name("_sparse" + suffix)
        for suffix in machinery.EXTENSION_SUFFIXES
    ]
    found = next((file for file in files if file.exists()), None)
    if found is None:
        return (
            "the sparse kernels were not compiled; with a C++17 compiler installed, "
            "install ssvi_jax again"
        )
    try:
        loaded = ctypes.CDLL(str(found))
        for name in _HANDLERS:
            capsule = jax.ffi.pycapsule(getattr(loaded, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError) as error:
        return f"the sparse kernels do not load ({error}); install ssvi_jax again"
    loaded.ssvi_isa.restype = ctypes.c_char_p
    loaded.ssvi_multiply_adds.restype = ctypes.c_double
    loaded.ssvi_multiply_adds.argtypes = [ctypes.c_int64]
    return loaded


def available() -> bool:
    """Whether the compiled kernels can be used on this machine's CPU."""
    return not isinstance(library(), str)


def why_not() -> str:
    """Why `available` is false, and what to do; an empty string if it is true."""
    loaded = library()
    return loaded if isinstance(loaded, str) else ""


def instruction_sets() -> list[str]:
    """Names that ``SSVI_JAX_ISA`` may have on this processor, the best first."""
    loaded = library()
    if isinstance(loaded, str):
        return []
    names = ("avx512", "avx2", "generic")
    return [name for name in names if loaded.ssvi_isa(name.encode())]


def _attributes(window: Window) -> dict[str, Any]:
    """Static arguments of every call; the environment is for tests."""
    isa = os.environ.get("SSVI_JAX_ISA", "")
    if isa:
        check_choice("SSVI_JAX_ISA", isa, instruction_sets())
    low = [pad[0] for pad in window.padding]
    return {
        "window": np.array([*window.shape[:2], *window.strides, *low], np.int64),
        "isa": isa,
        "threads": np.int64(os.environ.get("SSVI_JAX_THREADS", "0")),
        "poison": np.bool_("SSVI_JAX_POISON" in os.environ),
    }


def call(
    name: str,
    window: Window,
    outputs: Sequence[tuple[int, ...]],
    *operands: jax.Array,
    **attributes: Any,
) -> list[jax.Array]:
    """One pass: a custom call; arrays of images have the batch innermost."""

    def layout(shape: tuple[int, ...]) -> tuple[int, ...]:
        return BATCH_LAST if len(shape) == 4 else tuple(range(len(shape)))

    function = jax.ffi.ffi_call(
        name,
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in outputs],
        vmap_method="sequential",
        input_layouts=[layout(a.shape) for a in operands],
        output_layouts=[layout(shape) for shape in outputs],
    )
    return list(function(*operands, **_attributes(window), **attributes))


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
) -> jax.Array:
    return _sample_call(x, mean, sigma, index, words, window)[0]


def _sample_call(x, mean, sigma, index, words, window: Window) -> list[jax.Array]:
    shape = window.output_shape(x.shape)
    return call("ssvi_sample", window, [shape, shape], x, mean, sigma, index, words)


def _sample_fwd(x, mean, sigma, index, words, window: Window) -> tuple[jax.Array, Any]:
    wanted = _wanted(x, mean, sigma)
    x, mean, sigma, index, words = (a.value for a in (x, mean, sigma, index, words))
    y, slope = _sample_call(x, mean, sigma, index, words, window)
    return y, {wanted: (x, mean, sigma, index, slope)}


def _sample_bwd(
    window: Window, kept: dict[str, tuple[jax.Array, ...]], g: Any
) -> tuple[jax.Array | None, ...]:
    ((wanted, (x, mean, sigma, index, slope)),) = kept.items()
    if isinstance(g, SymbolicZero):
        return (None,) * 5
    images, sizes = [x.shape], [mean.shape, mean.shape]
    operands = (g, slope, x, mean, sigma, index)
    if wanted == "input":
        (dx,) = call("ssvi_sample_input", window, images, *operands)
        return dx, None, None, None, None
    if wanted == "weights":
        dx = None
        dmean, dvariance = call(
            "ssvi_sample_weights", window, sizes, x, g, slope, index
        )
    else:
        dx, dmean, dvariance = call(
            "ssvi_sample_gradients", window, [*images, *sizes], *operands
        )
    return dx, dmean, 2.0 * sigma * dvariance, None, None


_sample.defvjp(_sample_fwd, _sample_bwd, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mean(
    x: jax.Array, mean: jax.Array, index: jax.Array, bias: jax.Array, window: Window
) -> jax.Array:
    shape = window.output_shape(x.shape)
    none = jnp.zeros((0, 0, 0, 0), jnp.float32)
    operands = (x, mean, index, bias, none)
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


def _window(
    shape: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Window:
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
    window = _window(shape, strides, padding)
    _check(x, index, window, mean=mean, sigma=sigma)
    words = jax.random.bits(key, (2,), jnp.uint32)
    return _sample(x, mean, sigma, index, words, window)


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
    window = _window(shape, strides, padding)
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

"""Dense and convolution products, each pass in the form that its device runs fastest.

XLA's CPU convolution is as fast as its matrix product as long as the operands are laid
out NHWC, HWIO; in any other order it falls back, inside a loop, to a code 18 times
slower. The transposed convolutions that JAX derives are of that kind, so on a CPU the
gradients are written here: of the input as a convolution in the good order, of the
kernel as a matrix product with the input's patches, a few images at a time so that
patches stay in the cache. On other devices JAX's own gradients are used.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Rows of patches a product: the best of 512 to 32768 for the layers of ResNet-18.
_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel slides over its input: one entry a spatial dimension.

    Attributes:
      strides: steps between outputs.
      padding: (low, high) rows of zeros.
      dilation: distance between the kernel's taps.
      groups: number of groups that the channels are split into.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def make(
        cls,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        rhs_dilation: Sequence[int] | None,
        groups: int,
    ) -> "Window":
        """A hashable window from the arguments of `conv`."""
        return cls(
            tuple(strides),
            tuple((int(low), int(high)) for low, high in padding),
            tuple(rhs_dilation or (1,) * len(strides)),
            groups,
        )


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Matrix product of ``[..., in]`` inputs and an ``[in, out]`` kernel."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> jax.Array:
    """Convolution (cross-correlation) with channels last.

    Args:
      x: ``[batch, *spatial, in]``.
      kernel: ``[*window, in / groups, out]``.
      strides: one a spatial dimension.
      padding: (low, high) rows of zeros, one pair a spatial dimension.
      rhs_dilation: distance between the kernel's taps, one a spatial dimension.
      groups: number of groups the channels are split into.

    Returns:
      ``[batch, *spatial out, out]``.
    """
    window = Window.make(strides, padding, rhs_dilation, groups)
    return conv_powers(x, (kernel,), window)[0]


def conv_powers(
    x: jax.Array, kernels: tuple[jax.Array, ...], window: Window
) -> tuple[jax.Array, ...]:
    """Convolutions of x, x², … with one kernel each.

    Args:
      x: ``[batch, *spatial, in]``.
      kernels: one or more kernels of one shape, the first for x, the second for x².
      window: how they slide.
    """
    return _conv_powers(x, kernels, window)


def _forward(
    x: jax.Array, kernels: tuple[jax.Array, ...], window: Window
) -> tuple[jax.Array, ...]:
    return tuple(
        _convolve(power, kernel, window)
        for power, kernel in zip(_powers(x, len(kernels)), kernels, strict=True)
    )


def _powers(x: jax.Array, count: int) -> list[jax.Array]:
    powers = [x]
    for _ in range(count - 1):
        powers.append(powers[-1] * x)
    return powers


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    window: Window,
    lhs_dilation: tuple[int, ...] | None = None,
) -> jax.Array:
    native = partial(_native, window=window, lhs_dilation=lhs_dilation)
    # XLA's CPU convolution is 30 times slower on images smaller than the kernel, and
    # where they are spread it swaps the two and aborts the process (jaxlib 0.10.2).
    small = any(n < k for n, k in zip(x.shape[1:-1], kernel.shape[:-2], strict=True))
    if not small or window.groups != 1:
        return native(x, kernel)
    product = partial(_patch_product, window=window, lhs_dilation=lhs_dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=product, default=native)


def _native(
    x: jax.Array,
    kernel: jax.Array,
    *,
    window: Window,
    lhs_dilation: tuple[int, ...] | None,
) -> jax.Array:
    spatial = "".join(map(str, range(x.ndim - 2)))
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation,
        window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=window.groups,
    )


def _patch_product(
    x: jax.Array,
    kernel: jax.Array,
    *,
    window: Window,
    lhs_dilation: tuple[int, ...] | None,
) -> jax.Array:
    patches = make_patches(x, kernel.shape[:-2], window, lhs_dilation)
    return dense(patches, kernel.reshape(-1, kernel.shape[-1]))


Operands = tuple[jax.Array, tuple[jax.Array, ...]]


def _powers_fwd(
    x: jax.Array, kernels: tuple[jax.Array, ...], window: Window
) -> tuple[tuple[jax.Array, ...], Operands]:
    return _forward(x, kernels, window), (x, kernels)


def _powers_bwd(
    window: Window, operands: Operands, cotangents: tuple[jax.Array, ...]
) -> Operands:
    native = partial(_native_gradients, window=window)
    if window.groups != 1:
        return native(operands, cotangents)
    written = partial(_written_gradients, window=window)
    return jax.lax.platform_dependent(operands, cotangents, cpu=written, default=native)


_conv_powers = jax.custom_vjp(_forward, nondiff_argnums=(2,))
_conv_powers.defvjp(_powers_fwd, _powers_bwd)


def _native_gradients(
    operands: Operands, cotangents: tuple[jax.Array, ...], *, window: Window
) -> Operands:
    forward = partial(_forward, window=window)
    return jax.vjp(forward, *operands)[1](cotangents)


def _written_gradients(
    operands: Operands, cotangents: tuple[jax.Array, ...], *, window: Window
) -> Operands:
    x, kernels = operands
    dx = jnp.zeros_like(x)
    for i, (g, kernel) in enumerate(zip(cotangents, kernels, strict=True)):
        dpower = _input_gradient(g, kernel, x.shape, window)
        dx = dx + (dpower if i == 0 else (i + 1) * x**i * dpower)
    return dx, _kernel_gradients(x, cotangents, kernels[0].shape, window)


def _input_gradient(
    g: jax.Array, kernel: jax.Array, shape: tuple[int, ...], window: Window
) -> jax.Array:
    """The convolution of g, spread by the strides, with the kernel turned around."""
    rank = len(window.strides)
    turned = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
    padding = []
    for i, (low, _) in enumerate(window.padding):
        reach = (kernel.shape[i] - 1) * window.dilation[i]
        spread = (g.shape[i + 1] - 1) * window.strides[i] + 1
        padding.append((reach - low, shape[i + 1] - spread + low))
    backward = Window((1,) * rank, tuple(padding), window.dilation, 1)
    return _convolve(g, turned, backward, lhs_dilation=window.strides)


def _kernel_gradients(
    x: jax.Array, cotangents: tuple[jax.Array, ...], shape: tuple[int, ...], w: Window
) -> tuple[jax.Array, ...]:
    """Products of each cotangent with the patches of its power of x."""
    images, channels = x.shape[0], shape[-1]
    positions = int(np.prod(cotangents[0].shape[1:-1]))
    size = max(
        b
        for b in range(1, images + 1)
        if images % b == 0 and (b == 1 or b * positions <= _ROWS)
    )

    def add(
        sums: list[jax.Array], chunk: tuple[jax.Array, tuple[jax.Array, ...]]
    ) -> tuple[list[jax.Array], None]:
        part, gs = chunk
        patches = make_patches(part, shape[:-2], w).reshape(size * positions, -1)
        terms = [
            jax.lax.dot_general(
                g.reshape(-1, channels), power, (((0,), (0,)), ((), ()))
            )
            for g, power in zip(gs, _powers(patches, len(gs)), strict=True)
        ]
        return jax.tree.map(jnp.add, sums, terms), None

    zeros = [jnp.zeros((channels, int(np.prod(shape[:-1]))), x.dtype)] * len(cotangents)
    chunks = jax.tree.map(
        lambda a: a.reshape(images // size, size, *a.shape[1:]), (x, cotangents)
    )
    sums, _ = jax.lax.scan(add, zeros, chunks)
    return tuple(total.T.reshape(shape) for total in sums)


def make_patches(
    x: jax.Array,
    taps: tuple[int, ...],
    window: Window,
    lhs_dilation: tuple[int, ...] | None = None,
    axis: int = -1,
) -> jax.Array:
    """``[batch, *spatial out, taps * in]``: the inputs under every output position.

    Args:
      x: ``[batch, *spatial, in]``, or ``[in, *spatial, batch]`` with axis 0.
      taps: spatial shape of the kernel.
      window: how it slides.
      lhs_dilation: distance to which inputs are spread.
      axis: the axis of the channels, first or last.
    """
    between = [d - 1 for d in lhs_dilation or (1,) * len(taps)]
    edges = [
        (low, high, n) for (low, high), n in zip(window.padding, between, strict=True)
    ]
    zero = jnp.zeros((), x.dtype)
    x = jax.lax.pad(x, zero, ((0, 0, 0), *edges, (0, 0, 0)))
    sizes = x.shape[1:-1]
    slices = []
    for tap in np.ndindex(*taps):
        starts = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        ends = [
            size - (k - 1 - t) * d
            for size, k, t, d in zip(sizes, taps, tap, window.dilation, strict=True)
        ]
        strided = map(slice, starts, ends, window.strides)
        slices.append(x[(slice(None), *strided)])
    return jnp.concatenate(slices, axis=axis)

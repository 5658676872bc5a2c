"""Which code multiplies: XLA's dense products or the compiled sparse kernels."""

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.core.types import PackedKernel
from ssvi_jax.ops import custom_calls, probe, sparse
from ssvi_jax.ops.convolution import Window

BACKENDS = ("auto", "xla", "sparse")

CROSSOVER = 0.5
"""Densest network for which "auto" takes the sparse kernels. On the machine where both
were timed (results/benchmarks/sparse.json) a step of ResNet-18 takes as long on either
backend at a density of 1, and half as long here at 0.5: room for other networks and
processors."""


def choose(asked: str, density: float) -> str:
    """The backend of a network on JAX's default device.

    Args:
      asked: one of `BACKENDS`.
      density: fraction of the kernel weights that are kept.

    Returns:
      "xla" or "sparse".

    Raises:
      InputError: an unknown name, or "sparse" where the kernels cannot run.
    """
    check_choice("backend", asked, BACKENDS)
    platform = jax.default_backend()
    if asked == "sparse" and (platform != "cpu" or not custom_calls.available()):
        why = custom_calls.why_not() if platform == "cpu" else f"JAX runs on {platform}"
        raise InputError(f"backend: got sparse, but {why}. Use xla, or auto.")
    if asked != "auto":
        return asked
    fast = platform == "cpu" and custom_calls.available() and density <= CROSSOVER
    return "sparse" if fast else "xla"


def slower_because(asked: str, density: float) -> str:
    """Why a sparse network on a CPU goes without the kernels; empty if it does not."""
    wanted = asked == "auto" and density <= CROSSOVER
    on_cpu = jax.default_backend() == "cpu"
    return custom_calls.why_not() if wanted and on_cpu else ""


def why_xla(asked: str, density: float) -> str:
    """Why `choose` takes XLA."""
    if asked == "xla":
        return "asked for"
    if density > CROSSOVER:
        return f"a density of {density:.2f} is above {CROSSOVER}"
    if jax.default_backend() != "cpu":
        return f"JAX runs on {jax.default_backend()}"
    return custom_calls.why_not()


def takes_conv(x: jax.Array, kernel: PackedKernel, window: Window) -> bool:
    """Whether the sparse kernels compute this convolution."""
    return not refuses_conv(x, kernel, window)


def refuses_conv(x: jax.Array, kernel: PackedKernel, window: Window) -> str:
    """Why the sparse kernels do not compute this convolution; empty: they do."""
    if x.ndim != 4:
        return f"a convolution over {x.ndim - 2} axes, needed: 2"
    if window.groups != 1:
        return f"{window.groups} groups, needed: 1"
    if window.dilation != (1, 1):
        return "a dilated window"
    if min(low for pair in window.padding for low in pair) < 0:
        return "negative padding"
    return _refuses(x, kernel)


def takes_dense(x: jax.Array, kernel: PackedKernel) -> bool:
    """Whether the sparse kernels compute this product."""
    return not refuses_dense(x, kernel)


def refuses_dense(x: jax.Array, kernel: PackedKernel) -> str:
    """Why the sparse kernels do not compute this product; empty: they do."""
    return "inputs without a batch axis" if x.ndim < 2 else _refuses(x, kernel)


def _refuses(x: jax.Array, kernel: PackedKernel) -> str:
    if kernel.backend != "sparse":
        return f"the backend is {kernel.backend}"
    if not x.dtype == kernel.mean.dtype == jnp.float32:
        return f"{x.dtype} inputs, needed: float32"
    return "" if x.size else "no inputs"


def conv(
    x: jax.Array, kernel: PackedKernel, key: jax.Array, window: Window
) -> jax.Array:
    """`lrt_conv` by the sparse kernels."""
    slide = {"strides": window.strides, "padding": window.padding}
    if kernel.sigma is None:
        y = sparse.conv(x, kernel.mean, kernel.index, kernel.shape, **slide)
    else:
        y = sparse.lrt_conv(
            x, kernel.mean, kernel.sigma, kernel.index, kernel.shape, key, **slide
        )
    return y if kernel.probe is None else probe.conv(y, x, kernel.probe, window)


def dense(x: jax.Array, kernel: PackedKernel, key: jax.Array) -> jax.Array:
    """`lrt_dense` by the sparse kernels."""
    if kernel.sigma is None:
        y = sparse.dense(x, kernel.mean, kernel.index, kernel.shape)
    else:
        y = sparse.lrt_dense(
            x, kernel.mean, kernel.sigma, kernel.index, kernel.shape, key
        )
    return y if kernel.probe is None else probe.dense(y, x, kernel.probe)

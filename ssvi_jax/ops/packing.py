"""From packed values to full arrays and back."""

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import PackedKernel


def scatter(values: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The array of the given shape that holds `values` at `index` and 0 elsewhere.

    The gradient with respect to the values is the gather at the same positions.

    Args:
      values: ``[s]``.
      index: int32 ``[s]``, sorted flat positions without repetition, all in range.
      shape: shape of the result.
    """
    return _scatter(values, index, shape)


def _set(values: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    flat = jnp.zeros(int(np.prod(shape)), values.dtype)
    return (
        flat.at[index]
        .set(
            values,
            indices_are_sorted=True,
            unique_indices=True,
            mode="promise_in_bounds",
        )
        .reshape(shape)
    )


def _scatter_fwd(
    values: jax.Array, index: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    return _set(values, index, shape), index


def _scatter_bwd(
    shape: tuple[int, ...], index: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, None]:
    del shape
    gathered = cotangent.reshape(-1).at[index].get(mode="promise_in_bounds")
    return gathered, None


_scatter = jax.custom_vjp(_set, nondiff_argnums=(2,))
_scatter.defvjp(_scatter_fwd, _scatter_bwd)


def unpack(kernel: PackedKernel) -> tuple[jax.Array, ...]:
    """Mean (with the probe added) and variance of a kernel, both of its full shape.

    Without noise the mean alone.
    """
    mean = scatter(kernel.mean, kernel.index, kernel.shape)
    mean = mean if kernel.probe is None else mean + kernel.probe
    if kernel.sigma is None:
        return (mean,)
    return mean, scatter(jnp.square(kernel.sigma), kernel.index, kernel.shape)

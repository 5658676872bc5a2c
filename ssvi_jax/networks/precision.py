"""Training with activations and products in bfloat16.

Only what a network computes with is rounded: its inputs, parameters and packed kernels,
and so every activation. What is added up over a training stays float32: means, standard
deviations, moments, the KL, running statistics, and the likelihood of the logits. Their
gradients come back through the rounding in float32. Predictions are not rounded.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import check_choice

PRECISIONS = ("float32", "bfloat16")


def train_in(precision: str, apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A network that computes in this precision where `train` is set.

    Its Bayesian kernels, packed in float32, are rounded by the layer that multiplies
    by them; the sparse kernels of the CPU are float32 only, so XLA multiplies.

    Args:
      precision: one of `PRECISIONS`; "float32" gives the network itself.
      apply_fn: a `types.ApplyFn`.

    Raises:
      InputError: an unknown precision.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return apply_fn

    def rounded(params, model_state, x, *, train, **options):
        if not train:
            return apply_fn(params, model_state, x, train=False, **options)
        params, x = jax.tree.map(_round, (params, x))
        output, model_state = apply_fn(params, model_state, x, train=True, **options)
        return jax.tree.map(_widen, output), jax.tree.map(_widen, model_state)

    return rounded


def _round(array: jax.Array) -> jax.Array:
    return array.astype(jnp.bfloat16) if array.dtype == jnp.float32 else array


def _widen(array: jax.Array) -> jax.Array:
    return array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array

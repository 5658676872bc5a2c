"""Linen's batch norm in training, between layers that the sparse kernels compute.

The same numbers as `flax.linen.BatchNorm` gives, by sums in the kernels' memory layout
(see `ops.norm`). Anything unusual (an axis name, a mask, another type, other axes) and
evaluation, which sums nothing, are left to linen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssvi_jax.ops import norm
from ssvi_jax.products import Products


def takes(
    products: Products, context: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether this call of a module is a batch norm that `apply` computes."""
    module = context.module
    if type(module) is not nn.BatchNorm or context.method_name != "__call__":
        return False
    sparse = any(k.backend == "sparse" for k in products.kernels.values())
    if (
        not sparse
        or len(args) != 1
        or kwargs
        or module.use_running_average is not False
    ):
        return False
    x = args[0]
    return (
        x.ndim == 4
        and x.dtype == module.param_dtype == jnp.float32
        and module.dtype in (None, jnp.float32)
        and module.axis in (-1, 3)
        and module.axis_name is None
        and module.use_bias
        and module.use_scale
        and not module.is_initializing()
    )


def apply(module: Any, x: jax.Array) -> jax.Array:
    """Normalizes a batch and moves the running statistics; inside the module's call."""
    shape = (x.shape[-1],)
    means: Any = module.variable("batch_stats", "mean", jnp.zeros, shape)
    variances: Any = module.variable("batch_stats", "var", jnp.ones, shape)
    scale = module.param("scale", module.scale_init, shape, module.param_dtype)
    bias = module.param("bias", module.bias_init, shape, module.param_dtype)
    y, mean, variance = norm.batch_norm(x, scale, bias, module.epsilon)
    rest = 1 - module.momentum
    means.value = module.momentum * means.value + rest * mean
    variances.value = module.momentum * variances.value + rest * variance
    return y

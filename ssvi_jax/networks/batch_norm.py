"""Flax's batch norms in training: between sparse layers, and in shards of a batch.

Between layers that the sparse kernels compute, linen's is replaced: the same numbers as
`flax.linen.BatchNorm` gives, by sums in the kernels' memory layout (see `ops.norm`).
Anything unusual (an axis name, a mask, another type, other axes) and evaluation, which
sums nothing, are left to linen. In a shard (see `ops.shard`) statistics are those of
the whole batch, whoever computes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from ssvi_jax.networks.layers import Products
from ssvi_jax.ops import norm, shard


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
        and not module.is_initializing()
    )


def apply(module: Any, x: jax.Array) -> jax.Array:
    """Normalizes a batch and moves the running statistics; inside the module's call."""
    shape = (x.shape[-1],)
    means: Any = module.variable("batch_stats", "mean", jnp.zeros, shape)
    variances: Any = module.variable("batch_stats", "var", jnp.ones, shape)
    scale, bias = jnp.ones(shape), jnp.zeros(shape)
    if module.use_scale:
        scale = module.param("scale", module.scale_init, shape, module.param_dtype)
    if module.use_bias:
        bias = module.param("bias", module.bias_init, shape, module.param_dtype)
    y, mean, variance = norm.batch_norm(x, scale, bias, module.epsilon)
    rest = 1 - module.momentum
    means.value = module.momentum * means.value + rest * mean
    variances.value = module.momentum * variances.value + rest * variance
    return y


@contextmanager
def over_shards(context: Any) -> Iterator[None]:
    """Makes linen's batch norm take the statistics of all shards, for one call of it.

    A batch norm that names an axis itself is left alone.
    """
    module = context.module
    if (
        not shard.is_shard()
        or not isinstance(module, nn.BatchNorm)
        or context.method_name != "__call__"
        or module.axis_name is not None
    ):
        yield
        return
    # Linen modules are frozen; this is undone before anyone else can look.
    object.__setattr__(module, "axis_name", shard.AXIS)
    try:
        yield
    finally:
        object.__setattr__(module, "axis_name", None)


def name_axis(layer: nnx.Module) -> None:
    """The same for a layer of an nnx module; for good, so give it a copy."""
    is_norm = isinstance(layer, nnx.BatchNorm)
    if is_norm and shard.is_shard() and layer.axis_name is None:
        layer.axis_name = shard.AXIS

"""The seam between the method and the machine: products, packing, sampled layers."""

from ssvi_jax.ops import noise
from ssvi_jax.ops.lrt import lrt_conv, lrt_dense
from ssvi_jax.ops.packing import scatter, unpack
from ssvi_jax.ops.products import conv, dense

__all__ = ["conv", "dense", "lrt_conv", "lrt_dense", "noise", "scatter", "unpack"]

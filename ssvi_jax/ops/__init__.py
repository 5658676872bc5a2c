"""The seam between the method and the machine: products, packing, sampled layers."""

from ssvi_jax.ops import noise
from ssvi_jax.ops.convolution import conv, dense
from ssvi_jax.ops.local_reparam import lrt_conv, lrt_dense
from ssvi_jax.ops.packing import scatter, unpack

__all__ = ["conv", "dense", "lrt_conv", "lrt_dense", "noise", "scatter", "unpack"]

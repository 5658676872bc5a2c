"""Packed kernels at their full shape."""

import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import PackedKernel
from ssvi_jax.ops import packing


def test_mean_and_variance_of_a_kernel():
    rng = np.random.default_rng(0)
    index = np.array([0, 3, 4, 11, 19], np.int32)
    mean, sigma = rng.normal(size=5), rng.uniform(0.1, 1, 5)
    expected = np.zeros((2, 20))
    expected[0, index], expected[1, index] = mean, sigma**2
    kernel = PackedKernel(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(sigma, jnp.float32),
        jnp.asarray(index),
        (4, 5),
    )
    for got, wanted in zip(packing.unpack(kernel), expected, strict=True):
        np.testing.assert_allclose(got, wanted.reshape(4, 5), rtol=1e-6)

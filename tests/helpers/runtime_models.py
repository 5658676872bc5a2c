"""Networks of users' kinds with weights as if trained, saved for the runtime."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ssvi_jax
from ssvi_jax.core import trees
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import Gaussian, Point, Weights
from ssvi_jax.training.fitted import Fitted, describe_model
from ssvi_jax.vi.likelihoods import Categorical


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.gelu(nn.Dense(24)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        x = nn.LayerNorm()(jnp.tanh(nn.Dense(16)(x)))
        return nn.Dense(5)(nn.leaky_relu(x))


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(12, 20, rngs=rngs)
        self.norm = nnx.BatchNorm(20, rngs=rngs)
        self.second = nnx.Linear(20, 5, rngs=rngs)

    def __call__(self, x, *, train=False):
        x = self.norm(self.first(x), use_running_average=not train)
        return self.second(nnx.silu(x))


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(12, (3, 3), kernel_dilation=2, padding="SAME")(x))
        x = nn.avg_pool(x, (3, 3), (2, 2), padding="SAME")
        x = nn.elu(nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x))
        return nn.Dense(5)(x.reshape(len(x), -1))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        def norm(y):
            return nn.BatchNorm(use_running_average=not train)(y)

        x = nn.relu(norm(nn.Conv(8, (3, 3), use_bias=False)(x)))
        for channels, stride in ((8, 1), (12, 2)):
            y = nn.relu(norm(nn.Conv(channels, (3, 3), (stride, stride))(x)))
            y = norm(nn.Conv(channels, (3, 3), use_bias=False)(y))
            if stride > 1:
                x = norm(nn.Conv(channels, (1, 1), (stride, stride))(x))
            x = nn.relu(x + y)
        return nn.Dense(5)(x.mean((1, 2)))


class Depthwise(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(12, (1, 1))(x))
        x = nn.Conv(12, (3, 3), (2, 2), feature_group_count=12)(x)
        x = nn.GroupNorm(num_groups=3)(nn.hard_swish(x))
        x = nn.relu(nn.Conv(16, (3, 3), feature_group_count=4, kernel_dilation=2)(x))
        return nn.Dense(5)(x.max((1, 2)))


class VisionTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), (4, 4), padding="VALID")(x)
        x = x.reshape(len(x), -1, 16)
        token = self.param("token", nn.initializers.normal(), (1, 1, 16))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 16)), x], axis=1)
        x = x + self.param("place", nn.initializers.normal(), (1, x.shape[1], 16))
        for _ in range(1):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(y, y)
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(5)(nn.LayerNorm()(x)[:, 0])


class Lstm(nn.Module):
    @nn.compact
    def __call__(self, series):
        x: Any = nn.RNN(nn.LSTMCell(8))(series)
        x = nn.RNN(nn.GRUCell(6), reverse=True, keep_order=True)(x)
        return nn.Dense(5)(x[:, -1])


class Normed(nn.Module):
    """A kernel that is normalized before it multiplies, and a convolution of series."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3,), (2,))(x))
        return nn.WeightNorm(nn.Dense(5))(x.mean(1))


IMAGE, SERIES = (9, 8, 3), (3, 4)
KINDS = {
    "mlp": (Mlp(), (12,)),
    "nnx mlp": (NnxMlp(nnx.Rngs(0)), (12,)),
    "cnn": (Cnn(), IMAGE),
    "resnet": (ResNet(), IMAGE),
    "depthwise": (Depthwise(), IMAGE),
    "vision transformer": (VisionTransformer(), (8, 8, 3)),
    "lstm": (Lstm(), SERIES),
    "weight norm": (Normed(), SERIES),
}
"""Name → module and shape of an input."""


def inputs(shape, number=37) -> np.ndarray:
    """Inputs, more than the runtime takes at a time."""
    return np.random.default_rng(1).normal(size=(number, *shape)).astype(np.float32)


def fitted(
    module, x, *, density=0.4, sigma=0.1, likelihood=None, bayesian=True
) -> Fitted:
    """A network with a posterior and statistics that are not as at the beginning."""
    rng = np.random.default_rng(0)
    net, params, state = ssvi_jax.from_flax(module, x[:2], key=jax.random.key(0))
    kernels, rest = trees.split(params) if bayesian else ({}, params)
    masks = {path: rng.random(leaf.shape) < density for path, leaf in kernels.items()}
    posterior = {}
    for path, mask in masks.items():
        mean = np.asarray(kernels[path])[mask] / np.sqrt(density)
        rho = np.log(np.expm1((sigma or 1) * rng.uniform(0.5, 2, mean.shape)))
        posterior[path] = (
            Gaussian(jnp.asarray(mean), jnp.asarray(rho, jnp.float32))
            if sigma
            else Point(jnp.asarray(mean))
        )

    def moved(leaf):
        if leaf.dtype != np.float32:
            return leaf
        return leaf + jnp.asarray(rng.uniform(0, 0.3, leaf.shape), jnp.float32)

    rest, state = jax.tree.map(moved, rest), jax.tree.map(moved, state)
    describes = describe_model(Structure(), x[:2], noise=False)
    return Fitted(
        net,
        Weights(posterior, rest, state),
        masks,
        likelihood or Categorical(),
        {},
        describes=describes,
    )

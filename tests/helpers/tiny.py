"""Tiny networks, variational inference on them, and comparisons of what comes out."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ssvi_jax import ops, vi
from ssvi_jax.core import trees
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.networks import adapters
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import priors

KEY = jax.random.key(0)

# Compiling is nearly all that these tests do.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def mlp(params, model_state, x, *, train, key, kernels=None):
    """Two dense layers, tanh between them, and a count of the training passes."""
    for i, name in enumerate(("a", "b")):
        path = f"{name}/kernel"
        if kernels is None:
            x = x @ params[name]["kernel"]
        else:
            x = ops.lrt_dense(x, kernels[path], jax.random.fold_in(key, i))
        x = x + params[name]["bias"][None]
        x = jnp.tanh(x) if name == "a" else x
    return x, {"passes": model_state["passes"] + train}


def mlp_params(inputs=5, hidden=4, classes=3):
    rng = np.random.default_rng(0)
    shapes = {"a": (inputs, hidden), "b": (hidden, classes)}
    return {
        name: {
            "kernel": jnp.zeros(shape),
            "bias": jnp.array(rng.normal(size=shape[1:]), jnp.float32),
        }
        for name, shape in shapes.items()
    }


def mlp_problem(seed=0, *, tx=None, num=12, **options):
    """A VI over `mlp` with half of the weights selected, its state, masks, and data."""
    tx = optax.adam(0.05) if tx is None else tx
    inference = vi.VI(mlp, tx, num, priors.GaussianPrior(0.8), **options)
    params, rng = mlp_params(), np.random.default_rng(1)
    shapes = inference.kernel_shapes(params)
    counts = {path: math.prod(shape) // 2 for path, shape in shapes.items()}
    masks = masks_lib.random_masks(shapes, counts, rng)
    state = inference.init(
        jax.random.key(seed),
        params,
        {"passes": jnp.zeros((), jnp.int32)},
        masks,
        mean_std=0.5,
        sigma_init=(0.3, 0.0),
    )
    x = jnp.array(rng.normal(size=(num, 5)), jnp.float32)
    labels = jnp.array(rng.integers(0, 3, num), jnp.int32)
    return inference, state, masks, (x, labels)


def host(tree):
    """A copy on the host (donation cannot reach it), keys as numbers."""
    return jax.tree.map(
        lambda a: np.array(
            jax.random.key_data(a)
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
            else a
        ),
        tree,
    )


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, host(a), host(b))


def assert_close(a, b, tolerance=1e-5):
    a, b = (jax.tree.map(lambda v: np.asarray(v, np.float32), tree) for tree in (a, b))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=10 * tolerance, atol=tolerance), a, b
    )


def is_weight(path, leaf):
    return leaf.ndim >= 2


def random_weights(params, model_state, *, sigma, density=0.6):
    """Weights with a sparse Gaussian on every array of two or more dimensions."""
    chosen, rest = trees.split(params, is_weight)
    rng = np.random.default_rng(0)
    masks = {path: rng.random(leaf.shape) < density for path, leaf in chosen.items()}
    sub = masks_lib.to_subspace(masks)
    packed = {}
    for path, mask in masks.items():
        mean = rng.normal(size=mask.sum()).astype(np.float32) / 2
        packed[path] = Gaussian(mean, np.full_like(mean, np.log(np.expm1(sigma))))
    return Weights(packed, rest, model_state), sub


def from_flax(module, x) -> tuple[Any, Any, Any]:
    """`adapters.from_flax`, without compiling a linen module's initialization."""
    if isinstance(module, nnx.Module):
        return adapters.from_flax(module)
    model, rng = adapters.LinenModel(module), np.random.default_rng(1)
    variables = jax.eval_shape(model.init, KEY, x)
    return model, *jax.tree.map(
        lambda v: jnp.array(rng.random(v.shape), v.dtype), variables
    )


def draw_epsilon(key, shape, order):
    """A layer's noise in float64, counted with the axes of its shape in this order."""
    drawn = np.float64(ops.noise.normal(key, tuple(shape[axis] for axis in order)))
    return np.transpose(drawn, [order.index(axis) for axis in range(len(shape))])

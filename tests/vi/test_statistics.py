"""Running statistics gathered again, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ssvi_jax
from ssvi_jax.vi import statistics

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(2.0, 3.0, (64, 5)).astype(np.float32)
Y = np.zeros(64, np.int32)
SCALE = 2.1  # seven of it, added and divided by seven, are another number


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        fixed = self.variable("fixed", "scale", lambda: jnp.full(5, SCALE)).value
        x = nn.Dense(4, name="dense")(x * fixed[None])
        x = nn.BatchNorm(use_running_average=not train, momentum=0.7)(x)
        return nn.Dense(3)(nn.relu(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.dense(x))))


def fitted(module, method):
    network = ssvi_jax.from_flax(module, X[:2], key=KEY)
    return ssvi_jax.fit(method, network, (X, Y), steps=10, batch_size=16, key=KEY)


def moments(fit, rows, times):
    params = fit.params
    layer = params["dense"]
    y = np.asarray(X[rows] * times, np.float64) @ np.asarray(
        layer["kernel"], np.float64
    ) + np.float64(layer["bias"])
    return y.mean(axis=0), y.var(axis=0)


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_they_are_the_moments_of_the_mean_network(library):
    """One batch of all inputs: their mean and variance, whatever the momentum."""
    module = Linen() if library == "linen" else Nnx(nnx.Rngs(0))
    fit = fitted(module, ssvi_jax.SSVI(sparsity=0.3))
    state = statistics.gathered(
        fit.apply_fn, fit.weights, fit.masks, X, key=KEY, sampled=False
    )
    mean, var = moments(fit, slice(None), SCALE if library == "linen" else 1.0)
    found = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    own = {name: v for name, v in found.items() if "mean" in name or "var" in name}
    assert len(own) == 2
    for name, leaf in own.items():
        np.testing.assert_allclose(
            leaf, mean if "mean" in name else var, rtol=1e-4, err_msg=name
        )
    if library == "linen":
        np.testing.assert_array_equal(state["fixed"]["scale"], np.float32(SCALE))


def test_batches_are_averaged():
    fit = fitted(Linen(), ssvi_jax.Static(sparsity=0.3))
    state = statistics.gathered(
        fit.apply_fn, fit.weights, fit.masks, X, key=KEY, batch_size=16, num_batches=4
    )
    (layer,) = state["batch_stats"].values()
    mean, var = moments(fit, slice(None), SCALE)
    np.testing.assert_allclose(layer["mean"], mean, rtol=1e-4)
    # Of equal batches the mean of variances is the variance less that of the means.
    assert (np.asarray(layer["var"]) < var).all()


def test_what_is_no_statistic_keeps_every_bit():
    fit = fitted(Linen(), ssvi_jax.Static(sparsity=0.3))
    state = statistics.gathered(
        fit.apply_fn, fit.weights, fit.masks, X, key=KEY, batch_size=9, num_batches=7
    )
    np.testing.assert_array_equal(state["fixed"]["scale"], np.float32(SCALE))


def test_statistics_of_draws_see_their_noise():
    method = ssvi_jax.SSVI(sparsity=0.3, sigma_init=0.5)
    fit = fitted(Linen(), method)
    both = [
        statistics.gathered(
            fit.apply_fn, fit.weights, fit.masks, X, key=KEY, sampled=sampled
        )["batch_stats"]["BatchNorm_0"]["var"]
        for sampled in (True, False)
    ]
    assert not np.allclose(*both, rtol=0.05)

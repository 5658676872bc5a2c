"""IVON with nothing but its defaults: on regression, and what it logs."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.vi import posterior as posterior_lib

KEY = jax.random.key(0)
METHODS = [ssvi_jax.IVON(), ssvi_jax.SSVIIvon(sparsity=0.5)]


def waves(n=1000):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    return x, np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=n)


def fit(method, likelihood, outputs=1, **options):
    x, y = waves()
    module = nn.Sequential([nn.Dense(50), nn.tanh, nn.Dense(outputs)])
    network = ssvi_jax.from_flax(module, x[:1], key=KEY)
    return ssvi_jax.fit(method, network, (x, y), likelihood=likelihood, **options)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_regression_with_little_noise_does_not_diverge(method):
    """The Hessian is 1 / 0.1² times that of the outputs, far above h₀."""
    x, y = waves()
    found = fit(method, ssvi_jax.Normal(0.1), epochs=30)
    error = np.sqrt(np.mean((found.predict(x).mean.reshape(-1) - y) ** 2))
    assert error < 0.3  # y has a standard deviation of 0.74


@pytest.mark.parametrize("prior", ["weight_decay", "empirical"])
def test_the_logged_kl_is_that_to_the_prior_in_use(prior):
    method = ssvi_jax.IVON(layer_prior=prior)
    found = fit(method, ssvi_jax.Normal(0.1), steps=20, inner_steps=1)
    decay = method.optimizer().weight_decay
    total = 0.0
    for q in found.weights.posterior.values():
        assert isinstance(q, Gaussian)
        mean = np.asarray(q.mean, np.float64)
        sigma = np.asarray(posterior_lib.to_sigma(q.rho), np.float64)
        second = mean**2 + sigma**2
        variance = (
            second.mean() if prior == "empirical" else 1 / (len(waves()[0]) * decay)
        )
        ratio = second / variance
        total += 0.5 * np.sum(ratio - 1 + np.log(variance) - 2 * np.log(sigma))
    # It is logged at the weights before the step.
    assert found.history[-1]["kl"] == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_an_optimizer_that_does_not_fit_says_what_does(method):
    for optimizer in (ssvi_jax.Sgd(), optax.adam(1e-3)):
        with pytest.raises(InputError, match=r"by dataclasses\.replace") as caught:
            fit(method, ssvi_jax.Normal(0.1), steps=1, optimizer=optimizer)
        assert method.name in str(caught.value)
    own = dataclasses.replace(method.optimizer(), weight_decay=1e-3)
    found = fit(method, ssvi_jax.Normal(0.1), steps=2, optimizer=own)
    assert math.isfinite(found.history[-1]["loss"])

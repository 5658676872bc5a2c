"""The masked ELBO against closed forms, smaller networks, and brute force."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import assert_equal, mlp, mlp_problem

from ssvi_jax import ops, vi
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior, priors

NOISE_STD, PRIOR_STD = 0.5, 0.8


def linear(params, model_state, x, *, train, key, kernels=None):
    """One dense layer without bias, as an apply function."""
    if kernels is not None:
        return ops.lrt_dense(x, kernels["kernel"], key), model_state
    return x @ params["kernel"], model_state


def gaussian_log_likelihood(output, y):
    return jax.scipy.stats.norm.logpdf(y, output[:, 0], NOISE_STD)


def assert_within(samples, expected, standard_errors=4.5):
    """The mean of `samples` over axis 0 is `expected` within standard errors."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - expected) <= standard_errors * error).all()


# The closed form: Bayesian linear regression ---------------------------------------


@partial(jax.jit, static_argnames="estimator")
def _regression_losses(estimator, theta, beta, data, sub):
    inference = vi.VI(
        linear,
        optax.sgd(0.1),
        num_data=len(data[1]),
        prior=priors.GaussianPrior(PRIOR_STD),
        estimator=estimator,
        kl_weight=lambda step: beta,
        likelihood=gaussian_log_likelihood,
    )

    def loss(theta, key):
        packed = Gaussian(theta[0], posterior.to_rho(theta[1]))
        trainable = vi.Trainable({"kernel": packed}, {})
        return inference.negative_elbo(trainable, {}, sub, data, key, jnp.int32(0))

    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    keys = jax.random.split(jax.random.key(7), 4000)
    (losses, (metrics, _)), grads = jax.vmap(value_and_grad, (None, 0))(theta, keys)
    return losses, grads, metrics


class Regression:
    """Linear regression on a random half of six inputs, and its closed forms."""

    def __init__(self, *, orthogonal):
        rng = np.random.default_rng(3)
        x = rng.normal(size=(20, 6))
        self.x = np.linalg.qr(x)[0] * np.arange(1, 7) if orthogonal else x
        self.y = self.x @ rng.normal(size=6) + NOISE_STD * rng.normal(size=20)
        self.index = np.array([0, 3, 4])
        mask = np.zeros((6, 1), bool)
        mask[self.index] = True
        self.masks = {"kernel": mask}
        self.selected = self.x[:, self.index]
        self.mean = rng.normal(size=3)
        self.sigma = rng.uniform(0.2, 0.9, size=3)

    def samples(self, estimator, mean, sigma, beta=1.0):
        """Negative ELBO under 4000 keys, its gradient in (mean, sigma), metrics."""
        theta, data = jnp.array([mean, sigma]), (jnp.array(self.x), jnp.array(self.y))
        sub = masks_lib.to_subspace(self.masks)
        return _regression_losses(estimator, theta, beta, data, sub)

    def optimum(self):
        """Mean and sigma of the exact posterior (orthogonal design)."""
        precision = np.sum(self.selected**2, axis=0) / NOISE_STD**2 + PRIOR_STD**-2
        return self.selected.T @ self.y / NOISE_STD**2 / precision, precision**-0.5


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
@pytest.mark.parametrize("beta", [1.0, 0.1, 0.0])
def test_the_expected_loss_is_the_closed_form(estimator, beta):
    problem = Regression(orthogonal=False)
    mean, sigma = problem.mean, problem.sigma
    losses, _, metrics = problem.samples(estimator, mean, sigma, beta)
    residual = problem.y - problem.selected @ mean
    expected_squares = residual**2 + problem.selected**2 @ sigma**2
    nll = np.mean(
        0.5 * math.log(2 * math.pi * NOISE_STD**2)
        + expected_squares / (2 * NOISE_STD**2)
    )
    # KL(N(m, s²) ‖ N(0, p²)) = log(p/s) + (s² + m²)/(2p²) − 1/2
    kl = np.sum(
        np.log(PRIOR_STD / sigma) + (sigma**2 + mean**2) / (2 * PRIOR_STD**2) - 0.5
    )
    assert_within(losses, nll + beta / len(problem.y) * kl)
    assert_within(metrics["nll"], nll)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl_weight"], beta / len(problem.y), rtol=1e-6)
    loss = metrics["nll"] + metrics["kl_weight"] * metrics["kl"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_the_optimum_is_the_log_evidence(estimator):
    problem = Regression(orthogonal=True)
    mean, sigma = problem.optimum()
    losses, grads, _ = problem.samples(estimator, mean, sigma)
    covariance = PRIOR_STD**2 * problem.selected @ problem.selected.T
    covariance += NOISE_STD**2 * np.eye(len(problem.y))
    distance = problem.y @ np.linalg.solve(covariance, problem.y)
    log_evidence = -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert_within(losses, -log_evidence / len(problem.y))
    assert_within(grads, 0.0)
    for worse in [(mean + 0.3, sigma), (mean, 2 * sigma), (mean, 0.5 * sigma)]:
        assert np.mean(problem.samples(estimator, *worse)[0]) > np.mean(losses)


def test_pruned_inputs_have_no_say():
    problem = Regression(orthogonal=False)
    losses, _, _ = problem.samples("local_reparam", problem.mean, problem.sigma)
    pruned = np.setdiff1d(np.arange(6), problem.index)
    problem.x[:, pruned] = 100.0
    other, _, _ = problem.samples("local_reparam", problem.mean, problem.sigma)
    assert_equal(losses, other)


# Estimators ------------------------------------------------------------------------


def outputs(estimator, num=6000):
    """Logits of one example under many keys, with the moments of a linear layer."""
    rng = np.random.default_rng(4)
    mask = rng.random((4, 3)) < 0.6
    count = int(mask.sum())
    mean, sigma = rng.normal(size=count), rng.uniform(0.1, 0.8, size=count)
    packed = {"kernel": Gaussian(jnp.array(mean), posterior.to_rho(jnp.array(sigma)))}
    x = rng.normal(size=(1, 4))
    full_mean, full_variance = np.zeros((4, 3)), np.zeros((4, 3))
    full_mean[mask], full_variance[mask] = mean, sigma**2

    def logits(key):
        weights = Weights(packed, {}, {})
        sub = masks_lib.to_subspace({"kernel": mask})
        inputs = jnp.array(x, jnp.float32)
        options = {"key": key, "estimator": estimator, "train": True}
        return vi.forward(linear, weights, sub, inputs, **options)[0][0]

    samples = jax.jit(jax.vmap(logits))(jax.random.split(jax.random.key(0), num))
    return np.asarray(samples), (x @ full_mean)[0], (x**2 @ full_variance)[0]


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_estimators_have_the_moments_of_the_layer(estimator):
    samples, mean, variance = outputs(estimator)
    assert_within(samples, mean)
    assert_within((samples - mean) ** 2, variance)


def test_the_mean_estimator_is_exact_and_deterministic():
    samples, mean, _ = outputs("mean", num=2)
    np.testing.assert_allclose(samples[0], mean, rtol=1e-5)
    np.testing.assert_array_equal(samples[0], samples[1])


def test_local_reparam_draws_anew_for_every_example():
    """The weight sample is shared by the batch; local noise is not."""
    _, state, masks, _ = mlp_problem()
    sub, x = masks_lib.to_subspace(masks), jnp.ones((2, 5))

    @partial(jax.jit, static_argnames="estimator")
    def logits(estimator):
        options = {"key": jax.random.key(0), "estimator": estimator, "train": True}
        return vi.forward(mlp, state.weights, sub, x, **options)[0]

    first, second = logits("local_reparam")
    assert (first != second).any()
    np.testing.assert_allclose(*logits("weight_sample"), rtol=1e-6)


@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
def test_gradients_agree_with_finite_differences(estimator):
    inference, state, masks, data = mlp_problem(estimator=estimator)
    sub = masks_lib.to_subspace(masks)
    trainable = vi.Trainable(state.posterior, state.params)

    @jax.jit
    def loss(trainable):
        step, key = jnp.zeros((), jnp.int32), jax.random.key(3)
        return inference.negative_elbo(
            trainable, state.model_state, sub, data, key, step
        )[0]

    grads = jax.jit(jax.grad(loss))(trainable)
    leaves, tree = jax.tree.flatten(trainable)
    assert len(leaves) == 6  # two means, two rhos, two biases
    for i, leaf in enumerate(leaves):
        direction = np.random.default_rng(i).choice([-1.0, 1.0], leaf.shape)
        step = 3e-3 * direction.astype(np.float32)
        ends = [
            loss(jax.tree.unflatten(tree, [*leaves[:i], end, *leaves[i + 1 :]]))
            for end in (leaf + step, leaf - step)
        ]
        slope = float(ends[0] - ends[1]) / 6e-3
        expected = np.vdot(jax.tree.leaves(grads)[i], direction)
        assert slope == pytest.approx(expected, rel=2e-3, abs=2e-4)


# A masked network is a smaller network ---------------------------------------------


@pytest.mark.parametrize("estimator", ["local_reparam", "weight_sample", "mean"])
def test_a_masked_model_is_a_smaller_model(estimator):
    inference, state, _, (x, labels) = mlp_problem()
    rows = np.array([0, 2, 3])
    # Local noise sits on hidden units, so for it only inputs are dropped.
    columns = np.arange(4) if estimator == "local_reparam" else np.array([1, 3])
    masks = {"a/kernel": np.zeros((5, 4), bool), "b/kernel": np.zeros((4, 3), bool)}
    masks["a/kernel"][np.ix_(rows, columns)] = True
    masks["b/kernel"][columns] = True
    sub = masks_lib.to_subspace(masks)
    small_sub = masks_lib.to_subspace(
        {
            "a/kernel": np.ones((3, len(columns)), bool),
            "b/kernel": np.ones((len(columns), 3), bool),
        }
    )
    bias = state.params["a"]["bias"][columns]
    small_params = {"a": {"bias": bias}, "b": state.params["b"]}
    packed = posterior.init(jax.random.key(1), sub, mean_std=0.5)
    # The loss has no mean estimator, and local noise is another at other places.
    of_loss = "weight_sample" if estimator == "mean" else estimator
    inference = dataclasses.replace(inference, estimator=of_loss)

    @jax.jit
    def logits_and_loss(params, sub, x):
        key = jax.random.key(5)
        weights = Weights(packed, params, state.model_state)
        options = {"key": key, "estimator": estimator, "train": True}
        logits, _ = vi.forward(mlp, weights, sub, x, **options)
        loss, _ = inference.negative_elbo(
            vi.Trainable(packed, params),
            state.model_state,
            sub,
            (x, labels),
            key,
            state.step,
        )
        return logits, loss

    big = logits_and_loss(state.params, sub, x)
    small = logits_and_loss(small_params, small_sub, x[:, rows])
    for a, b in zip(big, small, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

"""IVON on a subspace: step by step, across a swap, and against exact posteriors."""

import itertools
import math
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

import ssvi_jax
from ssvi_jax import vi
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods import METHODS
from ssvi_jax.methods.algorithms.ivon_step import Ivon
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import priors, subspace

KEY = jax.random.key(0)
N, H0, DELTA, BETA1, BETA2 = 40, 0.5, 0.01, 0.8, 0.9


def rate(step):
    return 0.3 / (1 + step)


# Step by step, across a swap ----------------------------------------------------------


class Oracle:
    """The kept weights of one layer in float64, by the paper's algorithm 1."""

    def __init__(self, index, mean, *, empirical):
        self.index, self.mean = index, np.float64(mean)
        self.precision = np.full(mean.shape, H0 + DELTA)  # h + δ
        self.g, self.t, self.empirical = np.zeros(mean.shape), 0, empirical

    @property
    def sigma(self):
        return 1 / np.sqrt(N * self.precision)

    def step(self, gradient, estimate, rate):
        delta = DELTA
        if self.empirical:
            delta = 1 / (N * np.mean(self.mean**2 + self.sigma**2))
        self.t += 1
        x = (1 - BETA2) * (estimate - (self.precision - delta))
        self.precision = self.precision + x + x**2 / (2 * self.precision)
        self.g = BETA1 * self.g + (1 - BETA1) * gradient
        g = self.g / (1 - BETA1**self.t)
        change = (g + delta * self.mean) / self.precision
        self.mean = self.mean - rate * (H0 + DELTA) * change

    def swap(self, index):
        """New weights: mean 0, no momentum, the mean h of those that stay."""
        stays = np.isin(self.index, index)
        at = {position: i for i, position in enumerate(self.index)}
        known = [at.get(position) for position in index]
        typical = self.precision[stays].mean()

        def moved(values, new):
            return np.array([new if i is None else values[i] for i in known])

        self.mean, self.g = moved(self.mean, 0.0), moved(self.g, 0.0)
        self.precision = moved(self.precision, typical)
        self.index = index


def regression(params, model_state, x, *, train, key, kernels=None):
    """A linear model that tells which weights it was run with."""
    del train, key, kernels, model_state
    return x @ params["kernel"], {"theta": params["kernel"]}


def squares(output, y):
    return -0.5 * (output[:, 0] - y) ** 2


@pytest.mark.parametrize("empirical", [False, True], ids=["given prior", "empirical"])
def test_steps_and_a_swap_are_the_algorithm(empirical):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 8)), rng.normal(size=12)
    optimizer = Ivon(*(rate, N, H0, BETA1, BETA2, DELTA), empirical=empirical)
    inference = vi.VI(
        regression,
        optimizer.transformation(),
        num_data=N,
        estimator="weight_sample",
        kl_weight=lambda step: 0.0,
        likelihood=squares,
    )
    mask = np.zeros((8, 1), bool)
    mask[[0, 2, 3, 5, 7]] = True
    masks = {"kernel": mask}
    params, state = {"kernel": jnp.zeros((8, 1))}, {"theta": jnp.zeros((8, 1))}
    sigma = float(optimizer.sigma(H0))
    state = inference.init(KEY, params, state, masks, sigma_init=(sigma, 0.0))
    packed = state.posterior["kernel"]
    oracle = Oracle(np.flatnonzero(mask), packed.mean, empirical=empirical)
    data = (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    for step in range(8):
        if step == 4:
            toward = {"kernel": np.array([[0.0, 9, 0, 0, 5, 0, 7, 0]]).T}
            state, masks, swap = subspace.removal_addition(
                state,
                masks,
                toward,
                rate=0.4,
                rng=rng,
                rule=subspace.Rule(growth_init="precision"),
            )
            assert (swap.removed, swap.returned) == (2, 0)
            oracle.swap(np.flatnonzero(masks["kernel"]))
        rows = rng.integers(0, 12, (1, 6)).astype(np.int32)
        sigma = oracle.sigma
        state, _ = inference.inner_loop(state, masks, data, rows)
        theta = np.asarray(state.model_state["theta"], np.float64)[:, 0]
        kept = x[rows[0]][:, oracle.index]
        assert (theta[~masks["kernel"][:, 0]] == 0).all()
        gradient = kept.T @ (kept @ theta[oracle.index] - y[rows[0]]) / 6
        epsilon = (theta[oracle.index] - oracle.mean) / sigma
        oracle.step(gradient, gradient * epsilon / sigma, rate(step))
        found = state.posterior["kernel"]
        assert isinstance(found, Gaussian)
        np.testing.assert_allclose(found.mean, oracle.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            np.logaddexp(0, np.float64(found.rho)), oracle.sigma, rtol=1e-4
        )


# Exact posteriors ---------------------------------------------------------------------


def fitted(x, y, likelihood, estimator, **changes):
    """σ and mean of the kept weights of a linear model, and the mask."""
    network = ssvi_jax.from_flax(nn.Dense(1, use_bias=False), x[:1], key=KEY)
    settings: dict[str, Any] = {
        "sparsity": 0.5,
        "replacement_rate": 0.0,
        "beta2": 0.998,
    } | changes
    method = ssvi_jax.SSVIIvon(hess_init=1.0, estimator=estimator, **settings)
    sgd = ssvi_jax.Sgd(
        0.5, schedule="cosine", nesterov=False, weight_decay=1 / (len(x) * STD**2)
    )
    fit = ssvi_jax.fit(
        *(method, network, (x, y)),
        steps=4000,
        batch_size=len(x),
        optimizer=sgd,
        likelihood=likelihood,
        key=KEY,
    )
    packed = fit.weights.posterior["kernel"]
    assert isinstance(packed, Gaussian)
    return np.float64(packed.mean), softplus(packed.rho), fit.masks["kernel"][:, 0]


def softplus(rho):
    return np.logaddexp(0, np.float64(rho))


STD, NOISE = 1.5, 0.5
ESTIMATORS = ["local_reparam", "weight_sample"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_linear_regression_has_the_exact_variance(estimator):
    """Mean field: of the exact posterior the mean, and 1 over its precision's diagonal.

    Within 1 % of the prior's width, and 8 % of the standard deviations.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 1)) + NOISE * rng.normal(size=(120, 1))).astype("f4")
    mean, sigma, mask = fitted(x, y, ssvi_jax.Normal(NOISE), estimator)
    kept = np.asarray(x[:, mask], np.float64)
    precision = kept.T @ kept / NOISE**2 + np.eye(3) / STD**2
    exact = np.linalg.solve(precision, kept.T @ y[:, 0] / NOISE**2)
    np.testing.assert_allclose(mean, exact, atol=0.01 * STD)
    np.testing.assert_allclose(sigma, 1 / np.sqrt(np.diag(precision)), rtol=0.08)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_logistic_regression_has_the_exact_variance(estimator):
    """Its features are nearly orthogonal, so that mean field is nearly exact: 10 %."""
    rng = np.random.default_rng(2)
    signs = np.array([*itertools.product([-1, 1], repeat=4)])
    x = np.repeat(signs, 12, axis=0).astype(np.float32)
    true = np.array([0.8, -0.5, 0.3, 0.0])
    y = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ true))).astype(np.int32)
    mean, sigma, mask = fitted(x, y, ssvi_jax.Bernoulli(), estimator)
    line = np.linspace(-2, 2, 161)
    grid = np.stack([*np.meshgrid(line, line)], axis=-1).reshape(-1, 2)
    logits = grid @ np.asarray(x[:, mask], np.float64).T
    log_p = (y * logits - np.logaddexp(0, logits)).sum(axis=1)
    log_p -= (grid**2).sum(axis=1) / (2 * STD**2)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    exact = weight @ grid
    std = np.sqrt(weight @ (grid - exact) ** 2)
    np.testing.assert_allclose(mean, exact, atol=0.15 * std.max())
    np.testing.assert_allclose(sigma, std, rtol=0.1)


def test_the_empirical_prior_is_as_wide_as_the_weights():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 8)).astype(np.float32)
    y = (x @ rng.normal(size=(8, 1)) * 0.05 + rng.normal(size=(20, 1))).astype("f4")
    mean, sigma, mask = fitted(
        *(x, y, ssvi_jax.Normal(1.0), "local_reparam"), layer_prior="empirical"
    )
    variance = np.mean(mean**2 + sigma**2)
    curvature = np.square(np.float64(x[:, mask])).sum(axis=0)
    want = 1 / np.sqrt(curvature + 1 / variance)
    np.testing.assert_allclose(sigma, want, rtol=0.08)
    assert variance < 0.5 * STD**2


def test_a_colder_posterior_is_narrower():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = x[:, :1]
    warm, cold = (
        fitted(
            *(x, y, ssvi_jax.Normal(1.0), "local_reparam"),
            sparsity=0.0,
            temperature=temperature,
        )[1]
        for temperature in (1.0, 0.25)
    )
    # N (h + δ) / T: the decay stays, so that the prior of the colder one is narrower.
    np.testing.assert_allclose(cold, warm / 2, rtol=0.05)


# The method ---------------------------------------------------------------------------


def test_a_dense_one_is_ivon():
    """Sparsity 0 is the same code as the dense method, to the last bit."""
    sparse = smoke_run.tiny_algorithm(method="ssvi_ivon", sparsity=0.0)
    dense = smoke_run.tiny_algorithm(method="ivon", learning_rate=1.5)
    assert isinstance(sparse, Swapping)
    assert sparse.inference.tx is not None
    one, other = (
        method.init(KEY, np.random.default_rng(0))[0] for method in (sparse, dense)
    )
    jax.tree.map(np.testing.assert_array_equal, one.posterior, other.posterior)
    assert sparse.num_growth_batches(10) == 0


def test_its_prior_is_the_weight_decay_at_its_temperature():
    method = smoke_run.tiny_algorithm(
        method="ssvi_ivon", weight_decay=0.1, temperature=0.5
    )
    assert isinstance(method, Swapping)
    prior = method.inference.prior
    assert isinstance(prior, priors.GaussianPrior)
    assert prior.std == pytest.approx(1 / math.sqrt(2 * 1294 * 0.1))


def test_draws_are_averaged():
    """The gradient of a step with two draws is the mean of those of either."""
    one, two = (
        smoke_run.tiny_algorithm(method="ssvi_ivon", draws=draws) for draws in (1, 2)
    )
    assert isinstance(one, Swapping)
    assert isinstance(two, Swapping)
    state, masks = one.init(KEY, np.random.default_rng(0))
    data = jnp.zeros((6, 8, 8, 1), jnp.uint8), jnp.arange(6)  # moved, they stay
    subspace_of = masks_lib.to_subspace(masks, state.posterior)
    key = jax.random.split(jax.random.fold_in(state.key, state.step))[1]
    trainable = vi.Trainable(state.posterior, state.params)
    grads = [
        jax.grad(one.inference.negative_elbo, has_aux=True)(
            *(trainable, state.model_state, subspace_of, data, k, state.step)
        )[0]
        for k in jax.random.split(key)
    ]
    mean = jax.tree.map(lambda *g: sum(g) / 2, *grads)
    updates, _ = one.inference.tx.update(mean, state.opt_state, trainable)
    assert isinstance(updates, vi.Trainable)
    after, _ = two.inference.update(state, subspace_of, data)
    for path, packed in after.posterior.items():
        want = state.posterior[path].mean + updates.posterior[path].mean
        np.testing.assert_allclose(packed.mean, want, rtol=1e-4, atol=1e-7)


def test_a_hessian_that_hardly_moves_is_said():
    with pytest.warns(UserWarning, match=r"beta2: 0.99999 replaces 0 % of the initial"):
        smoke_run.tiny_algorithm(method="ssvi_ivon", beta2=0.99999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoke_run.tiny_algorithm(method="ssvi_ivon")


def test_new_weights_have_the_mean_hessian_of_their_layer():
    method = METHODS["ssvi_ivon"]()
    problem = smoke_run.tiny_problem(method="ssvi_ivon")
    built = method.build(problem)
    assert isinstance(built, Swapping)
    assert built.rule.growth_init == "precision"
    assert built.rule.removal == "abs_snr"

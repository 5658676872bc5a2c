"""IVON against its algorithm in float64, a known curvature, and its own run."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import smoke_run
from hypothesis import given
from hypothesis import strategies as st
from method_runs import run, summary_of

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods import IVON, METHODS
from ssvi_jax.methods.algorithms.ivon_step import Ivon, IvonState
from ssvi_jax.methods.algorithms.sgd import Sgd
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.networks import network
from ssvi_jax.training import presets
from ssvi_jax.vi import priors

N, H0, DELTA = 40, 0.5, 0.01


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def gaussian(posterior, path="kernel"):
    packed = posterior[path]
    assert isinstance(packed, Gaussian)
    return packed


def hessian(state):
    """What σ stands for: h = 1 / (λ σ²) - δ."""
    assert isinstance(state.opt_state, IvonState)
    sigma = softplus(gaussian(state.posterior).rho)
    return 1 / (N * sigma**2) - DELTA


class Oracle:
    """Algorithm 1 of the paper, in float64; weights have an h, biases keep h₀."""

    def __init__(self, mean, bias, **constants):
        self.mean, self.bias = np.float64(mean), np.float64(bias)
        self.hess = np.full(self.mean.shape, H0)
        self.g, self.g_bias, self.t = 0.0, 0.0, 0
        self.constants = constants

    @property
    def sigma(self):
        return 1 / np.sqrt(N * (self.hess + DELTA))

    def step(self, gradient, gradient_bias, epsilon, rate):
        c = self.constants
        self.t += 1
        estimate = gradient * epsilon / self.sigma
        correction = (1 - c["beta2"]) ** 2 * (self.hess - estimate) ** 2
        self.hess = (
            c["beta2"] * self.hess
            + (1 - c["beta2"]) * estimate
            + 0.5 * correction / (self.hess + DELTA)
        )
        self.g = c["beta1"] * self.g + (1 - c["beta1"]) * gradient
        self.g_bias = c["beta1"] * self.g_bias + (1 - c["beta1"]) * gradient_bias
        self.mean = self._moved(self.mean, self.g, self.hess, rate)
        self.bias = self._moved(self.bias, self.g_bias, H0, rate)

    def _moved(self, mean, g, hess, rate):
        g = g / (1 - self.constants["beta1"] ** self.t)
        change = (g + DELTA * mean) / (hess + DELTA)
        radius = self.constants["clip_radius"] or np.inf
        return mean - rate * (H0 + DELTA) * np.clip(change, -radius, radius)


def rate(step):
    return 0.3 / (1 + step)


def make(**constants):
    return Ivon(rate, ess=N, hess_init=H0, weight_decay=DELTA, **constants)


def regression(params, model_state, x, *, train, key, kernels=None):
    """A linear model that tells which weights it was run with."""
    del train, key, kernels
    return x @ params["kernel"] + params["bias"][None], {"theta": params["kernel"]}


def squares(output, y):
    return -0.5 * (output[:, 0] - y) ** 2


def start(optimizer, apply_fn, log_likelihood, mean):
    """A VI on one dense kernel, its state at this mean, and its masks."""
    inference = vi.VI(
        apply_fn,
        optimizer.transformation(),
        num_data=N,
        estimator="weight_sample",
        kl_weight=lambda step: 0.0,
        likelihood=log_likelihood,
    )
    shape = (mean.size, 1)
    params = {"kernel": jnp.zeros(shape), "bias": jnp.full(1, 0.5)}
    masks = {"kernel": np.ones(shape, bool)}
    sigma = float(optimizer.sigma(H0))
    state = inference.init(
        jax.random.key(2),
        params,
        {"theta": jnp.zeros(shape)},
        masks,
        sigma_init=(sigma, 0.0),
    )
    packed = state.posterior["kernel"]._replace(mean=jnp.asarray(mean, jnp.float32))
    return inference, state._replace(posterior={"kernel": packed}), masks


@pytest.mark.parametrize(
    "constants",
    [
        {"beta1": 0.9, "beta2": 0.9, "clip_radius": 0.0},
        {"beta1": 0.0, "beta2": 0.999, "clip_radius": 0.0},
        {"beta1": 0.8, "beta2": 0.5, "clip_radius": 0.7},
    ],
)
def test_steps_are_the_algorithm(constants):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=12)
    mean = rng.normal(size=5)
    inference, state, masks = start(make(**constants), regression, squares, mean)
    batch = (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    oracle = Oracle(mean, [0.5], **constants)
    for step in range(4):
        rows = rng.integers(0, 12, (1, 6)).astype(np.int32)
        sigma = oracle.sigma
        state, _ = inference.inner_loop(state, masks, batch, rows)
        theta = np.asarray(state.model_state["theta"], np.float64)[:, 0]
        x_batch, y_batch = x[rows[0]], y[rows[0]]
        residual = x_batch @ theta + oracle.bias - y_batch
        epsilon = (theta - oracle.mean) / sigma
        gradient, gradient_bias = x_batch.T @ residual / 6, [np.mean(residual)]
        oracle.step(gradient, np.array(gradient_bias), epsilon, rate(step))
        packed = gaussian(state.posterior)
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        close(packed.mean, oracle.mean)
        close(state.params["bias"], oracle.bias)
        close(softplus(packed.rho), oracle.sigma)
        close(hessian(state), oracle.hess)


def quadratic(params, model_state, x, *, train, key, kernels=None):
    del x, train, key, kernels
    return params["kernel"][:, 0][None], model_state


def test_the_stationary_hessian_is_the_curvature():
    """½ Σ c (θ - a)² has the curvature c, wherever the mean is.

    The term in x² moves the average by 1 - β₂ of c² / (c + δ), as Var ĥ = 2 c² at a.
    """
    curvatures, copies, beta2 = np.array([0.05, 0.4, 3.0]), 400, 0.995
    c = np.repeat(curvatures, copies)

    def loss(output, _):
        return -0.5 * jnp.sum(c[None] * (output - 1.0) ** 2, axis=-1)

    mean = np.ones(c.size)
    inference, state, masks = start(make(beta2=beta2), quadratic, loss, mean)
    batch, rows = (jnp.zeros((1, 1)), jnp.zeros(1)), np.zeros((4000, 1), np.int32)
    state, _ = inference.inner_loop(state, masks, batch, rows)
    hess = hessian(state).reshape(3, copies)  # independent of each other
    error = hess.std(axis=1, ddof=1) / math.sqrt(copies)
    bias = (1 - beta2) * curvatures**2 / (curvatures + DELTA)
    assert (error < 0.01 * curvatures).all()
    found = np.abs(hess.mean(axis=1) - curvatures - bias)
    np.testing.assert_array_less(found, 4.5 * error)


@given(
    st.floats(-1e4, 1e4, width=32),
    st.floats(2**-6, 10.0, width=32),
    st.floats(0, 0.9999),
)
def test_precisions_stay_positive(gradient, hess, beta2):
    optimizer = make(beta2=beta2)
    rho = np.log(np.expm1(float(optimizer.sigma(hess))))
    new = optimizer.new_precision(jnp.float32(rho), jnp.float32(gradient), DELTA)
    # (h + δ)(1 + u + u²/2) with u = x / (h + δ), at least one half for every u.
    assert float(new) >= 0.499 * (hess + DELTA)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ess", 0.0, "above 0"),
        ("hess_init", -1.0, "above 0"),
        ("weight_decay", 0.0, "above 0"),
        ("beta1", 1.0, r"\[0, 1\)"),
        ("beta2", 1.0, r"\[0, 1\)"),
        ("clip_radius", -1.0, "from 0"),
        ("clip_radius", math.nan, "from 0"),
    ],
)
def test_bad_constants_are_named(name, value, allowed):
    with pytest.raises(InputError, match=f"{name}: got {value}, allowed: .*{allowed}"):
        Ivon(**({"learning_rate": rate, "ess": N} | {name: value}))


# The method -------------------------------------------------------------------------


def build(**changes):
    method = smoke_run.tiny_algorithm(method="ivon", **changes)
    assert isinstance(method, Swapping)
    return method


def test_it_is_the_authors_recipe():
    got = presets.defaults("smoke", "cifar10", "ivon")
    recipe = {
        "learning_rate": 0.2,
        "hess_init": 0.5,
        "momentum": 0.9,
        "beta2": None,
        "weight_decay": 2e-4,
        "clip_radius": None,
    }
    assert {name: got.values()[name] for name in recipe} == recipe
    # `fit` takes the same, with what `Sgd` has.
    assert IVON() == got.method
    assert IVON().optimizer() == Sgd(
        0.2, momentum=0.9, nesterov=False, weight_decay=2e-4
    )


def test_it_starts_dense_at_the_initial_hessian():
    method = build(hess_init=2.0, weight_decay=0.1)
    state, masks = method.init(jax.random.key(0), np.random.default_rng(0))
    assert all(mask.all() for mask in masks.values())
    assert method.num_growth_batches(10) == 0
    for path in state.posterior:
        rho = gaussian(state.posterior, path).rho
        want = 1 / math.sqrt(1294 * 2.1)
        np.testing.assert_allclose(softplus(rho), want, rtol=1e-5)
    prior = method.inference.prior
    assert isinstance(prior, priors.GaussianPrior)
    assert prior.std == pytest.approx(1 / math.sqrt(1294 * 0.1))


def test_settings_reach_the_step():
    """The first step of a bias: -α (g + δ m), at most α (h₀ + δ) the clip radius."""
    changes = {"schedule": "constant", "learning_rate": 0.3, "weight_decay": 0.25}
    changes |= {"hess_init": 0.75, "clip_radius": 2.0, "beta2": 0.5, "momentum": 0.0}
    tx = build(**changes).inference.tx
    rho = np.log(np.expm1(1 / math.sqrt(1294)))  # h + δ = 1
    packed = {"kernel": Gaussian(jnp.zeros(1), jnp.full(1, rho))}
    trainable = vi.Trainable(packed, {"bias": jnp.array([1.0, 1.0])})
    slope = 1 / (1 + np.exp(-rho))  # dσ/dρ
    grads = vi.Trainable(
        {"kernel": Gaussian(jnp.zeros(1), jnp.full(1, slope * softplus(rho)))},
        {"bias": jnp.array([0.5, 9.0])},
    )
    updates, _ = tx.update(grads, tx.init(trainable), trainable)
    assert isinstance(updates, vi.Trainable)
    np.testing.assert_allclose(updates.params["bias"], [-0.225, -0.6], rtol=1e-5)
    # ĥ = 1, of h = 0.75: x = 1/8 and h + δ = 1.
    sigma = softplus(rho + gaussian(updates.posterior).rho)
    precision = 1 / (1294 * sigma**2)
    np.testing.assert_allclose(precision, 1 + 1 / 8 + 1 / 128, rtol=1e-5)


def test_it_has_no_settings_of_sparse_or_trained_posteriors():
    senseless = {
        *("sparsity", "densities", "replacement_rate", "addition"),
        *("prior", "prior_std", "kl_scale", "kl_warmup", "sigma_init"),
        *("sigma_learning_rate", "growth_init", "grow_at_mean", "prune_at"),
    }
    assert not senseless & {*IVON.names()}
    assert senseless <= {*METHODS["ssvi"].names(), "prune_at"}


@pytest.mark.parametrize("field", ["hess_init", "beta2", "clip_radius"])
def test_its_settings_are_no_other_methods(field):
    assert field in IVON.names()
    for name, method in METHODS.items():
        assert (field in method.names()) == ("ivon" in name)


def test_it_needs_a_prior():
    with pytest.raises(
        InputError, match=r"^weight_decay: got 0\.0, allowed: .*above 0"
    ):
        build(weight_decay=0.0)


def test_its_momentum_is_an_average():
    with pytest.raises(
        InputError, match=r"^nesterov: got True, allowed with ivon: False"
    ):
        build(nesterov=True)


def test_it_is_an_optimizer_itself():
    problem = smoke_run.tiny_problem(method="ivon")
    own = dataclasses.replace(problem, optimizer=optax.adam(0.1))
    with pytest.raises(InputError, match=r"^optimizer: got one of your own, allowed"):
        IVON().build(own)


def test_what_a_run_leaves():
    found, (folder, said) = summary_of("ivon"), run("ivon")
    assert "ivon | mlp | digits" in said
    assert found["test"].keys() == {"mc", "mean"}
    assert found["test"]["mean"]["accuracy"] > 0.2  # one of ten classes
    assert found["weights_kept"] == found["weights_total"] == 8832
    # Mean, rho, momentum and the index of each weight; biases with momentum; the step
    # twice, and the key.
    assert found["state_bytes"] == 16 * 8832 + 8 * (64 + 64 + 10) + 2 * 4 + 8
    _, weights, _ = network.load(folder / "model.ssvi")
    rhos = [gaussian(weights.posterior, path).rho for path in weights.posterior]
    sigma = softplus(np.concatenate(rhos))
    # The Hessian has left h₀, and most of it is lower.
    assert np.median(sigma) > 1.5 / math.sqrt(1294 * 0.5002)

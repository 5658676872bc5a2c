"""KL divergences against quadrature, in value, gradient and at the edges."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads
from scipy import integrate, stats

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi.priors import (
    PRIORS,
    EmpiricalPrior,
    GaussianPrior,
    LaplacePrior,
    LogUniformPrior,
    ScaleMixturePrior,
    make_prior,
)

KEY = jax.random.key(0)
CASES = [(0.0, 1.0), (0.4, 0.05), (-1.5, 0.3), (0.02, 0.004), (3.0, 2.0)]
MEAN, SIGMA = (jnp.array(column) for column in zip(*CASES, strict=True))
MIXTURE = (0.25, 1.0, 0.02)
SAMPLED = [ScaleMixturePrior(*MIXTURE), LaplacePrior(0.3, num_samples=1)]
EVERY = [GaussianPrior(0.1), LaplacePrior(0.3), LogUniformPrior(), *SAMPLED]


def quadrature(prior):
    """The KL of every case, ``[cases]``."""
    log_density = {
        GaussianPrior: lambda x: stats.norm.logpdf(x, 0, prior.std),
        LaplacePrior: lambda x: stats.laplace.logpdf(x, 0, prior.scale),
        ScaleMixturePrior: oracles.log_scale_mixture(*MIXTURE),
    }[type(prior)]
    return np.array([oracles.kl_to_density(*case, log_density) for case in CASES])


@functools.partial(jax.jit, static_argnums=0)
def kl_per_case(prior, key):
    """The prior's own KL of every case, ``[cases]``."""
    return jax.vmap(lambda m, s: prior.kl(m[None], s[None], key))(MEAN, SIGMA)


@pytest.mark.parametrize("prior", [GaussianPrior(0.1), LaplacePrior(0.3)])
def test_closed_form_agrees_with_quadrature(prior):
    np.testing.assert_allclose(kl_per_case(prior, KEY), quadrature(prior), rtol=2e-6)


def log_uniform_kl(log_alpha):
    """By quadrature: E log abs(θ/μ) - log(α)/2, less its limit for α → ∞."""
    spread = math.exp(log_alpha / 2)

    def integrand(x):
        return stats.norm.pdf(x, 1, spread) * math.log(abs(x))

    ends = sorted([1 - 12 * spread, 0.0, 1.0, 1 + 12 * spread])
    parts = [
        integrate.quad(integrand, low, high, limit=400)[0]
        for low, high in itertools.pairwise(ends)
        if low >= 1 - 12 * spread
    ]
    return sum(parts) - log_alpha / 2 + (np.euler_gamma + math.log(2)) / 2


@pytest.mark.parametrize("log_alpha", np.linspace(-8, 8, 17))
@pytest.mark.parametrize("mean", [0.05, -3.0])
def test_the_log_uniform_kl_is_near_the_integral(log_alpha, mean):
    sigma = abs(mean) * math.exp(log_alpha / 2)
    got = LogUniformPrior().kl(jnp.array([mean]), jnp.array([sigma]), KEY)
    assert got == pytest.approx(log_uniform_kl(log_alpha), abs=0.01)


def test_the_log_uniform_kl_depends_on_alpha_alone_and_vanishes():
    prior, zero, one = LogUniformPrior(), jnp.zeros(1), jnp.ones(1)
    assert prior.kl(zero, one, KEY) == 0
    sigmas = jnp.geomspace(1e-3, 1e3, 50)
    kl = np.array([prior.kl(one, sigma[None], KEY) for sigma in sigmas])
    assert (np.diff(kl) < 0).all()
    scaled = [prior.kl(7 * one, 7 * sigma[None], KEY) for sigma in sigmas]
    np.testing.assert_allclose(scaled, kl, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prior", SAMPLED)
def test_samples_agree_with_quadrature(prior):
    keys = jax.random.split(jax.random.key(3), 20_000)
    draws = jax.vmap(functools.partial(kl_per_case, prior))(keys)
    draws = np.asarray(draws, np.float64)
    error = draws.std(axis=0) / np.sqrt(len(keys))
    expected = quadrature(prior)
    assert (abs(draws.mean(axis=0) - expected) < 4 * error + 2e-6 * expected).all()


@pytest.mark.parametrize("kind", [ScaleMixturePrior, LaplacePrior])
def test_more_samples_mean_less_variance(kind):
    few, many = (
        ScaleMixturePrior(*MIXTURE, num_samples=n)
        if kind is ScaleMixturePrior
        else LaplacePrior(0.3, num_samples=n)
        for n in (1, 64)
    )
    keys = jax.random.split(KEY, 400)

    def std(prior):
        draws = jax.jit(jax.vmap(lambda key: prior.kl(MEAN, SIGMA, key)))(keys)
        return float(draws.std())

    assert std(many) == pytest.approx(std(few) / 8, rel=0.2)


def test_sampled_laplace_agrees_with_its_closed_form():
    exact = float(LaplacePrior(0.3).kl(MEAN, SIGMA, KEY))
    sampled = float(LaplacePrior(0.3, num_samples=100_000).kl(MEAN, SIGMA, KEY))
    error = float(jnp.linalg.norm(SIGMA)) / 0.3 / np.sqrt(100_000)  # Var abs(θ) <= σ²
    assert abs(sampled - exact) < 4 * error


def test_kl_to_the_prior_itself_is_zero():
    mean, sigma = jnp.zeros(1000), jnp.full(1000, 0.07)
    assert GaussianPrior(0.07).kl(mean, sigma, KEY) == pytest.approx(0, abs=1e-4)
    mixture = ScaleMixturePrior(0.3, 0.07, 0.07)  # its components coincide
    assert mixture.kl(mean, sigma, KEY) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("prior", [GaussianPrior(0.1), LaplacePrior(0.3)])
def test_closed_forms_are_positive(prior):
    mean, sigma = jnp.meshgrid(jnp.linspace(-2, 2, 41), jnp.geomspace(1e-4, 10, 31))
    pairs = mean.ravel(), sigma.ravel()
    kl = jax.jit(jax.vmap(lambda m, s: prior.kl(m[None], s[None], KEY)))(*pairs)
    assert (kl >= -1e-6).all()


@pytest.mark.parametrize("prior", EVERY)
def test_kl_is_a_sum_over_coordinates_of_any_shape(prior):
    mean, sigma = MEAN[:4].reshape(2, 2), SIGMA[:4].reshape(2, 2)
    kl = prior.kl(mean, sigma, KEY)
    assert kl.shape == ()
    flat = prior.kl(mean.ravel(), sigma.ravel(), KEY)
    assert float(kl) == pytest.approx(float(flat), rel=1e-5)
    assert prior.kl(MEAN[:0], SIGMA[:0], KEY) == 0


@pytest.mark.parametrize("prior", EVERY)
def test_gradients_agree_with_finite_differences(prior):
    with jax.enable_x64(True):
        key = jax.random.key(1)
        mean, sigma = (jnp.asarray(np.asarray(x, np.float64)) for x in (MEAN, SIGMA))
        check_grads(
            jax.jit(lambda m, s: prior.kl(m, s, key)),
            (mean, sigma),
            order=1,
            modes=["fwd", "rev"],
            eps=1e-7,
        )


@pytest.mark.parametrize("mean", [0.0, -1e-6, 1e3])
@pytest.mark.parametrize("sigma", [1e-12, 1e-8, 1e3])
def test_closed_forms_are_exact_at_the_edges(mean, sigma):
    entropy = stats.norm.entropy(0, sigma)
    t = mean / sigma
    tail = math.sqrt(2 / math.pi) * sigma * math.exp(-t * t / 2)
    size = mean * math.erf(t / math.sqrt(2)) + tail
    cross_gaussian = 0.5 * (mean**2 + sigma**2) / 0.1**2 - stats.norm.logpdf(0, 0, 0.1)
    cross_laplace = size / 0.3 - stats.laplace.logpdf(0, 0, 0.3)
    arrays = jnp.array([mean]), jnp.array([sigma])
    got = [prior.kl(*arrays, KEY) for prior in (GaussianPrior(0.1), LaplacePrior(0.3))]
    expected = [cross_gaussian - entropy, cross_laplace - entropy]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("prior", EVERY)
def test_values_and_gradients_are_finite_at_the_edges(prior):
    means, sigmas = jnp.array([0, 1e-8, -1, 1e3]), jnp.array([1e-12, 1e-8, 1e-3, 1])
    mean, sigma = jnp.meshgrid(means, sigmas)
    compute = jax.jit(jax.value_and_grad(prior.kl, argnums=(0, 1)))
    value, gradients = compute(mean, sigma, KEY)
    assert np.isfinite(value)
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("prior", SAMPLED)
def test_the_key_decides_the_samples(prior):
    same = [prior.kl(MEAN, SIGMA, KEY) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != prior.kl(MEAN, SIGMA, jax.random.key(1))


def test_make_prior():
    assert make_prior("gaussian", std=0.1) == GaussianPrior(0.1)
    assert make_prior("laplace", scale=0.3) == LaplacePrior(0.3, None)
    mixture = make_prior("scale_mixture", pi=0.5, std1=1.0, std2=0.1, num_samples=2)
    assert mixture == ScaleMixturePrior(0.5, 1.0, 0.1, 2)
    assert {hash(make_prior("gaussian", std=0.1))} == {hash(GaussianPrior(0.1))}
    assert make_prior("log_uniform") == LogUniformPrior()
    assert make_prior("empirical") == EmpiricalPrior()
    assert set(PRIORS) == {
        *("gaussian", "empirical", "scale_mixture", "laplace", "log_uniform")
    }


def test_the_empirical_prior_is_the_gaussian_of_the_smallest_kl():
    mean, sigma = jnp.array([0.5, -1.0, 0.2]), jnp.array([0.3, 0.1, 0.7])
    grid = np.linspace(0.2, 2.0, 2001)
    of_grid = [GaussianPrior(std).kl(mean, sigma, KEY) for std in grid]
    own = EmpiricalPrior().kl(mean, sigma, KEY)
    assert float(own) == pytest.approx(float(min(of_grid)), abs=1e-5)
    best = GaussianPrior(float(grid[np.argmin(of_grid)]))
    got = jax.grad(EmpiricalPrior().kl, (0, 1))(mean, sigma, KEY)
    want = jax.grad(best.kl, (0, 1))(mean, sigma, KEY)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("cauchy", {}, "prior: got 'cauchy', allowed: empirical, gaussian, laplace"),
        ("gaussian", {}, "prior gaussian: got no parameters, needed: std"),
        ("gaussian", {"scale": 1.0}, "prior gaussian: got scale, needed: std"),
        ("gaussian", {"std": 0.0}, "prior std: got 0.0"),
        ("laplace", {"scale": -1.0}, "prior scale: got -1.0"),
        ("laplace", {"scale": 1.0, "num_samples": 0}, "num_samples: got 0"),
        ("scale_mixture", {"pi": 1.0, "std1": 1.0, "std2": 0.1}, "prior pi: got 1.0"),
        ("scale_mixture", {"pi": 0.5, "std1": 0.1, "std2": 1.0}, "at most std1 = 0.1"),
        (
            "scale_mixture",
            {"pi": 0.5, "std1": 1.0, "std2": 0.1, "num_samples": 1.5},
            "num_samples: got 1.5",
        ),
    ],
)
def test_bad_input(name, parameters, message):
    with pytest.raises(InputError, match=message):
        make_prior(name, **parameters)

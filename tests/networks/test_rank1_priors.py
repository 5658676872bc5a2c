from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from ssvi_jax.core.errors import InputError
from ssvi_jax.networks.rank1_priors import FAST_PRIORS, FastPrior

SCALE = 0.3
NORMAL: Any = stats.norm
CAUCHY: Any = stats.cauchy
STUDENT: Any = stats.t


def normal(x, sigma):
    return np.exp(-0.5 * (x / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)


def horseshoe(x):
    """∫ N(x; 0, (SCALE λ)²) half-Cauchy(λ) dλ, by substituting λ = tan(t)."""
    peak = np.arctan(abs(x) / SCALE)
    return integrate.quad(
        lambda t: normal(x, SCALE * np.tan(t)) * 2 / np.pi, 0, np.pi / 2, points=[peak]
    )[0]


def student(x):
    """∫ N(x; 0, v) inverse-gamma(v; 2, b) dv with b = 2 SCALE², in u = log v."""
    b = 2 * SCALE**2
    return integrate.quad(
        lambda u: normal(x, np.exp(u / 2)) * b**2 * np.exp(-2 * u - b * np.exp(-u)),
        -12,
        12,
    )[0]


DENSITIES: dict[str, Any] = {
    "gaussian": NORMAL(0, SCALE).pdf,
    "cauchy": CAUCHY(0, SCALE).pdf,
    "half_cauchy": horseshoe,
    "inverse_gamma": student,
}


@pytest.mark.parametrize("name", FAST_PRIORS)
def test_log_densities_are_those_of_their_definition(name):
    x = np.array([-9.0, -1.1, -0.7, -0.59, -1e-3, 1e-3, 0.2, 0.59, 0.61, 3.0, 9.0])
    got = FastPrior(name, SCALE).log_density(jnp.asarray(x))
    expected = [np.log(DENSITIES[name](value)) for value in x if abs(value) < 9]
    np.testing.assert_allclose(got[1:-1], expected, rtol=2e-5, atol=2e-6)
    assert np.isfinite(got).all()
    assert got[0] == got[-1]


POSTERIORS: dict[str, Any] = {"gaussian": NORMAL, "cauchy": CAUCHY}
PAIRS = [
    (q, p) for q in POSTERIORS for p in FAST_PRIORS if (q, p) != ("cauchy", "gaussian")
]


def log_horseshoe(x):
    z = 0.5 * (x / SCALE) ** 2
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # From z = 50 on e^z E₁(z) is 1/z - 1/z² + 2/z³ to 1e-6.
        far = np.log(1 / z - 1 / z**2 + 2 / z**3)
        exact = np.where(z < 50, z + np.log(special.exp1(np.minimum(z, 50))), far)
    return exact - 0.5 * np.log(2 * np.pi**3) - np.log(SCALE)


LOG_DENSITIES: dict[str, Any] = {
    "gaussian": NORMAL(0, SCALE).logpdf,
    "cauchy": CAUCHY(0, SCALE).logpdf,
    "half_cauchy": log_horseshoe,
    "inverse_gamma": STUDENT(4, 0, SCALE).logpdf,
}


def kl_by_quadrature(posterior, prior, mean, sigma):
    """∫ q log(q/p), by the midpoint rule in the quantiles of q."""
    number = 1_000_000
    q = POSTERIORS[posterior](mean, sigma)
    x = q.ppf((np.arange(number) + 0.5) / number)
    return np.mean(q.logpdf(x) - LOG_DENSITIES[prior](x))


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_the_kl_is_that_of_quadrature(posterior, prior):
    mean, sigma, num = -0.4, 0.15, 1 << 15
    draws = jax.vmap(
        lambda key: FastPrior(prior, SCALE).kl(
            posterior, jnp.array([mean]), jnp.array([sigma]), key
        )
    )(jax.random.split(jax.random.key(0), num))
    error = float(np.std(draws)) / num**0.5
    expected = kl_by_quadrature(posterior, prior, mean, sigma)
    assert np.mean(draws) == pytest.approx(expected, abs=5 * error + 1e-4)
    assert (error == 0) == (posterior == prior == "gaussian")


def test_between_two_cauchys_it_is_the_closed_form():
    """Log((σ + s)² + μ²) / 4σs, Chyzak and Nielsen, arXiv 1905.10965."""
    mean, sigma, num = np.array([0.5, -2.0, 0.0]), np.array([0.1, 0.02, SCALE]), 1 << 15
    expected = np.log(((sigma + SCALE) ** 2 + mean**2) / (4 * sigma * SCALE)).sum()
    draws = jax.vmap(
        lambda key: FastPrior("cauchy", SCALE).kl(
            "cauchy", jnp.asarray(mean), jnp.asarray(sigma), key
        )
    )(jax.random.split(jax.random.key(1), num))
    error = float(np.std(draws)) / num**0.5
    assert np.mean(draws) == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize("name", FAST_PRIORS)
def test_gradients_are_those_of_the_density(name):
    prior, step = FastPrior(name, SCALE), 1e-3
    x = jnp.array([-2.0, -0.3, 0.1, 0.55, 0.65, 1.5])
    got = jax.grad(lambda x: prior.log_density(x).sum())(x)
    logs = [np.log([DENSITIES[name](v + d) for v in x]) for d in (step, -step)]
    np.testing.assert_allclose(got, (logs[0] - logs[1]) / (2 * step), rtol=2e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FastPrior("x"), "fast prior: got 'x', allowed: cauchy, gaussian, ha"),
        (lambda: FastPrior(scale=0.0), "fast prior scale: got 0.0, allowed: a finite"),
        (
            lambda: FastPrior().kl("cauchy", jnp.ones(1), jnp.ones(1), None),  # type: ignore[arg-type]
            "got gaussian with a cauchy posterior, whose KL is infinite; allowed",
        ),
    ],
)
def test_bad_priors_say_so(make, words):
    with pytest.raises(InputError, match=words):
        make()

"""Regression by `fit`: closed forms, honest intervals, doubt away from the data."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.vi.predictions import Regression

KEY = jax.random.key(0)
BAYES: dict[str, Any] = {
    "sparsity": 0.0,
    "prior_std": 1.0,
    "kl_scale": 1.0,
    "kl_warmup": 0.0,
}
"""The exact ELBO of all weights, with a standard normal prior."""


def linen(module, x):
    return ssvi_jax.from_flax(module, x[:1], key=KEY)


def orthogonal(rng, n, scales):
    """Inputs ``[n, d]`` whose columns are orthogonal, of these standard deviations.

    Then the exact posterior is a product of normals, so mean field has no error.
    """
    basis = np.linalg.qr(rng.normal(size=(n, len(scales))))[0]
    return (basis * np.sqrt(n) * scales).astype(np.float32)


def test_linear_regression_has_the_posterior_in_closed_form():
    """Means within 2 % of a prior deviation, deviations within 5 %."""
    rng, noise = np.random.default_rng(0), 0.5
    x = orthogonal(rng, 200, np.array([1.0, 0.5, 0.2, 0.1, 0.05]))
    y = x @ rng.normal(size=5) + noise * rng.normal(size=200)
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(**BAYES, sigma_init=0.1),
        linen(nn.Dense(1, use_bias=False), x),
        (x, y),
        steps=3000,
        batch_size=200,
        likelihood=ssvi_jax.Normal(noise),
    )
    covariance = np.linalg.inv(np.eye(5) + x.T @ x / noise**2)
    mean = covariance @ x.T @ y / noise**2
    q = fit.weights.posterior["kernel"]
    np.testing.assert_allclose(q.mean, mean, atol=0.02)
    assert isinstance(q, Gaussian)
    sigma = np.logaddexp(0.0, np.asarray(q.rho, np.float64))
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(covariance)), rtol=0.05)
    new = (rng.normal(size=(200, 5)) * x.std(axis=0)).astype(np.float32)
    found = fit.predict(new, samples=1000)
    assert isinstance(found, Regression)
    np.testing.assert_allclose(found.mean, new @ mean, atol=0.02)
    np.testing.assert_allclose(found.aleatoric, noise**2, rtol=1e-5)
    exact = np.einsum("ni,ij,nj->n", new, covariance, new)
    # A variance of 1,000 draws has a relative standard error of 4.5 %.
    ratio = found.epistemic / exact
    assert abs(ratio.mean() - 1) < 0.06
    assert (np.abs(ratio - 1) < 5 * 0.045).all()


class WithVariance(nn.Module):
    """A mean and a ρ for each input."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(50)(x)))


def noisy_sine(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    std = 0.05 + 0.125 * (x[:, 0] + 1)
    return x, np.sin(3 * x[:, 0]) + std * rng.normal(size=n), std


def test_noise_that_depends_on_the_input_gives_intervals_that_hold():
    x, y, _ = noisy_sine(1500, 0)
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=0.5, prior_std=1.0, kl_scale=1.0, sigma_init=0.01),
        linen(WithVariance(), x),
        (x, y),
        epochs=100,
        batch_size=100,
        likelihood=ssvi_jax.Normal("output"),
    )
    new, labels, std = noisy_sine(1000, 1)
    found = fit.predict(new, samples=50)
    low, high = found.interval(0.9)
    assert 0.85 <= np.mean((low <= labels) & (labels <= high)) <= 0.95
    assert fit.evaluate(new, labels, samples=50)["coverage"] == pytest.approx(
        np.mean((low <= labels) & (labels <= high))
    )
    learned = np.sqrt(found.aleatoric)
    assert np.corrcoef(learned, std)[0, 1] > 0.9
    assert np.abs(learned / std - 1).mean() < 0.3
    # Where there are no data the draws differ more.
    inside, outside = (
        fit.predict(np.array(at, np.float32)[:, None], samples=200).epistemic
        for at in ([-0.5, 0.0, 0.5], [-3.0, 3.0])
    )
    assert outside.min() > 1.5 * inside.max()


@pytest.mark.parametrize("columns", [1, 2])
def test_noise_is_learned(columns, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3)).astype(np.float32)
    w = rng.normal(size=(3, columns))
    y = x @ w + 0.3 * rng.normal(size=(2000, columns))
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(**BAYES),
        linen(nn.Dense(columns), x),
        (x, y),
        epochs=60,
        batch_size=50,
        likelihood=ssvi_jax.Normal(),
    )
    found = fit.predict(x[:10])
    np.testing.assert_allclose(np.sqrt(found.aleatoric), 0.3, rtol=0.05)
    np.testing.assert_allclose(found.mean, np.squeeze(x[:10] @ w), atol=0.05)
    fit.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", nn.Dense(columns))
    assert again.evaluate(x, y) == pytest.approx(fit.evaluate(x, y))


@pytest.mark.parametrize(
    "method", [ssvi_jax.DeepEnsemble(2), ssvi_jax.Rank1(members=2)]
)
def test_members_differ_away_from_the_data(method):
    x, y, _ = noisy_sine(400, 0)
    fit = ssvi_jax.fit(
        method,
        linen(nn.Sequential([nn.Dense(50), nn.tanh, nn.Dense(1)]), x),
        (x, y),
        epochs=60,
        batch_size=50,
        likelihood=ssvi_jax.Normal(),
    )
    assert fit.evaluate(x, y)["r2"] > 0.8
    inside, outside = (
        fit.predict(np.array(at, np.float32)[:, None]).epistemic
        for at in ([-0.5, 0.0, 0.5], [-4.0, 4.0])
    )
    assert outside.mean() > inside.mean() > 0


def test_labels_are_never_broadcast():
    x, y, _ = noisy_sine(100, 0)
    net = linen(nn.Dense(1), x)
    options = {"steps": 10, "likelihood": ssvi_jax.Normal(0.1)}
    good = ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.0), net, (x, y), **options)
    assert good.predict(x).mean.shape == (100,)
    with pytest.raises(InputError, match=r"labels: got shape \[100, 2\] for outputs"):
        ssvi_jax.fit(
            ssvi_jax.SSVI(sparsity=0.0), net, (x, np.stack([y, y], axis=1)), **options
        )
    with pytest.raises(InputError, match=r"y: got shape \[100, 1, 1\], needed"):
        good.evaluate(x, y[:, None, None])


def test_predictions_of_a_mixture_in_closed_form():
    """Two draws, one input: moments, quantiles and density by hand."""
    from scipy import optimize, stats

    found = Regression(
        np.array([[0.0], [2.0]], np.float32), np.array([[1.0], [0.5]], np.float32)
    )
    assert found.mean == pytest.approx(1.0)
    assert found.aleatoric == pytest.approx(0.625)
    assert found.epistemic == pytest.approx(1.0)
    assert found.variance == pytest.approx(1.625)

    def cdf(at):
        return 0.5 * (stats.norm.cdf(at, 0, 1) + stats.norm.cdf(at, 2, 0.5))

    low, high = found.interval(0.8)
    assert low[0] == pytest.approx(optimize.brentq(lambda t: cdf(t) - 0.1, -9, 9))
    assert high[0] == pytest.approx(optimize.brentq(lambda t: cdf(t) - 0.9, -9, 9))
    density = 0.5 * (stats.norm.pdf(1.5, 0, 1) + stats.norm.pdf(1.5, 2, 0.5))
    assert found.log_prob(np.array([1.5]))[0] == pytest.approx(np.log(density))


def test_predictions_of_counts_by_brute_force():
    from scipy import stats

    from ssvi_jax.vi.predictions import Counts

    rates = np.array([[0.5, 30.0], [4.0, 33.0], [9.0, 1e-3]], np.float32)
    found = Counts(rates)
    low, high = found.interval(0.9)
    for i in range(2):
        pmf = stats.poisson.pmf(np.arange(200)[:, None], rates[:, i]).mean(axis=1)
        below = np.cumsum(pmf)
        assert low[i] == np.argmax(below >= 0.05)
        assert high[i] == np.argmax(below >= 0.95)
        assert found.variance[i] == pytest.approx(
            np.sum(pmf * np.arange(200) ** 2) - np.sum(pmf * np.arange(200)) ** 2,
            rel=1e-4,
        )
        assert found.log_prob(np.array([7, 7]))[i] == pytest.approx(
            np.log(pmf[7]), abs=1e-5
        )

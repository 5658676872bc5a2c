"""The packed Gaussian: its parametrization, initialization, draws, and kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.ops.packing import unpack
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior

SHAPES = {"a/kernel": (3, 4), "conv/kernel": (2, 2, 3, 5)}


def problem(density=0.5, seed=0):
    """Masks of `SHAPES` with about that density, and a random posterior on them."""
    rng = np.random.default_rng(seed)
    masks = {path: rng.random(shape) < density for path, shape in SHAPES.items()}
    packed = {
        path: Gaussian(
            jnp.array(rng.normal(size=mask.sum()), jnp.float32),
            jnp.array(rng.normal(size=mask.sum()), jnp.float32),
        )
        for path, mask in masks.items()
    }
    return masks, packed


def full(mask, values):
    array = np.zeros(mask.shape)
    array[mask] = values
    return array


# σ = softplus(ρ) -------------------------------------------------------------------


@pytest.mark.parametrize("sigma", np.logspace(-30, 30, 25))
def test_rho_gives_sigma_back(sigma):
    rho = posterior.to_rho(jnp.float32(sigma))
    np.testing.assert_allclose(posterior.to_sigma(rho), sigma, rtol=2e-5)


@pytest.mark.parametrize("rho", [-60.0, -10.0, -1.0, 0.0, 1e-3, 2.0, 40.0])
def test_sigma_gives_rho_back(rho):
    sigma = posterior.to_sigma(jnp.float32(rho))
    np.testing.assert_allclose(sigma, np.log1p(np.exp(rho)), rtol=1e-6)
    np.testing.assert_allclose(posterior.to_rho(sigma), rho, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 0.7, 1.0, 3.0, 1e3])
def test_stretched_sigma_is_the_product(factor):
    rho = jnp.array([-150.0, -90.0, -21.0, -19.0, -3.0, 0.0, 2.0, 30.0])
    before = {"a": Gaussian(jnp.arange(8.0), rho), "b": Point(jnp.ones(2))}
    after = posterior.stretched(before, factor)
    assert after["b"] is before["b"]
    assert isinstance(after["a"], Gaussian)
    mean, stretched = after["a"]
    assert mean is before["a"].mean
    assert stretched.dtype == jnp.float32
    old, new = (np.logaddexp(0, np.asarray(r, np.float64)) for r in (rho, stretched))
    np.testing.assert_allclose(new, factor * old, rtol=2e-5)


def test_stretching_by_1_changes_no_bit():
    packed = problem()[1]
    assert posterior.stretched(packed, 1.0) is packed


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf, np.nan])
def test_no_such_factor(factor):
    with pytest.raises(InputError, match=r"factor: got .*, allowed: a finite number"):
        posterior.stretched(problem()[1], factor)


# Initialization --------------------------------------------------------------------


def initial(shape, density, **options):
    mask = np.random.default_rng(0).random(shape) < density
    sub = masks_lib.to_subspace({"kernel": mask})
    packed = posterior.init(jax.random.key(0), sub, **options)["kernel"]
    assert isinstance(packed, Gaussian)
    return mask, packed


def assert_normal(values, mean, std):
    assert stats.kstest((np.asarray(values) - mean) / std, "norm").pvalue > 1e-3


def test_initial_means_and_sigmas_are_the_authors():
    _, gaussian = initial((100, 200), 0.5, mean_std=0.01)
    assert_normal(gaussian.mean, 0.0, 0.01)
    sigma = np.asarray(posterior.to_sigma(gaussian.rho), np.float64)
    folded = stats.foldnorm(c=6 / 5, scale=5e-4)  # abs N(6e-4, 5e-4²)
    assert stats.kstest(sigma, folded.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(gaussian.mean, sigma)[0, 1]) < 0.04


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_initial_means_preserve_the_variance_of_relus(density):
    """Var(mean) · selected inputs of an output unit = 2, dense or sparse."""
    mask, gaussian = initial((3, 3, 20, 50), density)
    fan_in = mask.sum() / 50
    assert_normal(gaussian.mean, 0.0, np.sqrt(2 / fan_in))


def test_initial_means_may_be_zero():
    _, gaussian = initial((10, 10), 0.5, mean_std=0.0)
    np.testing.assert_array_equal(gaussian.mean, 0.0)


def test_initial_sigma_has_a_floor():
    _, gaussian = initial((10, 10), 0.5, sigma_init=(0.0, 0.0))
    sigma = posterior.to_sigma(gaussian.rho)
    np.testing.assert_allclose(sigma, posterior.MIN_SIGMA, rtol=1e-5)


def test_kernels_are_drawn_independently():
    mask = np.ones((30, 30), bool)
    sub = masks_lib.to_subspace({"a": mask, "b": mask})
    packed = posterior.init(jax.random.key(0), sub)
    assert abs(np.corrcoef(packed["a"].mean, packed["b"].mean)[0, 1]) < 0.15
    wide = {
        path: Gaussian(q.mean, jnp.full_like(q.mean, 3)) for path, q in packed.items()
    }
    draws = posterior.sample(wide, sub, jax.random.key(1))
    assert abs(np.corrcoef(draws["a"].ravel(), draws["b"].ravel())[0, 1]) < 0.15


# Draws and kernels -----------------------------------------------------------------


def test_draws_have_the_posteriors_moments_and_zeros_elsewhere():
    masks, packed = problem()
    sub, num = masks_lib.to_subspace(masks), 4000
    keys = jax.random.split(jax.random.key(1), num)
    draws = jax.jit(jax.vmap(lambda key: posterior.sample(packed, sub, key)))(keys)
    for path, mask in masks.items():
        samples = np.asarray(draws[path], np.float64)
        assert samples.shape == (num, *mask.shape)
        np.testing.assert_array_equal(samples[:, ~mask], 0.0)
        sigma = np.asarray(posterior.to_sigma(packed[path].rho), np.float64)
        scaled = (samples[:, mask] - np.asarray(packed[path].mean)) / sigma
        assert np.abs(scaled.mean(axis=0)).max() < 4.5 / np.sqrt(num)
        assert np.abs(scaled.var(axis=0) - 1).max() < 4.5 * np.sqrt(2 / num)
        correlation = np.corrcoef(scaled.T) - np.eye(scaled.shape[1])
        assert np.abs(correlation).max() < 5 / np.sqrt(num)


def test_draws_do_not_depend_on_the_order_of_the_masks():
    masks, packed = problem()
    reverse = dict(reversed(masks.items()))
    draws = [
        posterior.sample(packed, masks_lib.to_subspace(m), jax.random.key(0))
        for m in (masks, reverse)
    ]
    jax.tree.map(np.testing.assert_array_equal, *draws)


def test_a_sample_without_a_key_is_the_mean():
    masks, packed = problem()
    found = posterior.sample(packed, masks_lib.to_subspace(masks), None)
    for path, mask in masks.items():
        np.testing.assert_array_equal(found[path], full(mask, packed[path].mean))


@pytest.mark.parametrize("probed", [False, True])
def test_kernels_hold_means_sigmas_and_probes(probed):
    masks, packed = problem()
    probes = {path: jnp.full(shape, 0.25) for path, shape in SHAPES.items()}
    found = posterior.kernels(
        packed, masks_lib.to_subspace(masks), probes if probed else None
    )
    for path, mask in masks.items():
        matrix = (mask.size // mask.shape[-1], mask.shape[-1])
        mean, variance = unpack(found[path].reshape(matrix))
        expected = full(mask, packed[path].mean) + 0.25 * probed
        np.testing.assert_allclose(mean.reshape(mask.shape), expected, rtol=1e-6)
        sigma = posterior.to_sigma(packed[path].rho)
        np.testing.assert_allclose(
            variance.reshape(mask.shape), full(mask, sigma**2), rtol=1e-6
        )
        half = found[path].astype(jnp.bfloat16)
        types = {leaf.dtype.name for leaf in jax.tree.leaves(half)}
        assert types == {"bfloat16", "int32"}


def test_an_empty_posterior_and_an_empty_layer():
    assert posterior.init(jax.random.key(0), masks_lib.to_subspace({})) == {}
    sub = masks_lib.to_subspace({"kernel": np.zeros((2, 3), bool)})
    packed = posterior.init(jax.random.key(0), sub)
    draws = posterior.sample(packed, sub, jax.random.key(1))
    np.testing.assert_array_equal(draws["kernel"], np.zeros((2, 3)))

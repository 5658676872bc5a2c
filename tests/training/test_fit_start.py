"""`fit(start=…)`: a small posterior from a network that exists."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from digits_fits import KEY, TEST_X, TEST_Y, X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Structure
from ssvi_jax.networks.structured import Structured

STILL = optax.sgd(0.0)
SETTINGS = {"steps": 20, "batch_size": 64, "key": KEY, "optimizer": STILL}


@pytest.fixture(scope="module")
def network():
    return linen(mlp(), X)


@pytest.fixture(scope="module")
def dense(network):
    return ssvi_jax.fit(ssvi_jax.Deterministic(), network, (X, Y), epochs=20, key=KEY)


def test_it_begins_at_the_largest_weights(network, dense):
    method = ssvi_jax.SSVI(sparsity=0.8, replacement_rate=0.0)
    fit = ssvi_jax.fit(method, network, (X, Y), start=dense, **SETTINGS)
    trained, found = trees.flatten(dense.params), trees.flatten(fit.params)
    for path, mask in fit.masks.items():
        sizes = np.abs(trained[path])
        assert sizes[mask].min() >= sizes[~mask].max()
        np.testing.assert_array_equal(found[path], np.where(mask, trained[path], 0))
    for path in trained.keys() - fit.masks.keys():
        np.testing.assert_array_equal(found[path], trained[path])


def test_a_few_steps_are_enough(network, dense):
    method = ssvi_jax.SSVI(sparsity=0.8)
    short = {"epochs": 2, "batch_size": 64, "key": KEY}
    begun = ssvi_jax.fit(method, network, (X, Y), start=dense.params, **short)
    drawn = ssvi_jax.fit(method, network, (X, Y), **short)
    nll = [fit.evaluate(TEST_X, TEST_Y)["nll"] for fit in (begun, drawn)]
    assert nll[0] < 0.8 * nll[1]


def test_points_and_sparse_networks_serve_too(network):
    """What RigL keeps is what a posterior of the same size starts with."""
    rigl = ssvi_jax.fit(
        ssvi_jax.RigL(sparsity=0.9), network, (X, Y), steps=100, key=KEY
    )
    method = ssvi_jax.SSVI(sparsity=0.9, replacement_rate=0.0)
    fit = ssvi_jax.fit(method, network, (X, Y), start=rigl, **SETTINGS)
    for path, mask in rigl.masks.items():
        np.testing.assert_array_equal(fit.masks[path], mask)
        np.testing.assert_array_equal(
            fit.weights.posterior[path].mean, rigl.weights.posterior[path].mean
        )


def test_a_magnitude_pruned_network_starts_there(network, dense):
    method = ssvi_jax.Magnitude(sparsity=0.8)
    fit = ssvi_jax.fit(method, network, (X, Y), start=dense, **SETTINGS)
    trained, found = trees.flatten(dense.params), trees.flatten(fit.params)
    for path, mask in fit.masks.items():
        np.testing.assert_array_equal(found[path], np.where(mask, trained[path], 0))


def test_learned_noise_is_learned_anew():
    x = jnp.linspace(-1, 1, 64)[:, None]
    network = ssvi_jax.from_flax(mlp(1), x[:1], key=jax.random.key(0))
    options = {"likelihood": ssvi_jax.Normal("learned"), "key": KEY, "steps": 20}
    method = ssvi_jax.SSVI(sparsity=0.5)
    first = ssvi_jax.fit(method, network, (x, jnp.sin(x)), **options)
    again = ssvi_jax.fit(method, network, (x, jnp.sin(x)), start=first, **options)
    assert np.isfinite(again.evaluate(x, jnp.sin(x))["nll"])


def test_what_cannot_start_is_said(network, dense):
    with pytest.raises(InputError, match=r"^start: .* for SSVIEnsemble, whose members"):
        ssvi_jax.fit(ssvi_jax.SSVIEnsemble(), network, (X, Y), start=dense, **SETTINGS)
    with pytest.raises(InputError, match=r"^start: got other parameters .*kernel"):
        ssvi_jax.fit(
            ssvi_jax.SSVI(),
            network,
            (X, Y),
            start={"other": {"kernel": jnp.zeros((2, 2))}},
            **SETTINGS,
        )


def test_weights_that_are_not_finite_are_blamed_on_the_start(network, dense):
    params = trees.flatten(dense.params)
    path = min(params)
    for bad in (np.nan, np.inf):
        broken = trees.unflatten({**params, path: params[path].at[0].set(bad)})
        weights = dense.weights._replace(params=broken, posterior={})
        fitted = dataclasses.replace(dense, weights=weights, masks={})
        for start in (broken, fitted):
            with pytest.raises(
                InputError, match=f"^start: got .*not finite, in {path}"
            ):
                ssvi_jax.fit(ssvi_jax.SSVI(), network, (X, Y), start=start, **SETTINGS)
        other = (network[0], broken, network[2])
        with pytest.raises(InputError, match=f"^network: got .*not finite, in {path}"):
            ssvi_jax.fit(ssvi_jax.SSVI(), other, (X, Y), **SETTINGS)


@pytest.mark.parametrize(
    "method", [ssvi_jax.Rank1(members=2), ssvi_jax.DeepEnsemble(2)]
)
def test_a_network_with_another_structure_is_refused(network, method):
    """It would be trained as what it is, under the method's name."""
    plain, params, model_state = network
    given = Structured(plain, Structure(), X[:1]), params, model_state
    with pytest.raises(InputError, match=r"^network: got one with Structure\(rank1=No"):
        ssvi_jax.fit(method, given, (X, Y), **SETTINGS)
    ssvi_jax.fit(ssvi_jax.Deterministic(), given, (X, Y), **{**SETTINGS, "steps": 1})

"""Predictions of networks with several members, or with noise of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Weights
from ssvi_jax.vi import predictive

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Stacked:
    """A deep ensemble: K linear networks along the first axis of their weights."""

    is_random = False

    def __init__(self, number):
        self.num_members = number

    def __call__(self, params, model_state, x, *, train, key, kernels=None):
        return x @ params["kernel"], model_state

    def one(self, weights, subspace, member, key):
        params = jax.tree.map(lambda leaf: leaf[member], weights.params)
        return weights._replace(params=params), subspace


class Dropped(Stacked):
    """The same with dropout of inputs, which `one` passes on as a key."""

    is_random = True

    def __call__(self, params, model_state, x, *, train, key, kernels=None):
        if "dropout" in model_state:
            kept = jax.random.bernoulli(model_state["dropout"], 0.5, x.shape)
            x = x * kept * 2
        return x @ params["kernel"], model_state

    def one(self, weights, subspace, member, key):
        weights, subspace = super().one(weights, subspace, member, key)
        if key is not None:
            weights = weights._replace(model_state={"dropout": key})
        return weights, subspace


def ensemble(number=3):
    kernel = np.random.default_rng(1).normal(size=(number, 4, 3))
    return Weights({}, {"kernel": jnp.asarray(kernel, jnp.float32)}, {})


def run(network, **options):
    options = {"key": jax.random.key(0), "num_samples": 4, **options}
    return predictive.predict(network, ensemble(network.num_members), {}, X, **options)


@pytest.mark.parametrize("average", predictive.AVERAGES)
def test_an_ensemble_is_the_average_of_its_networks(average):
    found = run(Stacked(3), average=average)
    logits = np.einsum("ni,kic->knc", X, ensemble().params["kernel"])
    probs = special.softmax(logits, axis=-1)
    expected = probs.mean(0)
    if average == "logits":
        expected = special.softmax(logits.mean(0), axis=-1)
    np.testing.assert_allclose(found.member_probs, probs, rtol=1e-5)
    np.testing.assert_allclose(found.mc_probs, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.mean_probs, found.mc_probs)
    entropy = -np.sum(probs * np.log(probs), axis=-1)
    np.testing.assert_allclose(found.sample_entropy, entropy, rtol=1e-4)
    mixture = probs.mean(0)
    mixture_entropy = -np.sum(mixture * np.log(mixture), axis=-1)
    np.testing.assert_allclose(found.mixture_entropy, mixture_entropy, rtol=1e-5)
    mean = predictive.predict_mean(Stacked(3), ensemble(), {}, X, average=average)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert predictive.num_passes(Stacked(3), ensemble(), 10) == 3


def test_noise_of_the_network_is_drawn_for_every_member():
    network = Dropped(2)
    found = run(network)
    assert found.sample_entropy.shape == (8, 5)
    assert len(np.unique(found.sample_entropy, axis=0)) == 8
    assert (found.mc_probs != found.mean_probs).any()
    np.testing.assert_array_equal(found.member_probs, run(Stacked(2)).member_probs)
    np.testing.assert_array_equal(found.mc_probs, run(network).mc_probs)
    other = run(network, key=jax.random.key(1))
    assert (found.mc_probs != other.mc_probs).any()
    assert predictive.num_passes(network, ensemble(2), 10) == 20


def test_passes_come_member_by_member():
    kernel = jnp.stack([jnp.zeros((4, 3)), jnp.full((4, 3), 9.0).at[:, 0].set(-9.0)])
    weights = Weights({}, {"kernel": kernel}, {})
    key = jax.random.key(0)
    found = predictive.predict(Dropped(2), weights, {}, X, key=key, num_samples=3)
    np.testing.assert_allclose(found.sample_entropy[:3], np.log(3), rtol=1e-6)
    assert (found.sample_entropy[3:].mean(0) < np.log(3) - 0.01).all()
    assert (found.sample_entropy[3:].min(0) < np.log(2) + 1e-3).all()


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Stacked(1), (False, False)),
        (Stacked(2), (False, True)),
        (Dropped(1), (True, True)),
        (print, (False, False)),
    ],
)
def test_what_has_samples(network, expected):
    weights = Weights({}, {}, {})
    random = predictive.is_random(network, weights)
    assert (random, predictive.has_samples(network, weights)) == expected


def test_one_member_without_noise_is_an_ordinary_network():
    found, weights = run(Stacked(1)), ensemble(1)

    def plain(params, model_state, x, *, train, key, kernels=None):
        return x @ params["kernel"], model_state

    weights = Weights({}, {"kernel": weights.params["kernel"][0]}, {})
    other = predictive.predict(plain, weights, {}, X, key=jax.random.key(0))
    for ours, theirs in zip(found, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unknown_average_lists_the_known_ones():
    words = "average: got 'x', allowed: logits, probabilities"
    with pytest.raises(InputError, match=words):
        run(Stacked(1), average="x")

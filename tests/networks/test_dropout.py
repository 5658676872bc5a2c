"""Dropout of layers' inputs in any Flax model, in training and in predictions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
from flax import nnx
from tiny import KEY, from_flax

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Weights
from ssvi_jax.networks import network
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.vi import predictive


class Net(nn.Module):
    """A convolution, another one used twice, and a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (1, 1), name="first")(x)
        twice = nn.Conv(3, (1, 1), name="twice")
        x = twice(twice(x))
        return nn.Dense(4, name="out")(x.reshape(x.shape[0], -1))


def dropped_by_hand(drop, params, x):
    """`Net` in NumPy, with what each layer is to drop drawn by `Dropout` itself."""
    params = jax.device_get(params)

    def conv(x, name):
        return x @ params[name]["kernel"][0, 0] + params[name]["bias"]

    x = conv(np.asarray(x), "first")
    for use in (0, 1):
        x = conv(np.asarray(drop(jnp.asarray(x), "twice/kernel", use)), "twice")
    x = drop(jnp.asarray(x.reshape(len(x), -1)), "out/kernel", 0)
    return np.asarray(x) @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_inputs_of_every_layer_but_the_first_are_dropped(is_shared):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 2)), jnp.float32)
    net, params, state = from_flax(Net(), x)
    drop = Dropout(0.4, KEY, is_shared)
    logits, _ = net(params, state, x, train=True, key=KEY, dropout=drop)
    expected = dropped_by_hand(drop, params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    whole, _ = net(params, state, x, train=True, key=KEY)
    assert np.abs(whole - logits).max() > 0.1


def test_nnx_models_drop_too():
    module = nnx.Sequential(
        nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 3, rngs=nnx.Rngs(1))
    )
    x = jnp.ones((2, 4))
    net, params, state = from_flax(module, x)
    drop = Dropout(0.5, KEY)
    logits, _ = net(params, state, x, train=True, key=KEY, dropout=drop)
    first, second = (params["layers"][name] for name in sorted(params["layers"]))
    first, second = jax.device_get((first, second))
    hidden = np.asarray(x) @ first["kernel"] + first["bias"]
    dropped = np.asarray(drop(jnp.asarray(hidden), "layers/1/kernel"))
    expected = dropped @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_numbers_are_dropped_at_the_rate_and_the_others_scaled(rate):
    x = jnp.full((100, 200), 3.0)
    dropped = np.asarray(Dropout(rate, KEY)(x, "a"))
    zeros = np.mean(dropped == 0)
    assert zeros == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / x.size))
    np.testing.assert_allclose(dropped[dropped > 0], 3 / (1 - rate), rtol=1e-6)
    assert (dropped != np.asarray(Dropout(rate, KEY)(x, "b"))).any()
    assert (dropped != np.asarray(Dropout(rate, KEY)(x, "a", 1))).any()
    assert (dropped[0] != dropped[1]).any()


def test_examples_share_what_is_dropped_if_asked():
    x = jnp.ones((5, 50))
    dropped = np.asarray(Dropout(0.5, KEY, is_shared=True)(x, "a"))
    assert (dropped == dropped[:1]).all()
    assert set(np.unique(dropped)) == {0.0, 2.0}


def test_rate_0_drops_nothing():
    x = jnp.ones((5, 50))
    assert Dropout(0.0, KEY)(x, "a") is x


# The method -----------------------------------------------------------------------


def image_network(rate):
    settings = smoke_run.tiny_config(method="mc_dropout", dropout_rate=rate)
    net, problem = smoke_run.problem_of(settings)
    return net, Weights({}, problem.params, problem.model_state)


def test_samples_are_passes_with_dropout_and_the_mean_one_without():
    digits = data.load("digits")
    x = digits.test_images[:7]
    net, weights = image_network(0.3)
    assert (net.num_members, net.is_random) == (1, True)
    found = predictive.predict(net, weights, {}, x, key=KEY, num_samples=4)
    small = predictive.predict(
        net, weights, {}, x, key=KEY, num_samples=4, batch_size=2
    )
    np.testing.assert_allclose(found.mc_probs, small.mc_probs, rtol=1e-4)
    one = predictive.predict(net, weights, {}, x, key=KEY, num_samples=1)
    assert (one.mc_probs != found.mc_probs).any()
    assert len(np.unique(found.sample_entropy[:, 0])) == 4  # each pass draws anew
    plain, same = image_network(0.0)
    assert not plain.is_random
    expected = predictive.predict_mean(plain, same, {}, x)
    np.testing.assert_allclose(found.mean_probs, expected, rtol=1e-6)
    assert np.abs(found.mc_probs - found.mean_probs).max() > 1e-3


def test_rate_0_is_deterministic_training(tmp_path):
    dropped = smoke_run.tiny_train(
        tmp_path / "a", method="mc_dropout", dropout_rate=0.0, epochs=1
    )
    plain = smoke_run.tiny_train(tmp_path / "b", method="deterministic", epochs=1)
    weights = (t.progress.state.weights for t in (dropped, plain))
    jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout_rate": 1.0}, r"^dropout_rate: got 1\.0, allowed: .*\[0, 1\)"),
        ({"sparsity": 0.5}, r"^sparsity: no setting of the method mc_dropout"),
        ({"prior_std": 0.3}, r"^prior_std: no setting of the method mc_dropout"),
        ({"replacement_rate": 0.5}, r"^replacement_rate: no setting of the method mc"),
        ({"members": 2}, r"^members: no setting of the method mc_dropout"),
        ({"backend": "sparse"}, r"^backend: got sparse for a dense network"),
        (
            {"method": "ssvi", "dropout_rate": 0.2},
            r"^dropout_rate: no setting of the method ssvi",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        smoke_run.tiny_algorithm(**{"method": "mc_dropout", **changes})


def test_a_model_file_names_a_rate():
    spec = image_network(0.25)[0].spec
    values = {**vars(spec), "rank1": None}
    assert network.NetworkSpec.from_json(values).dropout == 0.25
    for rate in (1.0, -0.1):
        with pytest.raises(InputError, match="dropout: got"):
            network.NetworkSpec.from_json({**values, "dropout": rate})

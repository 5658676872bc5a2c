"""Keras models on the JAX backend, as they are."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras

import jax
import numpy as np
import pytest
from digits_fits import X, Y

import ssvi_jax
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError

keras = pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def as_keras_writes_it():
    """Keras hands on old keys, and arrays of different ranks; a user's JAX lets it."""
    with jax.legacy_prng_key("allow"), jax.numpy_rank_promotion("allow"):
        yield


def model(*last, **options):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(16, name="first", **options),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Dense(10, name="second"),
            *last,
        ]
    )


def test_it_computes_what_keras_does_and_trains_sparsely(tmp_path):
    mine = model()
    network, params, state = ssvi_jax.from_keras(mine, X[:1])
    flat = trees.flatten(params)
    assert {"first/kernel", "second/kernel"} <= {*flat}
    key = jax.random.key(0)
    x = X[:7].astype(np.float32)
    logits, same = network(params, state, x, train=False, key=key)
    np.testing.assert_allclose(logits, mine(x, training=False), atol=1e-5)
    assert same is state
    one, moved = network(params, state, x, train=True, key=key)
    other, _ = network(params, state, x, train=True, key=jax.random.key(1))
    assert not np.allclose(one, other)  # the dropout is on, and a function of the key
    np.testing.assert_array_equal(
        one, network(params, state, x, train=True, key=key)[0]
    )
    before, after = (trees.flatten(s)["norm/moving_mean"] for s in (state, moved))
    assert not np.allclose(before, after)
    names = [layer.path for layer in network.layers(params, state, x)]
    assert names == ["first/kernel", "second/kernel"]

    kept = [np.array(variable.value) for variable in mine.variables]
    method = ssvi_jax.SSVI(sparsity=0.75)
    fit = ssvi_jax.fit(
        *(method, (network, params, state), (X, Y)), steps=200, inner_steps=50
    )
    assert fit.sparsity == pytest.approx(0.75, abs=1e-3)
    zeros = trees.flatten(fit.params)["first/kernel"] == 0
    np.testing.assert_array_equal(zeros, ~fit.masks["first/kernel"])
    assert fit.evaluate(X, Y, samples=2)["accuracy"] > 0.8
    for variable, old in zip(mine.variables, kept, strict=True):
        np.testing.assert_array_equal(variable.value, old)  # copies were trained
    fit.save(tmp_path / "m.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "m.ssvi", model())
    probs = [one.predict(x, samples=2).probs for one in (fit, again)]
    np.testing.assert_allclose(*probs, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: model(keras.layers.Softmax()), "ends in softmax, allowed: logits"),
        (
            lambda: model(keras.layers.Activation("sigmoid")),
            "ends in sigmoid, allowed: logits",
        ),
        (
            lambda: model(kernel_regularizer="l2"),
            "^model: got a regularizer of .*first/kernel, allowed: none",
        ),
        (lambda: keras.layers.Dense(2), "^model: got Dense, allowed: a keras.Model"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        ssvi_jax.from_keras(make(), X[:1])


def test_another_backend_and_the_other_adapter_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"ssvi_jax.from_keras\(model, x\[:1\]\)"):
        ssvi_jax.from_flax(model(), X[:1])
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(InputError, match="Keras' backend numpy, allowed: jax"):
        ssvi_jax.from_keras(model(), X[:1])

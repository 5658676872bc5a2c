"""`fit` by the likelihood of the labels: soft, binary, counts, any function."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from digits_fits import TEST_X, TEST_Y, X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import scores
from ssvi_jax.vi import likelihoods, predictions


def test_labels_may_be_soft():
    soft = 0.9 * np.eye(10)[Y] + 0.01
    method = ssvi_jax.SSVI(sparsity=0.9)
    fit = ssvi_jax.fit(method, linen(mlp(), X), (X, soft), epochs=20, batch_size=64)
    hard, found = fit.evaluate(TEST_X, TEST_Y), fit.predict(TEST_X)
    assert hard["accuracy"] > 0.85
    assert isinstance(found, predictions.Classification)
    # A label says 0.91 at most, so no prediction should be surer on average.
    assert 0.6 < found.probs.max(axis=1).mean() < 0.93
    scores = fit.evaluate(TEST_X, 0.9 * np.eye(10)[TEST_Y] + 0.01)
    assert scores["accuracy"] == hard["accuracy"]


def test_one_logit_for_two_classes():
    even = (Y % 2).astype(np.float32)
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=0.9),
        linen(mlp(1), X),
        (X, even),
        epochs=20,
        batch_size=64,
        likelihood=ssvi_jax.Bernoulli(),
    )
    found = fit.predict(TEST_X)
    assert isinstance(found, predictions.Binary)
    assert found.probs.shape == TEST_Y.shape
    assert (found.labels == TEST_Y % 2).mean() > 0.85
    odds = np.abs(np.log(found.sample_probs) - np.log1p(-found.sample_probs))
    np.testing.assert_allclose(found.disagreement, odds.std(axis=0), atol=1e-2)
    assert found.disagreement.min() > 0
    scores = fit.evaluate(TEST_X, TEST_Y % 2)
    assert scores["accuracy"] == (found.labels == TEST_Y % 2).mean()


def test_counts():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1000, 2)).astype(np.float32)
    y = rng.poisson(np.exp(1 + x[:, 0]))
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=0.0),
        linen(mlp(1, 32), x),
        (x[:800], y[:800]),
        epochs=60,
        batch_size=100,
        likelihood=ssvi_jax.Poisson(),
    )
    found = fit.predict(x[800:])
    assert isinstance(found, predictions.Counts)
    truth = np.exp(1 + x[800:, 0])
    assert np.abs(found.mean / truth - 1).mean() < 0.2
    assert 0.88 < fit.evaluate(x[800:], y[800:])["coverage"] <= 1.0


def test_two_labels_have_the_scores_of_two_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 40)).astype(np.float32) * 3
    probs = 1 / (1 + np.exp(-logits))
    two = np.stack([1 - probs, probs], axis=-1)
    y = rng.integers(0, 2, 40)
    each = -np.sum(two * np.log(two), axis=-1)
    odds = np.abs(logits)
    classes = predictions.Classification(two.mean(axis=0), two[0], each, odds)
    binary = predictions.Binary(probs.mean(axis=0), probs[0], probs, odds)
    found = scores.score(binary, y)
    assert {"expected_entropy", "mutual_information", "logit_disagreement"} <= set(
        found
    )
    assert found == pytest.approx(scores.score(classes, y), rel=1e-5)
    information = binary.mutual_information.mean()
    assert found["mutual_information"] == pytest.approx(information, rel=1e-4)
    alone = predictions.Binary(probs[0], probs[0], probs[:1], odds[:1])
    assert "mutual_information" not in scores.score(alone, y)


def test_any_function_is_a_likelihood():
    def laplace(output, y):
        return -jnp.abs(output[:, 0] - y) - jnp.log(2.0)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)).astype(np.float32)
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=0.0),
        linen(nn.Dense(1), x),
        (x, x @ np.array([1.0, -2.0, 0.5])),
        epochs=60,
        batch_size=25,
        likelihood=laplace,
    )
    found = fit.predict(np.eye(3, dtype=np.float32))
    assert isinstance(found, predictions.Outputs)
    np.testing.assert_allclose(found.mean[:, 0], [1, -2, 0.5], atol=0.1)
    outputs, y = fit.predict(x).sample_outputs[:, :, 0], x[:, 0]
    densities = np.exp(-np.abs(outputs.astype(np.float64) - y)) / 2
    nll = -np.log(densities.mean(axis=0)).mean()
    assert fit.evaluate(x, y) == {"nll": pytest.approx(nll, rel=1e-5)}
    with pytest.raises(InputError, match="likelihood: got a function, which a file"):
        fit.save("model.ssvi")


def test_a_function_is_validated_by_its_nll():
    def laplace(output, y):
        return -jnp.abs(output[:, 0] - y["at"]) - jnp.log(2.0)

    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    fit = ssvi_jax.fit(
        ssvi_jax.Static(sparsity=0.0),
        linen(nn.Dense(1), x),
        (x, {"at": x.sum(axis=1)}),
        epochs=20,
        batch_size=20,
        likelihood=laplace,
        validation=0.5,
        callbacks=[ssvi_jax.EarlyStopping(patience=50)],
    )
    found = [e["validation"] for e in fit.history if "validation" in e]
    assert [list(one) for one in found] == [["nll"]] * len(found)
    assert min(one["nll"] for one in found) < found[0]["nll"]


def test_a_function_of_another_shape_is_refused_where_it_is_scored():
    squared = likelihoods.Custom(lambda o, y: -((o - y) ** 2))
    outputs = predictions.Outputs(np.ones((2, 20, 1), np.float32))
    with pytest.raises(
        InputError, match=r"likelihood: got log p of shape \[20, 1\], n"
    ):
        scores.by_likelihood(squared, outputs, np.ones((20, 1)))

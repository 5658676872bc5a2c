"""`Fitted.calibrate`: the factor on sigma against brute force and closed forms."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits_fits import TEST_X, TEST_Y, X, Y, linen, mlp
from scipy import special

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point, Weights
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.io import artifact
from ssvi_jax.ops import custom_calls
from ssvi_jax.training import calibration
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.vi import likelihoods, posterior
from ssvi_jax.vi import masks as masks_lib

KEY, SAMPLES = jax.random.key(7), 50
MASKS = {"kernel": np.ones((1, 1), bool)}


def logistic(params, model_state, x, *, train, key):
    """Logits [0, θ x] of two classes."""
    assert not train
    logit = x @ params["kernel"]
    return jnp.concatenate([jnp.zeros_like(logit), logit], axis=-1), model_state


def linear(params, model_state, x, *, train, key):
    """Means θ x."""
    assert not train
    return (x @ params["kernel"])[:, 0], model_state


def one_weight(apply_fn=logistic, *, mean=4.0, sigma=1.0, **changes):
    """A network of one uncertain weight θ ~ N(mean, sigma²)."""
    rho = posterior.to_rho(jnp.array([sigma], jnp.float32))
    weights = Weights({"kernel": Gaussian(jnp.array([mean]), rho)}, {}, {})
    fitted = Fitted(apply_fn, weights, MASKS, likelihoods.Categorical(), {"seed": 3})
    return dataclasses.replace(fitted, **changes)


def sigma64(packed):
    """Standard deviations, computed in float64."""
    assert isinstance(packed, Gaussian)
    return np.logaddexp(0, np.asarray(packed.rho, np.float64))


def noisy(n=400, flipped=0.2):
    """Inputs [n, 1] and labels by their sign, a part of them wrong."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) ^ (rng.random(n) < flipped)


def test_the_factor_is_that_of_a_fine_grid():
    x, y = noisy()
    found = one_weight().calibrate(x, y, samples=SAMPLES, key=KEY)
    subspace = masks_lib.to_subspace(MASKS)
    before = one_weight().weights.posterior
    draws = [
        posterior.sample(before, subspace, jax.random.fold_in(KEY, i))["kernel"]
        for i in range(SAMPLES)
    ]
    noise = np.ravel(np.array(draws, np.float64)) - 4.0
    signs = np.where(y == 1, x[:, 0], -x[:, 0]).astype(np.float64)

    def nll(factor):
        theta = 4.0 + factor * noise
        return -np.log(special.expit(theta[:, None] * signs).mean(axis=0)).mean()

    grid = np.geomspace(0.01, 10, 3000)
    curve = np.array([nll(factor) for factor in grid])
    best = grid[curve.argmin()]
    assert 1.5 < best < 9  # the labels say less than the mean does
    said = found.about["calibration"]
    assert said["sigma_factor"] == pytest.approx(best, rel=0.01)
    assert said["nll"] == pytest.approx(curve.min(), abs=1e-5)
    assert said["nll_before"] == pytest.approx(nll(1.0), abs=1e-5)
    assert said["temperature"] == said["sigma_factor"] ** 2
    assert (said["border"], said["examples"], said["samples"]) == ("", 400, SAMPLES)
    assert found.about["seed"] == 3


def test_a_posterior_that_is_wider_gets_a_smaller_factor():
    x, y = noisy()
    narrow, wide = (
        one_weight(sigma=sigma).calibrate(x, y, samples=SAMPLES, key=KEY)
        for sigma in (1.0, 8.0)
    )
    factors = [f.about["calibration"]["sigma_factor"] for f in (narrow, wide)]
    assert factors[0] > 1 > factors[1]
    assert factors[0] == pytest.approx(8 * factors[1], rel=0.01)
    sigmas = [sigma64(f.weights.posterior["kernel"]) for f in (narrow, wide)]
    np.testing.assert_allclose(*sigmas, rtol=0.01)


def test_numbers_get_the_variance_that_they_have():
    rng = np.random.default_rng(1)
    x = np.ones((4000, 1), np.float32)
    y = 2.0 + 1.3 * rng.normal(size=4000)
    network = one_weight(linear, mean=2.0, sigma=0.4, likelihood=ssvi_jax.Normal(0.5))
    found = network.calibrate(x, y, samples=300, key=KEY)
    factor = found.about["calibration"]["sigma_factor"]
    # Of 300 draws the variance is known to 8 %, and so a standard deviation to 4 %.
    expected = np.sqrt(np.var(y) - 0.5**2) / 0.4
    assert factor == pytest.approx(expected, rel=0.12)
    normal = 0.5 * np.log(2 * np.pi * np.e * np.var(y))
    assert found.about["calibration"]["nll"] == pytest.approx(normal, abs=0.02)


def test_where_the_noise_says_too_much_already_hardly_any_sigma_remains():
    y = 2.0 + 0.3 * np.tile([-1.0, 1.0], 100)
    network = one_weight(linear, mean=2.0, sigma=0.4, likelihood=ssvi_jax.Normal(0.5))
    found = network.calibrate(np.ones((200, 1), np.float32), y, samples=20, key=KEY)
    said = found.about["calibration"]
    assert said["border"] == "lower"
    assert said["sigma_factor"] < 0.02
    assert "smallest factor tried is as good" in calibration.sentence(said)
    again = found.calibrate(np.ones((200, 1), np.float32), y, samples=20, key=KEY)
    assert again.about["calibration"]["sigma_factor"] >= 0.01


def test_factors_that_are_as_good_are_named():
    x, y = noisy()
    # Of a weight that hardly varies every factor gives the same network.
    found = one_weight(sigma=1e-9).calibrate(x, y, samples=5, key=KEY)
    said = found.about["calibration"]
    assert (said["sigma_factor"], said["border"]) == (1.0, "both")
    assert said["as_good"] == [0.01, 10.0]
    text = calibration.sentence(said)
    assert "factors from 0.01 to 10 are as good" in text
    assert "so the mean network" in text
    sharp = one_weight().calibrate(x, y, samples=SAMPLES, key=KEY)
    assert "as good" not in calibration.sentence(sharp.about["calibration"])


def test_calibrated_again_the_new_factor_replaces_the_old_one(caplog):
    x, y = noisy()
    once = one_weight().calibrate(x, y, samples=SAMPLES, key=KEY)
    first = once.about["calibration"]
    same = once.calibrate(x, y, samples=SAMPLES, key=KEY).about["calibration"]
    assert same["nll_before"] == pytest.approx(first["nll_before"], abs=1e-6)
    assert same["sigma_factor"] == pytest.approx(first["sigma_factor"], rel=1e-2)
    with caplog.at_level(logging.INFO, "ssvi_jax"):
        twice = once.calibrate(x, y, samples=SAMPLES, key=jax.random.key(1))
    anew = one_weight().calibrate(x, y, samples=SAMPLES, key=jax.random.key(1))
    second = twice.about["calibration"]
    for name, value in anew.about["calibration"].items():
        assert second[name] == (
            value if name == "border" else pytest.approx(value, rel=1e-2)
        )
    sigma = sigma64(twice.weights.posterior["kernel"])
    assert second["sigma_factor"] != first["sigma_factor"]
    assert second["sigma_factor"] == pytest.approx(float(sigma[0]), rel=1e-4)
    assert second["temperature"] == second["sigma_factor"] ** 2
    assert f"sigma × {second['sigma_factor']:.4g} of what was trained" in caplog.text


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"calibration": None},
        {"calibration": {}},
        {"calibration": {"sigma_factor": "2"}},
        {"calibration": {"sigma_factor": -2.0}},
        {"calibration": {"sigma_factor": float("nan")}},
        {"calibration": {"sigma_factor": float("inf")}},
        {"calibration": {"sigma_factor": True}},
        {"calibration": 2.0},
    ],
)
def test_descriptions_without_a_factor(about, tmp_path):
    assert calibration.factor_in(about) is None
    path = tmp_path / "model.ssvi"
    network = one_weight(about=about)
    assert "calibrated" not in repr(network)
    if about.get("calibration") is None:
        calibration.check(about)
        network.save(path)
        return
    message = "got the calibration .*, allowed: one with a sigma_factor"
    for refused in (
        lambda: network.save(path),
        lambda: network.calibrate(*noisy(), samples=2),
    ):
        with pytest.raises(InputError, match=f"about: {message}"):
            refused()
    assert not path.exists()
    if any(word in repr(about) for word in ("nan", "inf")):
        return  # no JSON, so no file has it
    artifact.save(path, network.weights, MASKS, config={}, metadata={"run": about})
    with pytest.raises(InputError, match=rf"model\.ssvi: {message}"):
        ssvi_jax.load(path)
    with pytest.raises(InputError, match=rf"model\.ssvi: {message}"):
        subjects.find([], [path], [])


# A sparse network ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse():
    method = ssvi_jax.SSVI(sparsity=0.9, sigma_init=0.3)
    return ssvi_jax.fit(method, linen(mlp(), X), (X, Y), epochs=5, batch_size=64)


OPTIONS = {"samples": 5, "key": KEY}


def test_only_sigma_changes_and_it_predicts_what_is_said(sparse, tmp_path):
    held_out = TEST_X[:150], TEST_Y[:150]
    found = sparse.calibrate(*held_out, **OPTIONS)
    said = found.about["calibration"]
    assert said["sigma_factor"] != 1.0
    for network, name in ((sparse, "nll_before"), (found, "nll")):
        assert network.evaluate(*held_out, **OPTIONS)["nll"] == pytest.approx(
            said[name], abs=1e-6
        )
    assert said["nll"] < said["nll_before"]
    assert "calibration" not in sparse.about
    for path, before in sparse.weights.posterior.items():
        after = found.weights.posterior[path]
        np.testing.assert_array_equal(after.mean, before.mean)
        expected = said["sigma_factor"] * sigma64(before)
        np.testing.assert_allclose(sigma64(after), expected, rtol=1e-5)
    assert found.weights.params is sparse.weights.params
    found.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", mlp())
    assert again.about == found.about
    assert repr(again) == repr(found)
    factor = f"{said['sigma_factor']:.4g}"
    assert repr(found) == f"{repr(sparse)[:-1]}, calibrated: sigma × {factor})"
    assert again.evaluate(*held_out, **OPTIONS)["nll"] == pytest.approx(said["nll"])


@pytest.mark.skipif(
    not custom_calls.available() or jax.default_backend() != "cpu",
    reason=custom_calls.why_not(),
)
def test_sparse_products_find_the_same_factor(sparse):
    factors = [
        sparse.calibrate(TEST_X[:150], TEST_Y[:150], backend=backend, **OPTIONS).about[
            "calibration"
        ]["sigma_factor"]
        for backend in ("sparse", "xla")
    ]
    assert factors[0] == pytest.approx(factors[1], rel=0.01)


# What is refused ----------------------------------------------------------------------


def test_networks_without_a_gaussian_are_refused():
    x, y = noisy()
    point = Weights({"kernel": Point(jnp.ones(1))}, {}, {})
    dense = Weights({}, {"kernel": jnp.ones((1, 1))}, {})
    method = ssvi_jax.Rank1(members=2)
    rank1 = ssvi_jax.fit(method, linen(mlp(2, 8), x), (x, y), steps=2, batch_size=20)
    for network in (
        one_weight(weights=point),
        one_weight(weights=dense, masks={}),
        rank1,
    ):
        with pytest.raises(
            InputError, match=r"model: got .* without Gaussian .*rank-1"
        ):
            network.calibrate(x, y)


def test_points_beside_gaussians_stay(sparse):
    points = {
        path: Point(packed.mean) if i else packed
        for i, (path, packed) in enumerate(sparse.weights.posterior.items())
    }
    mixed = dataclasses.replace(
        sparse, weights=sparse.weights._replace(posterior=points)
    )
    found = mixed.calibrate(TEST_X[:50], TEST_Y[:50], **OPTIONS)
    for path, packed in found.weights.posterior.items():
        assert type(packed) is type(points[path])
        np.testing.assert_array_equal(packed.mean, points[path].mean)


def other(output, y):
    return -jnp.abs(output[:, 0] - y)


GOOD_X, GOOD_Y = noisy()
REFUSED = {
    "few": (
        {},
        (GOOD_X[:19], GOOD_Y[:19]),
        "x, y: got 19 examples, allowed: 20 or more",
    ),
    "lengths": ({}, (GOOD_X, GOOD_Y[:-1]), r"y: got shape \[399\] for 400 inputs"),
    "a column": (
        {},
        (GOOD_X, GOOD_Y[:, None]),
        r"^y: got shape \[400, 1\], allowed: \[400\], a class each, .*; y\[:, 0\]",
    ),
    "a column of counts": (
        {"apply_fn": linear, "likelihood": ssvi_jax.Poisson()},
        (GOOD_X, np.ones((400, 2))),
        r"^y: got shape \[400, 2\], needed: \[400\]",
    ),
    "negative": (
        {},
        (GOOD_X, GOOD_Y - 1),
        r"y: got -1 at example \d+, allowed: 0",
    ),
    "too many classes": (
        {},
        (GOOD_X, GOOD_Y + 1),
        "^y: got labels .* to 2, allowed: 0 to 1",
    ),
    "NaN": (
        {"apply_fn": linear, "likelihood": ssvi_jax.Normal(1.0)},
        (GOOD_X, np.full(400, np.nan)),
        "y: got nan at example 0, allowed: finite numbers",
    ),
    "no probability": (
        {"apply_fn": linear, "likelihood": ssvi_jax.Bernoulli()},
        (GOOD_X, GOOD_Y + 0.5),
        r"y: got 1.5 at example \d+, allowed: 0 and 1, or probabilities",
    ),
    "negative counts": (
        {"apply_fn": linear, "likelihood": ssvi_jax.Poisson()},
        (GOOD_X, 0 - GOOD_Y),
        r"y: got -1 at example \d+, allowed: whole numbers from 0",
    ),
    "function": (
        {"likelihood": likelihoods.Custom(other)},
        (GOOD_X, GOOD_Y),
        "likelihood: got Custom, which has no scores, allowed: Categorical",
    ),
    "samples": ({}, (GOOD_X, GOOD_Y), "^samples: got 0, allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    changes, data, message = REFUSED[case]
    samples = 0 if case == "samples" else 2
    with pytest.raises(InputError, match=message):
        one_weight(**changes).calibrate(*data, samples=samples)


def overflowing(params, model_state, x, *, train, key):
    """As `logistic`, but with no output where the weight is large."""
    logits, model_state = logistic(params, model_state, x, train=train, key=key)
    return jnp.where(jnp.abs(params["kernel"]) > 12, jnp.nan, logits), model_state


def test_factors_that_overflow_are_not_taken():
    x, y = noisy()
    options = {"samples": SAMPLES, "key": KEY}
    found = one_weight(overflowing).calibrate(x, y, **options)
    factor = found.about["calibration"]["sigma_factor"]
    assert 1.0 <= factor < 10
    assert np.isfinite(found.predict(x, **options).probs).all()
    with pytest.raises(InputError, match="not finite"):
        one_weight(overflowing, mean=13.0, sigma=0.1).calibrate(x, y, samples=5)

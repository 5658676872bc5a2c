import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, Gaussian, Point, Weights
from ssvi_jax.evaluation import predict as predict_command
from ssvi_jax.networks import network
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior, predictive

NUM_INPUTS, NUM_CLASSES = 7, 3


def plain(params, model_state, x, *, train, key):
    """A linear classifier; fails where prediction is not in evaluation mode."""
    assert not train
    shift = params["bias"] + model_state["shift"]
    return x @ params["kernel"] + shift[None], model_state


linear: ApplyFn = plain  # type: ignore[assignment]  # it may leave `kernels` out


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    mask = rng.random((4, NUM_CLASSES)) < 0.5
    count = int(mask.sum())
    gaussian = Gaussian(
        jnp.asarray(rng.normal(size=count), jnp.float32),
        jnp.asarray(rng.normal(size=count), jnp.float32),
    )
    params = {"bias": jnp.asarray(rng.normal(size=NUM_CLASSES), jnp.float32)}
    state = {"shift": jnp.asarray(rng.normal(size=NUM_CLASSES), jnp.float32)}
    x = rng.normal(size=(NUM_INPUTS, 4)).astype(np.float32)
    return Weights({"kernel": gaussian}, params, state), {"kernel": mask}, x


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def brute_force(weights, x, kernel):
    bias = np.asarray(weights.params["bias"], np.float64)
    return softmax(x @ kernel + bias + np.asarray(weights.model_state["shift"]))


def test_samples_alone_are_those_of_a_whole_prediction(problem):
    weights, masks, x = problem
    options = {"key": jax.random.key(5), "num_samples": 3}
    whole = predictive.predict(linear, weights, masks, x, **options)
    for selection in (masks, masks_lib.to_subspace(masks)):
        alone = predictive.predict_samples(linear, weights, selection, x, **options)
        np.testing.assert_array_equal(alone[0], whole.mc_probs)
        np.testing.assert_array_equal(alone[1], whole.sample_entropy)
        np.testing.assert_array_equal(alone[2], whole.sample_log_odds)


def test_samples_of_a_certain_network_are_one_pass(problem):
    weights, masks, x = problem
    certain = Weights({"kernel": Point(weights.posterior["kernel"].mean)}, *weights[1:])
    options = {"key": jax.random.key(5), "num_samples": 3}
    probs, *each = predictive.predict_samples(linear, certain, masks, x, **options)
    assert [scores.shape for scores in each] == 2 * [(1, NUM_INPUTS)]
    mean = predictive.predict_mean(linear, certain, masks, x)
    np.testing.assert_array_equal(probs, mean.astype(np.float32))
    with pytest.raises(InputError, match=r"^num_samples: got 0, allowed"):
        predictive.predict_samples(
            linear, certain, masks, x, key=jax.random.key(0), num_samples=0
        )


def test_masks_of_another_posterior_are_refused_in_either_form(problem):
    weights, masks, x = problem
    other = {"kernel": np.ones_like(masks["kernel"])}
    for selection in (other, masks_lib.to_subspace(other)):
        with pytest.raises(InputError, match="masks: do not fit the posterior"):
            predictive.predict_mean(linear, weights, selection, x)


def test_prediction_is_the_average_over_explicit_networks(problem):
    weights, masks, x = problem
    key, subspace = jax.random.key(5), masks_lib.to_subspace(masks)
    got = predictive.predict(linear, weights, masks, x, key=key, num_samples=4)
    probs = []
    for i in range(4):
        draw = posterior.sample(weights.posterior, subspace, jax.random.fold_in(key, i))
        kernel = np.asarray(draw["kernel"], np.float64)
        assert (kernel[~masks["kernel"]] == 0).all()
        probs.append(brute_force(weights, x, kernel))
    np.testing.assert_allclose(got.mc_probs, np.mean(probs, axis=0), rtol=1e-5)
    entropy = -np.sum(np.array(probs) * np.log(probs), axis=-1)
    np.testing.assert_allclose(got.sample_entropy, entropy, rtol=1e-4)
    largest = np.max(probs, axis=-1)
    odds = np.log(largest / (1 - largest))
    np.testing.assert_allclose(got.sample_log_odds, odds, rtol=1e-4, atol=1e-5)
    mean = np.zeros(masks["kernel"].shape)
    mean[masks["kernel"]] = weights.posterior["kernel"].mean
    np.testing.assert_allclose(got.mean_probs, brute_force(weights, x, mean), rtol=1e-5)
    assert {array.dtype for array in got} == {np.dtype(np.float32)}


def test_many_samples_come_to_the_integral(problem):
    weights, masks, x = problem
    got = predictive.predict(
        linear, weights, masks, x, key=jax.random.key(0), num_samples=400
    )
    rng = np.random.default_rng(1)
    mean, rho = (np.asarray(leaf, np.float64) for leaf in weights.posterior["kernel"])
    noise = rng.normal(size=(20_000, mean.size)) * np.logaddexp(0, rho)
    kernels = np.zeros((20_000, *masks["kernel"].shape))
    kernels[:, masks["kernel"]] = mean + noise
    probs = np.stack([brute_force(weights, x, kernel) for kernel in kernels])
    error = probs.std(axis=0) * np.sqrt(1 / 400 + 1 / 20_000)
    assert (np.abs(got.mc_probs - probs.mean(axis=0)) < 5 * error).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_matter(problem, batch_size):
    weights, masks, x = problem
    key = jax.random.key(1)
    one, two = (
        predictive.predict(
            linear, weights, masks, x, key=key, num_samples=2, batch_size=size
        )
        for size in (batch_size, 500)
    )
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_key_decides(problem):
    weights, masks, x = problem
    one, same, other = (
        predictive.predict(
            linear, weights, masks, x, key=jax.random.key(k), num_samples=2
        )
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.mc_probs, same.mc_probs)
    assert (one.mc_probs != other.mc_probs).any()
    np.testing.assert_array_equal(one.mean_probs, other.mean_probs)


def test_a_network_without_a_posterior_is_its_own_sample(problem):
    weights, _, x = problem
    kernel = jnp.asarray(np.ones((4, 1)) * np.arange(NUM_CLASSES), jnp.float32)
    dense = Weights({}, {**weights.params, "kernel": kernel}, weights.model_state)
    got = predictive.predict(
        linear, dense, {}, x, key=jax.random.key(0), num_samples=10
    )
    np.testing.assert_array_equal(got.mc_probs, got.mean_probs)
    assert got.sample_entropy.shape == (1, NUM_INPUTS)
    expected = brute_force(weights, x, np.asarray(kernel))
    np.testing.assert_allclose(got.mc_probs, expected, rtol=1e-5)
    alone = predictive.predict_mean(linear, dense, {}, x)
    np.testing.assert_allclose(alone, expected, rtol=1e-5)


def test_certain_predictions_have_no_entropy(problem):
    weights, masks, x = problem
    sure = weights._replace(params={"bias": jnp.array([0.0, 500.0, 0.0])})
    got = predictive.predict(
        linear, sure, masks, x, key=jax.random.key(0), num_samples=2
    )
    assert (got.mc_probs[:, 1] == 1).all()
    assert np.isfinite(got.sample_entropy).all()
    assert np.abs(got.sample_entropy).max() < 1e-6
    # Probabilities are 1 in every bit, and the samples differ all the same.
    assert (np.abs(got.sample_log_odds - 500) < 50).all()
    assert (np.ptp(got.sample_log_odds, axis=0) > 0.01).all()


@pytest.mark.parametrize("where", ["mean", "rho", "bias", "input"])
def test_nan_never_passes(problem, where):
    weights, masks, x = problem
    if where == "input":
        x = x.copy()
        x[4, 0] = np.nan
    elif where == "bias":
        weights = weights._replace(params={"bias": jnp.array([0.0, jnp.nan, 0.0])})
    else:
        gaussian = weights.posterior["kernel"]
        bad = gaussian._replace(**{where: getattr(gaussian, where).at[0].set(jnp.nan)})
        weights = weights._replace(posterior={"kernel": bad})
    number = 4 if where == "input" else 0
    with pytest.raises(InputError, match=f"input {number} got a probability that is n"):
        predictive.predict(
            linear, weights, masks, x, key=jax.random.key(0), batch_size=2
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_samples": 0}, "num_samples: got 0, allowed"),
        ({"batch_size": 0}, "batch_size: got 0, allowed"),
        ({"num_samples": 2.5}, "num_samples: got 2.5, allowed: a whole number"),
        ({"batch_size": True}, "batch_size: got True, allowed: a whole number"),
        ({"x": np.zeros((0, 4), np.float32)}, "x: got no inputs"),
    ],
)
def test_arguments_are_checked(problem, changes, words):
    weights, masks, x = problem
    arguments = {"x": x, "key": jax.random.key(0)} | changes
    with pytest.raises(InputError, match=words):
        predictive.predict(linear, weights, masks, **arguments)


# The command --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return smoke_run.smoke().folder / "model.ssvi"


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, data.load("digits").test_images[:5])
    return path


def test_the_command_prints_a_line_an_image(model, images, tmp_path):
    out = tmp_path / "p.npz"
    flags = ["--samples", "3", "--seed", "9", "--out", out]
    outcome = smoke_run.call(predict_command.main, model, images, *flags)
    assert outcome.code == 0, outcome.err
    net, weights, masks = network.load(model)
    key = jax.random.key(9)
    backend = predictive.backend_for(masks)
    expected = predictive.predict(
        net, weights, masks, np.load(images), key=key, num_samples=3, backend=backend
    )
    with np.load(out) as stored:
        for name, array in expected._asdict().items():
            np.testing.assert_array_equal(stored[name], array)
    head, *rows = outcome.out.splitlines()
    names = "image class probability entropy mutual information logit disagreement"
    assert head.split() == names.split()
    assert len(rows) == 5
    for i, row in enumerate(rows):
        number, label, prob, entropy, information, spread = map(float, row.split())
        probs = expected.mc_probs[i].astype(np.float64)
        assert (number, label) == (i, probs.argmax())
        assert prob == pytest.approx(probs.max(), abs=1e-4)
        assert entropy == pytest.approx(-(probs * np.log(probs)).sum(), abs=1e-4)
        gap = entropy - expected.sample_entropy[:, i].mean()
        assert information == pytest.approx(gap, abs=2e-4)
        assert spread == pytest.approx(expected.sample_log_odds[:, i].std(), abs=1e-4)


def test_the_command_is_a_command(model, images):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ssvi_jax.evaluation.predict",
            model,
            images,
            "--samples",
            "2",
        ],
        env=os.environ
        | {"PYTHONPATH": str(smoke_run.ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6


def write_images(path, kind):
    good = np.zeros((2, 8, 8, 1), np.uint8)
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        np.save(path, good)
        path.write_bytes(path.read_bytes()[:-5])
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, good)
    elif kind == "objects":
        np.save(path, np.array([{}, []], object))
    elif kind != "missing":
        arrays = {
            "floats": good.astype(np.float32),
            "one image": good[0],
            "colour": np.zeros((2, 8, 8, 3), np.uint8),
            "number": np.uint8(3),
            "none": good[:0],
        }
        np.save(path, arrays[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "No such file"),
        ("text", "as .npy: "),
        ("empty", "as .npy: "),
        ("cut", "as .npy: "),
        ("npz", "as .npy: "),
        ("objects", "as .npy: "),
        ("floats", "holds float32 [2, 8, 8, 1]; this model needs uint8 [n, 8, 8, 1]"),
        ("one image", "holds uint8 [8, 8, 1]; this model needs"),
        ("colour", "holds uint8 [2, 8, 8, 3]; this model needs"),
        ("number", "holds uint8 []; this model needs"),
        ("none", "got no inputs"),
    ],
)
def test_images_that_are_none(model, tmp_path, kind, words):
    path = tmp_path / "images.npy"
    write_images(path, kind)
    outcome = smoke_run.call(predict_command.main, model, path)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert words in outcome.err
    assert outcome.out == ""


def test_a_model_that_is_none(images, tmp_path):
    outcome = smoke_run.call(predict_command.main, tmp_path / "none.ssvi", images)
    assert (outcome.code, outcome.out) == (2, "")
    assert "there is no such file" in outcome.err


@pytest.mark.parametrize("flags", [["--samples", "0"], ["--seed", "-1"], ["--x"]])
def test_flags_out_of_range(model, images, flags):
    outcome = smoke_run.call(predict_command.main, model, images, *flags)
    assert outcome.code == 2
    assert flags[0] in outcome.err


def test_an_output_that_cannot_be_written(model, images, tmp_path):
    outcome = smoke_run.call(
        predict_command.main, model, images, "--out", tmp_path / "no" / "p.npz"
    )
    assert outcome.code == 2
    assert "No such file or directory" in outcome.err

"""The command that calibrates a model file on the validation split."""

import jax
import numpy as np
import pytest
import smoke_run

import ssvi_jax
from ssvi_jax import data, metrics
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.data import shifted
from ssvi_jax.evaluation import calibrate
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.io import artifact
from ssvi_jax.networks import network
from ssvi_jax.vi import predictive

OPTIONS = ["--samples", "3", "--seed", "4"]


@pytest.fixture(scope="module")
def model():
    return smoke_run.smoke().folder / "model.ssvi"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def wide(model, tmp_path_factory):
    """The shared model with standard deviations that are far too large."""
    path = tmp_path_factory.mktemp("wide") / "wide.ssvi"
    file = artifact.load(model)
    posterior = {
        path: Gaussian(packed.mean, packed.rho + 6.0)
        for path, packed in file.weights.posterior.items()
        if isinstance(packed, Gaussian)
    }
    return rewritten(model, path, posterior=posterior)


@pytest.fixture(scope="module")
def calibrated(wide, tmp_path_factory):
    """Its outcome and the new file."""
    out = tmp_path_factory.mktemp("calibrated") / "new.ssvi"
    return smoke_run.call(calibrate.main, wide, "--out", out, *OPTIONS), out


def rewritten(model, path, *, posterior=None, **run):
    """A model file with another posterior, or other words on its run."""
    file = artifact.load(model)
    weights = file.weights
    if posterior is not None:
        weights = weights._replace(posterior=posterior)
    about = {**file.metadata["run"], **run}
    metadata = {
        **file.metadata,
        "run": {k: v for k, v in about.items() if v is not None},
    }
    artifact.save(path, weights, file.masks(), config=file.config, metadata=metadata)
    return path


def nll(path, images, labels):
    """Of three samples, without the command."""
    net, weights, masks = network.load(path)
    key = jax.random.key(4)
    found = predictive.predict(net, weights, masks, images, key=key, num_samples=3)
    return metrics.nll(found.mc_probs, labels)


def sigmas(path):
    posterior = artifact.load(path).weights.posterior
    return {
        path: np.logaddexp(0, np.asarray(packed.rho, np.float64))
        for path, packed in posterior.items()
        if isinstance(packed, Gaussian)
    }


def test_the_new_model_has_the_sigma_and_the_nll_that_are_said(
    wide, calibrated, digits
):
    outcome, out = calibrated
    assert outcome.code == 0, outcome.err
    said = artifact.load(out).metadata["run"]["calibration"]
    val = digits.val_images, digits.val_labels
    assert said["nll_before"] == pytest.approx(nll(wide, *val), rel=1e-4)
    assert said["nll"] == pytest.approx(nll(out, *val), rel=1e-4)
    assert said["nll"] < said["nll_before"] - 0.01
    assert said["sigma_factor"] < 0.7
    assert (said["examples"], said["samples"]) == (143, 3)
    before, after = sigmas(wide), sigmas(out)
    assert len(before) == len(after) == 3
    for path in before:
        expected = said["sigma_factor"] * before[path]
        np.testing.assert_allclose(after[path], expected, rtol=1e-4)
    lines = outcome.out.splitlines()
    assert lines[0].startswith("143 validation images, 3 samples: ")
    assert f"NLL {said['nll_before']:.4f} → {said['nll']:.4f} nats" in lines[1]
    assert lines[2] == str(out)


def test_all_else_is_as_it_was(wide, calibrated):
    old, new = artifact.load(wide), artifact.load(calibrated[1])
    assert new.config == old.config
    assert new.half is old.half
    assert new.metadata["step"] == old.metadata["step"]
    run = {**new.metadata["run"]}
    assert run.pop("calibration")
    assert run == old.metadata["run"]
    for path, packed in old.weights.posterior.items():
        np.testing.assert_array_equal(new.weights.posterior[path].mean, packed.mean)
        np.testing.assert_array_equal(new.index[path], old.index[path])
    for ours, theirs in zip(
        *(jax.tree.leaves(file.weights[1:]) for file in (new, old)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_evaluation_names_the_factor(wide, calibrated, digits):
    found = [
        subjects.load(source, digits)
        for source in subjects.find([], [wide, calibrated[1]], [])
    ]
    said = artifact.load(calibrated[1]).metadata["run"]["calibration"]
    assert found[0].about["sigma_factor"] is None
    assert "σ" not in found[0].label
    assert found[1].about["sigma_factor"] == said["sigma_factor"]
    assert found[1].label == f"{found[0].label}, σ × {said['sigma_factor']:.3g}"


def test_half_precision_is_kept_and_a_model_may_be_replaced(model, tmp_path):
    copy = tmp_path / "model.ssvi"
    copy.write_bytes(model.read_bytes())
    outcome = smoke_run.call(
        calibrate.main, copy, "--out", copy, "--images", "30", "--overwrite"
    )
    assert outcome.code == 0, outcome.err
    file = artifact.load(copy)
    assert file.half
    said = file.metadata["run"]["calibration"]
    assert (said["examples"], said["samples"]) == (30, 3)  # samples as the run had
    assert "30 validation images, 3 samples" in outcome.out
    assert copy.stat().st_size < 1.1 * model.stat().st_size


def test_validation_images_are_corrupted_as_in_training(wide, digits, tmp_path):
    changes = {"train_corruption": "contrast", "train_severity": 5, "seed": 2}
    path = rewritten(wide, tmp_path / "m.ssvi", **changes)
    options = [*OPTIONS, "--overwrite"]
    outcome = smoke_run.call(calibrate.main, path, "--out", path, *options)
    assert outcome.code == 0, outcome.err
    assert "corrupted by contrast, severity 5, seed 2" in outcome.out
    said = artifact.load(path).metadata["run"]["calibration"]
    images = shifted.corrupt_training(digits, "contrast", 5, seed=2).val_images
    assert said["nll_before"] == pytest.approx(
        nll(wide, images, digits.val_labels), rel=1e-4
    )


def test_what_cannot_be_calibrated_is_refused(model, tmp_path):
    posterior = artifact.load(model).weights.posterior
    points = {path: Point(packed.mean) for path, packed in posterior.items()}
    path = rewritten(model, tmp_path / "points.ssvi", posterior=points)
    own = tmp_path / "own.ssvi"
    trained = ssvi_jax.load(model)
    described = {"kind": "flax", "structure": {}, "noise": False}
    artifact.save(own, trained.weights, trained.masks, config=described)
    damaged = {"train_corruption": "fog", "train_severity": "much"}
    refused = {
        tmp_path / "none.ssvi": "there is no such file",
        path: "without Gaussian kernels",
        own: f"ssvi_jax.load('{own}', module).calibrate(x, y).save(path)",
        model.parent: f"a folder, allowed: a model file; give {model}",
        rewritten(model, tmp_path / "unsaid.ssvi", dataset=None): "does not say what",
        rewritten(model, tmp_path / "set.ssvi", dataset="moon"): "moon",
        rewritten(model, tmp_path / "run.ssvi", **damaged): "its run is damaged",
    }
    for file, words in refused.items():
        outcome = smoke_run.call(calibrate.main, file, "--out", tmp_path / "new.ssvi")
        assert (outcome.code, outcome.out) == (2, ""), file
        assert words in outcome.err
    assert not (tmp_path / "new.ssvi").exists()


def test_no_file_is_overwritten_without_a_word(model, tmp_path):
    copy, other = tmp_path / "model.ssvi", tmp_path / "other.ssvi"
    for path in (copy, other):
        path.write_bytes(model.read_bytes())
        outcome = smoke_run.call(calibrate.main, copy, "--out", path, *OPTIONS)
        assert outcome.code == 2
        assert f"--out: got {path}, which exists" in outcome.err
        assert "--overwrite" in outcome.err
        assert path.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("metadata", [{}, {"samples": 0}, {"samples": "3"}])
def test_files_that_name_no_samples_get_10(metadata):
    assert calibrate._samples(metadata) == 10
    assert calibrate._samples({"samples": 4}) == 4


@pytest.mark.parametrize(
    "flags", [["--samples", "0"], ["--images", "-1"], ["--seed", "-1"], ["--x"]]
)
def test_flags_out_of_range(model, tmp_path, flags):
    outcome = smoke_run.call(calibrate.main, model, "--out", tmp_path / "m", *flags)
    assert outcome.code == 2
    assert flags[0] in outcome.err


def test_few_images_are_refused(model, tmp_path):
    flags = ["--out", tmp_path / "m.ssvi", "--images", "5"]
    outcome = smoke_run.call(calibrate.main, model, *flags)
    assert outcome.code == 2
    assert "got 5 examples, allowed: 20 or more" in outcome.err


def test_a_folder_to_write_is_refused_before_the_search(model, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", None)
    outcome = smoke_run.call(calibrate.main, model, "--out", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"got {tmp_path}, a folder, allowed: a file, as {tmp_path}" in outcome.err

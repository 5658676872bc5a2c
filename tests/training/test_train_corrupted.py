import dataclasses
import json
import os
import signal

import hypothesis
import numpy as np
import pytest
import smoke_run
from hypothesis import strategies as st

from ssvi_jax import corruptions, data
from ssvi_jax.core.errors import InputError
from ssvi_jax.data import shifted
from ssvi_jax.data.dataset import Corruption
from ssvi_jax.io import run_log
from ssvi_jax.networks import network
from ssvi_jax.training import train
from ssvi_jax.vi import predictive

FLAGS = ["--train-corruption", "gaussian_noise", "--train-severity", "4"]
CHANGES = {"train_corruption": "gaussian_noise", "train_severity": 4}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def noisy(digits):
    return shifted.corrupt_training(digits, "gaussian_noise", 4, seed=0)


# The data set -------------------------------------------------------------------------


def test_training_and_validation_images_are_corrupted(digits, noisy):
    for split in ("train_images", "val_images"):
        ours, theirs = getattr(noisy, split), getattr(digits, split)
        assert (ours.shape, ours.dtype) == (theirs.shape, np.uint8)
        changed = (ours != theirs).any(axis=(1, 2, 3))
        assert changed.all()
        # Noise, not another image: right on average.
        assert np.abs(ours.astype(float) - theirs).mean() < 40


def test_labels_and_test_images_stay(digits, noisy):
    for name in ("train_labels", "val_labels", "test_labels", "test_images"):
        np.testing.assert_array_equal(getattr(noisy, name), getattr(digits, name))
    assert (digits.corruption, digits.source.count("corrupted")) == (None, 0)


def test_test_images_are_corrupted_as_an_evaluation_would(digits, noisy):
    expected = corruptions.corrupt_any(digits.test_images, "gaussian_noise", 4, seed=0)
    assert (noisy.corruption.name, noisy.corruption.severity) == ("gaussian_noise", 4)
    np.testing.assert_array_equal(noisy.corruption.test_images, expected)


def test_moments_are_of_the_images_that_are_trained_on(digits, noisy):
    pixels = noisy.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(noisy.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(noisy.std, pixels.std(axis=(0, 1, 2)), rtol=1e-5)
    assert noisy.mean != digits.mean


def test_the_source_says_so(digits, noisy):
    assert noisy.source == (
        f"{digits.source}; training and validation images corrupted by "
        "gaussian_noise, severity 4, seed 0"
    )


def grey_set(digits, sizes, channels):
    """Images without content, so that what differs is noise; labels 0, 1, 2, …"""
    parts = {}
    for split, count in zip(SPLITS, sizes, strict=True):
        shape = (count, 8, 8, channels)
        parts[f"{split}_images"] = np.full(shape, 128, np.uint8)
        parts[f"{split}_labels"] = np.arange(count, dtype=np.int32)
    return dataclasses.replace(digits, **parts)


@hypothesis.given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    channels=st.sampled_from([1, 3]),
    name=st.sampled_from(["gaussian_noise", "shot_noise", "speckle_noise"]),
    severity=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_two_images_share_their_noise(digits, sizes, channels, name, severity, seed):
    clean = grey_set(digits, sizes, channels)
    got, again, other = (
        shifted.corrupt_training(clean, name, severity, seed=s)
        for s in (seed, seed, (seed + 1) % 2**32)
    )
    assert got.corruption is not None
    images = np.concatenate(
        [got.train_images, got.val_images, got.corruption.test_images]
    )
    assert len(np.unique(images, axis=0)) == sum(sizes)
    assert (got.test_images == 128).all()
    for split, count in zip(SPLITS, sizes, strict=True):
        labels = getattr(got, f"{split}_labels")
        np.testing.assert_array_equal(labels, np.arange(count))
    np.testing.assert_array_equal(got.train_images, again.train_images)
    np.testing.assert_array_equal(got.val_images, again.val_images)
    assert (got.train_images != other.train_images).any()


def test_none_changes_nothing(digits):
    assert shifted.corrupt_training(digits, "none", 3, seed=0) is digits


@pytest.mark.parametrize(
    ("name", "severity", "words"),
    [
        ("rain", 3, "train_corruption: got 'rain', allowed: .*fog.*zoom_blur"),
        ("fog", 0, "train_severity: got 0, allowed: 1 to 5"),
        ("fog", 6, "train_severity: got 6, allowed: 1 to 5"),
    ],
)
def test_what_cannot_be_done_is_refused(digits, name, severity, words):
    with pytest.raises(InputError, match=words):
        shifted.corrupt_training(digits, name, severity, seed=0)


def test_nothing_is_corrupted_twice(noisy):
    with pytest.raises(InputError, match="corrupted by gaussian_noise already"):
        shifted.corrupt_training(noisy, "fog", 1, seed=0)


# Configuration and data must agree ----------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "corrupted", "words"),
    [
        (CHANGES, False, "got gaussian_noise, severity 4, .* have none; make"),
        ({}, True, "got none, .* have gaussian_noise, severity 4; make"),
        (CHANGES | {"train_severity": 5}, True, ".* severity 5, .* severity 4; make"),
    ],
)
def test_a_run_trains_on_what_it_says(
    digits, noisy, tmp_path, changes, corrupted, words
):
    dataset = noisy if corrupted else digits
    with pytest.raises(InputError, match=f"^train_corruption: {words}"):
        smoke_run.tiny_train(tmp_path, dataset, **changes)
    assert list(tmp_path.iterdir()) == []


# The command --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sparse run on corrupted digits with test curves: folder and outcome."""
    folder = tmp_path_factory.mktemp("noisy") / "run"
    flags = [*FLAGS, "--epochs", "2", "--test-every", "1", "--no-figures"]
    return folder, smoke_run.command(*smoke_run.TINY, *flags, "--out", folder)


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_the_command_says_what_it_trained_on(run):
    folder, outcome = run
    assert (outcome.code, outcome.err) == (0, "")
    assert "images corrupted by gaussian_noise, severity 4, seed 0" in outcome.out
    assert "trained on gaussian_noise, severity 4" in outcome.out
    assert "test set, corrupted" in outcome.out
    summary, config = read(folder, "summary.json"), read(folder, "config.json")
    assert "gaussian_noise, severity 4" in summary["data_source"]
    assert config["data_source"] == summary["data_source"]
    assert config["config"].items() >= CHANGES.items()
    assert summary.items() >= CHANGES.items()


def test_both_test_sets_are_in_events_and_summary(run):
    folder, _ = run
    summary = read(folder, "summary.json")
    epochs = [e for e in smoke_run.events(folder) if e["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2]
    (chosen,) = (event for event in epochs if event["step"] == summary["step"])
    for split in ("val", "test", "test_corrupted"):
        assert summary[split].keys() == {"mc", "mean"}
        for score in ("accuracy", "nll", "brier", "ece"):
            assert summary[split]["mean"][score] == pytest.approx(chosen[split][score])
    assert summary["test"]["mc"]["nll"] != summary["test_corrupted"]["mc"]["nll"]


def test_scores_are_those_of_the_model_file_on_these_images(run, noisy):
    folder, _ = run
    net, weights, masks = network.load(folder / "model.ssvi")
    summary, labels = read(folder, "summary.json"), noisy.test_labels
    sets = {"test": noisy.test_images, "test_corrupted": noisy.corruption.test_images}
    for split, images in sets.items():
        probs = predictive.predict_mean(net, weights, masks, images)
        # The file holds half precision: one image in 360 may tip over.
        accuracy = (probs.argmax(-1) == labels).mean()
        assert summary[split]["mean"]["accuracy"] == pytest.approx(accuracy, abs=0.003)
        nll = -np.log(probs[np.arange(len(labels)), labels]).mean()
        assert summary[split]["mean"]["nll"] == pytest.approx(nll, rel=0.01)
    validation = predictive.predict_mean(net, weights, masks, noisy.val_images)
    accuracy = (validation.argmax(-1) == noisy.val_labels).mean()
    assert summary["val"]["mean"]["accuracy"] == pytest.approx(accuracy, abs=0.006)


def test_the_model_normalizes_with_the_corrupted_moments(run, noisy):
    net, _, _ = network.load(run[0] / "model.ssvi")
    assert net.spec.mean == tuple(map(float, noisy.mean))
    assert net.spec.std == tuple(map(float, noisy.std))


def test_training_looks_at_no_test_image(noisy, tmp_path):
    corruption = Corruption("gaussian_noise", 4, None)  # type: ignore[arg-type]
    hidden = dataclasses.replace(
        noisy, test_images=None, test_labels=None, corruption=corruption
    )
    changes = CHANGES | {"method": "deterministic", "epochs": 1}
    assert smoke_run.tiny_train(tmp_path, hidden, **changes).signal == 0
    assert not any("test" in event for event in smoke_run.events(tmp_path))


# Resuming -----------------------------------------------------------------------------


def stop_at(monkeypatch, step):
    append = run_log.RunLog.append

    def send(self, event):
        append(self, event)
        if event["event"] == "phase" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_log.RunLog, "append", send)


def test_a_resumed_run_repeats_an_uninterrupted_one(
    digits, noisy, tmp_path, monkeypatch
):
    whole, part = tmp_path / "whole", tmp_path / "part"
    changes = CHANGES | {"method": "deterministic", "epochs": 2, "test_every": 1}
    smoke_run.tiny_train(whole, noisy, **changes)
    with monkeypatch.context() as patch:
        stop_at(patch, 20)
        stopped = smoke_run.tiny_train(part, noisy, **changes)
    assert (stopped.signal, stopped.step) == (signal.SIGTERM, 20)
    anew = shifted.corrupt_training(digits, "gaussian_noise", 4, seed=0)
    resumed = smoke_run.tiny_train(part, anew, resume=True, **changes)
    assert (resumed.signal, resumed.step) == (0, 40)
    assert smoke_run.events(part) == smoke_run.events(whole)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(part), smoke_run.checkpoint_bytes(whole)
    )
    for name, severity, words in (
        ("gaussian_noise", 5, "train_severity: saved 4, now 5"),
        ("shot_noise", 4, 'train_corruption: saved "gaussian_noise", now "shot_noise"'),
        ("none", 3, 'train_corruption: saved "gaussian_noise", now "none"'),
    ):
        other = shifted.corrupt_training(digits, name, severity, seed=0)
        changes |= {"train_corruption": name, "train_severity": severity}
        with pytest.raises(InputError, match=words):
            smoke_run.tiny_train(part, other, resume=True, **changes)


def test_the_default_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(train, "train", lambda *args: seen.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        smoke_run.command(*smoke_run.TINY, *FLAGS)
    ((config, dataset, log),) = seen
    assert str(log.folder) == "runs/digits-ssvi-s95-gaussian_noise-4"
    trained_on = config.data.train_corruption, config.data.train_severity
    assert dataset.corruption[:2] == trained_on
    assert list(tmp_path.iterdir()) == []

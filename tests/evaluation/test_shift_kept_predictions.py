from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import smoke_run

from ssvi_jax import data, metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift import examples, kept_predictions, results, subjects
from ssvi_jax.evaluation.shift.kept_predictions import ImageSet, Predictions


@pytest.fixture(scope="module")
def subject():
    (source,) = subjects.find([smoke_run.smoke().folder], [], [])
    return subjects.load(source, data.load("digits"))


@pytest.fixture(scope="module")
def images():
    digits = data.load("digits")
    return ImageSet("fog/3", digits.test_images[:40], digits.test_labels[:40])


def test_predictions_are_those_of_predict(subject, images, tmp_path):
    found = Predictions(tmp_path, samples=3, seed=5).get(subject, images)
    direct = kept_predictions.predict(
        subject.network,
        subject.weights,
        subject.masks,
        images.images,
        key=kept_predictions.jax.random.key(5),
        num_samples=3,
        backend=kept_predictions.backend_for(subject.masks),
    )
    np.testing.assert_array_equal(found.probs["mc"], direct.mc_probs)
    np.testing.assert_array_equal(found.probs["mean"], direct.mean_probs)
    np.testing.assert_array_equal(found.sample_entropy, direct.sample_entropy)
    np.testing.assert_array_equal(found.sample_log_odds, direct.sample_log_odds)
    assert found.entropies("mean") is None
    assert found.entropies("mc") is found.sample_entropy
    assert found.log_odds("mean") is None
    assert found.log_odds("mc") is found.sample_log_odds
    np.testing.assert_array_equal(found.labels, images.labels)


def test_what_is_kept_is_not_predicted_again(subject, images, tmp_path):
    first = Predictions(tmp_path, samples=2, seed=0)
    assert not first.has(subject.name, "fog/3")
    found = first.get(subject, images)
    assert first.has(subject.name, "fog/3")
    other = images._replace(images=255 - images.images)
    again = Predictions(tmp_path, samples=2, seed=0).get(subject, other)
    for name in ("mc", "mean"):
        np.testing.assert_array_equal(again.probs[name], found.probs[name])


def test_samples_are_the_same_networks_for_every_set(subject, images, tmp_path):
    whole = Predictions(tmp_path / "a", samples=2, seed=0).get(subject, images)
    part = ImageSet("part", images.images[7:9], images.labels[7:9])
    alone = Predictions(tmp_path / "b", samples=2, seed=0).get(subject, part)
    np.testing.assert_allclose(alone.probs["mc"], whole.probs["mc"][7:9], atol=1e-6)


def test_pooled_scores_are_those_of_all_examples(subject, images, tmp_path):
    kept = Predictions(tmp_path, samples=2, seed=0)
    names = ["fog/1", "fog/2", "snow/1"]
    parts = [
        kept.get(subject, ImageSet(name, images.images[i::3], images.labels[i::3]))
        for i, name in enumerate(names)
    ]
    pooled = kept.pooled(subject.name, names)
    sizes = [len(part.labels) for part in parts]
    each = [metrics.accuracy(p.probs["mc"], p.labels) for p in parts]
    assert metrics.accuracy(pooled.probs["mc"], pooled.labels) == pytest.approx(
        np.average(each, weights=sizes)
    )
    assert pooled.sample_entropy is not None
    assert pooled.sample_entropy.shape == (2, 40)
    assert pooled.sample_log_odds is not None
    odds = [part.sample_log_odds for part in parts if part.sample_log_odds is not None]
    np.testing.assert_array_equal(pooled.sample_log_odds, np.hstack(odds))


def without_log_odds(path):
    """Rewrites predictions as earlier versions kept them."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored if name != "sample_log_odds"}
    assert "sample_entropy" in arrays
    np.savez_compressed(path, **arrays)


def test_predictions_of_an_earlier_version_have_no_logit_disagreement(
    subject, images, tmp_path
):
    kept = Predictions(tmp_path, samples=2, seed=0)
    names = ["clean", "val", "ood/noise", "fog/1"]
    parts = [kept.get(subject, images._replace(name=name)) for name in names]
    without_log_odds(tmp_path / subject.name / "ood-noise.npz")
    old = kept.read(subject.name, "ood/noise")
    assert old.sample_log_odds is None
    np.testing.assert_array_equal(old.sample_entropy, parts[2].sample_entropy)
    assert "logit_disagreement" not in results.scores(old, "mc")
    assert results.scores(old, "mc")["mutual_information"] > 0
    # Old and new ones together: only what all have.
    pooled = kept.pooled(subject.name, names)
    assert pooled.sample_log_odds is None
    assert pooled.sample_entropy is not None
    what = {"benchmark": ["fog"], "extra": [], "severities": [1], "baseline": None}
    (run,) = results.build(kept, [subject], ood=["noise"], **what)
    network = run["networks"]["mc"]
    three = ["entropy", "max_probability", "mutual_information"]
    assert list(network["ood"]["noise"]) == list(network["curves"]["roc"]["noise"])
    assert list(network["ood"]["noise"]) == three
    assert network["clean"]["logit_disagreement"] > 0
    looks: Any = SimpleNamespace(
        names=names, ood=[SimpleNamespace(name="noise")], read=lambda _: images
    )
    shown = examples.examples(kept, [subject], looks)
    assert shown["mutual_information_0"].shape == shown["labels"].shape == (6, 2)
    assert "logit_disagreement_0" not in shown
    without_log_odds(tmp_path / subject.name / "fog-1.npz")
    (run,) = results.build(kept, [subject], ood=["noise"], **what)
    assert "logit_disagreement" not in run["networks"]["mc"]["cells"]["fog"][0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", None])
def test_damaged_predictions_are_named(subject, content, tmp_path):
    kept = Predictions(tmp_path, samples=2, seed=0)
    (tmp_path / subject.name).mkdir()
    path = tmp_path / subject.name / "fog-3.npz"
    if content is None:
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"fog-3.npz"):
        kept.read(subject.name, "fog/3")

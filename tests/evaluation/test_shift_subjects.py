import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import smoke_run

from ssvi_jax import data, metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.io import artifact
from ssvi_jax.networks.models import mlp
from ssvi_jax.training import train
from ssvi_jax.vi import predictive


@pytest.fixture(scope="module")
def run() -> Path:
    return smoke_run.smoke().folder


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_run_model_and_checkpoint_are_the_same_network(run, digits):
    sources = subjects.find([run], [run / "model.ssvi"], [run])
    assert [source.name for source in sources] == ["run", "run-2", "run-3"]
    assert {source.dataset for source in sources} == {"digits"}
    found = [subjects.load(source, digits) for source in sources]
    accuracies = []
    for subject in found:
        probs = predictive.predict_mean(
            subject.network, subject.weights, subject.masks, digits.test_images
        )
        accuracies.append(metrics.accuracy(probs, digits.test_labels))
    summary = json.loads((run / "summary.json").read_text())
    assert accuracies[2] == summary["test"]["mean"]["accuracy"]
    np.testing.assert_allclose(accuracies, accuracies[2], atol=2 / 360)


def test_what_a_subject_is(run, digits):
    (source,) = subjects.find([run], [], [])
    subject = subjects.load(source, digits)
    summary = json.loads((run / "summary.json").read_text())
    for name in ("method", "model", "sparsity", "weights_kept", "weights_total"):
        assert subject.about[name] == summary[name]
    assert subject.label == f"ssvi, {100 * summary['sparsity']:.4g} % sparse"


def test_digest_changes_with_the_weights(run, tmp_path):
    copy = smoke_run.copy_of(run, tmp_path / "run")
    (before,) = subjects.find([copy], [], [])
    digest = before.digest
    assert digest == subjects.find([run], [], [])[0].digest
    with (copy / "model.ssvi").open("ab") as file:
        file.write(b"x")
    assert before.digest != digest


def test_opening_a_checkpoint_changes_nothing_on_disk(run, digits, tmp_path):
    copy = smoke_run.copy_of(run, tmp_path / "run")
    unfinished = copy / "checkpoints" / "99.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(copy.rglob("*"))
    (source,) = subjects.find([], [], [copy / "checkpoints"])
    subjects.load(source, digits)
    assert sorted(copy.rglob("*")) == before


def test_newest_run(run, tmp_path):
    assert subjects.newest_run(tmp_path / "nowhere") is None
    for number, name in enumerate(("b", "a", "c")):
        (tmp_path / name).mkdir()
        shutil.copy(run / "model.ssvi", tmp_path / name)
        stamp = (number, number)
        os.utime(tmp_path / name / "model.ssvi", stamp)
    (tmp_path / "later-without-a-model").mkdir()
    assert subjects.newest_run(tmp_path) == tmp_path / "c"


def test_missing_files_are_named(run, tmp_path):
    with pytest.raises(InputError, match=r"--run: .*nothing.*model.ssvi is missing"):
        subjects.find([tmp_path / "nothing"], [], [])
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="Give the folder that a finished run left"):
        subjects.find([tmp_path], [], [])  # it was stopped before it saved
    (tmp_path / "checkpoints" / "100").mkdir()
    with pytest.raises(
        InputError, match="finish it with --resume, or use --checkpoint"
    ):
        subjects.find([tmp_path], [], [])
    with pytest.raises(InputError, match=r"--checkpoint: .*config.json is missing"):
        subjects.find([], [], [tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", '{"config": 3}', "{}"])
def test_damaged_configuration_of_a_checkpoint(text, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json is damaged"):
        subjects.find([], [], [tmp_path])


def _altered(run, target, **changes):
    copy = smoke_run.copy_of(run, target)
    path = copy / "config.json"
    values = json.loads(path.read_text())
    values["config"] |= changes
    path.write_text(json.dumps(values))
    (source,) = subjects.find([], [], [copy])
    return source


def test_checkpoint_of_another_architecture(run, digits, tmp_path):
    source = _altered(run, tmp_path / "run", width=0.5)
    with pytest.raises(InputError, match=r"another configuration:\n.*width"):
        subjects.load(source, digits)


def test_checkpoint_with_fields_of_another_version(run, digits, tmp_path):
    source = _altered(run, tmp_path / "run", flux=3)
    words = r"not one of this version \(flux: no setting of the method ssvi"
    with pytest.raises(InputError, match=words):
        subjects.load(source, digits)


def test_model_for_other_images(run, digits):
    import dataclasses

    (source,) = subjects.find([run], [], [])
    colour = dataclasses.replace(
        digits, test_images=np.repeat(digits.test_images, 3, axis=-1)
    )
    with pytest.raises(InputError, match=r"takes images \[8, 8, 1\] of 10 classes"):
        subjects.load(source, colour)


def test_data_set_of_several_models(run):
    (source,) = subjects.find([run], [], [])
    other = source._replace(name="other", run={"dataset": "cifar10"})
    assert subjects.dataset([source, source], "auto") == "digits"
    assert subjects.dataset([source, other], "cifar100") == "cifar100"
    with pytest.raises(InputError, match=r"run: digits, other: cifar10"):
        subjects.dataset([source, other], "auto")


def test_model_file_without_a_run(run, tmp_path):
    file = artifact.load(run / "model.ssvi")
    artifact.save(
        tmp_path / "m.ssvi",
        file.weights,
        file.masks(),
        config=file.config,
        metadata={"run": "none"},
    )
    with pytest.raises(InputError, match="names no run"):
        subjects.find([], [tmp_path / "m.ssvi"], [])


def test_a_network_of_the_users_own_is_refused_by_its_file(run, tmp_path):
    file, path = artifact.load(run / "model.ssvi"), tmp_path / "own.ssvi"
    described = {"kind": "flax", "structure": {}, "noise": False}
    artifact.save(path, file.weights, file.masks(), config=described)
    with pytest.raises(
        InputError, match=r"own\.ssvi: holds .*module\)\.evaluate\(x, y"
    ):
        subjects.find([], [path], [])


def test_a_model_that_names_no_data_set_is_refused_by_its_file(run, tmp_path):
    file, path = artifact.load(run / "model.ssvi"), tmp_path / "m.ssvi"
    artifact.save(path, file.weights, file.masks(), config=file.config)
    sources = subjects.find([], [path], [])
    with pytest.raises(InputError, match=r"m\.ssvi: does not say what .*--dataset"):
        subjects.dataset(sources, "auto")
    assert subjects.dataset(sources, "digits") == "digits"


def test_a_checkpoint_predicts_with_the_statistics_that_its_run_ends_with(
    run, digits, monkeypatch
):
    asked = []

    def regathered(problem, progress, x, key):
        asked.append((problem.num_data, len(x)))
        return progress

    monkeypatch.setattr(train, "regathered", regathered)
    monkeypatch.setattr(mlp.MLP, "fast_statistics", True, raising=False)
    (source,) = subjects.find([], [], [run])
    subjects.load(source, digits)
    assert asked == [(len(digits.train_images),) * 2]

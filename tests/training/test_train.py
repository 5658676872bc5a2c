import dataclasses
import itertools
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.methods.algorithms.dense import Dense
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.training import phases
from ssvi_jax.training.run_config import default_folder
from ssvi_jax.vi import densities, masks, posterior

MLP_SHAPES = {
    "dense1/kernel": (64, 64),
    "dense2/kernel": (64, 64),
    "linear/kernel": (64, 10),
}


@pytest.fixture(scope="module")
def smoke():
    return smoke_run.smoke()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# What holds at every phase ------------------------------------------------------------


def check_selection(counts, weights, selection):
    """Exact counts, and zeros wherever the mask is false, of samples and the mean."""
    assert masks.counts(selection) == counts
    subspace = masks.to_subspace(selection)
    for mean, _ in weights.posterior.values():
        assert np.isfinite(mean).all()
    gaussians = {p: type(g)(*map(jnp.asarray, g)) for p, g in weights.posterior.items()}
    mean = posterior.sample(gaussians, subspace, None)
    for path, mask in selection.items():
        assert gaussians[path].mean.shape == gaussians[path].rho.shape
        assert gaussians[path].mean.size == counts[path]
        kernel = np.asarray(mean[path])
        assert (kernel[~mask] == 0).all()
        np.testing.assert_array_equal(kernel[mask], np.asarray(gaussians[path].mean))


def test_every_layer_keeps_its_count_at_every_phase(smoke):
    counts = densities.layer_counts(MLP_SHAPES, 0.95, "erk")
    assert len(smoke.masks) == 8
    for weights, selection in zip(smoke.weights, smoke.masks, strict=True):
        check_selection(counts, weights, selection)


@pytest.fixture
def idle(monkeypatch):
    """Training steps that leave the state as it is (and need no compilation)."""

    def step(self, state, selection, arrays, rows):
        del self, selection, arrays
        names = ("loss", "nll", "kl", "kl_weight", "accuracy")
        traces = dict.fromkeys(names, jnp.zeros(len(rows)))
        return state._replace(step=state.step + len(rows)), traces

    monkeypatch.setattr(Swapping, "step", step)


@pytest.mark.parametrize("rule", ["uniform", "er", "by hand"])
def test_the_other_density_rules_keep_theirs(rule, idle, tmp_path, monkeypatch):
    by_hand = {"dense1/kernel": 0.02, "dense2/kernel": 0.31, "linear/kernel": 1.0}
    name, sparsity = rule, 0.9
    if rule == "by hand":
        path = tmp_path / "densities.json"
        path.write_text(json.dumps(by_hand))
        name, sparsity, rule = str(path), 0.0, by_hand
    counts = densities.layer_counts(
        MLP_SHAPES, None if rule is by_hand else sparsity, rule
    )
    seen, one = [], phases.one

    def checked(session, progress, step, callbacks):
        progress, event = one(session, progress, step, callbacks)
        check_selection(counts, progress.state.weights, progress.masks)
        seen.append(event.get("num_swapped", 0))
        return progress, event

    monkeypatch.setattr(phases, "one", checked)
    smoke_run.tiny_train(
        tmp_path / "run",
        densities=name,
        sparsity=sparsity,
        epochs=1,
        inner_steps=5,
        addition="random",
    )
    assert len(seen) == 4
    assert all(number > 0 for number in seen[1:3])


def test_one_compilation_serves_all_phases(smoke):
    swaps = [
        event for event in smoke_run.events(smoke.folder) if "num_swapped" in event
    ]
    assert (
        len(swaps) == 5
    )  # of 8 phases: not before the first, none in the last quarter
    for name in ("_scan", "_dense_gradient", "_move"):
        assert smoke.compiled.count(name) == 1


# What is logged -----------------------------------------------------------------------


def logged(folder):
    return [event for event in smoke_run.events(folder) if event["event"] == "phase"]


def test_the_log_tells_of_every_phase_and_epoch(smoke):
    events = smoke_run.events(smoke.folder)
    order = [(event["event"], event["step"]) for event in events]
    expected = []
    for step in range(10, 81, 10):
        expected += [("phase", step), *([("epoch", step)] if step % 20 == 0 else [])]
    assert order == expected
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3, 4]
    assert [e["epoch"] for e in logged(smoke.folder)] == [s / 2 for s in range(1, 9)]
    for event in logged(smoke.folder):
        assert event["loss"] == pytest.approx(event["nll"], rel=1, abs=1)
        assert 0 <= event["accuracy"] <= 1
        assert event["kl"] > 0
    lines = (smoke.folder / "metrics.jsonl").read_text().splitlines()
    raw = [json.loads(line) for line in lines]
    assert all("elapsed_seconds" in e or "seconds" in e for e in raw)


def test_schedules_reach_the_log(smoke):
    config, events = smoke_run.tiny_config(), logged(smoke.folder)
    # β_t / N, averaged over a phase: linear from 0 over the first half of the steps.
    ramp = config.method.kl_scale * np.minimum(np.arange(80) / 40, 1) / 1294
    np.testing.assert_allclose(
        [event["kl_weight"] for event in events],
        ramp.reshape(8, 10).mean(axis=1),
        rtol=1e-5,
    )
    for event, step in zip(events[1:], range(10, 80, 10), strict=True):
        rate = 0.15 * (1 + math.cos(math.pi * step / 60)) if step < 60 else 0
        if rate:
            assert event["replacement_rate"] == pytest.approx(rate)
        else:
            assert "num_swapped" not in event
    # The rate at a phase's last step: up to step 24, then down to 0 at step 80.
    peak = config.training.learning_rate
    rates = [peak * (80 - step) / 56 for step in range(29, 80, 10)]
    np.testing.assert_allclose([e["learning_rate"] for e in events[2:]], rates, 1e-5)


def test_churn_is_counted_from_the_masks(smoke):
    def iou(one, two):
        a, b = (np.concatenate([m.ravel() for m in s.values()]) for s in (one, two))
        return (a & b).sum() / (a | b).sum()

    first = smoke.masks[0]  # no swap comes before the first phase
    events = logged(smoke.folder)
    assert "iou_first" not in events[0]
    for (old, new), event in zip(
        itertools.pairwise(smoke.masks), events[1:], strict=True
    ):
        assert event["iou_previous"] == iou(old, new)
        assert event["iou_first"] == iou(first, new)
        changed = sum(int((new[path] & ~old[path]).sum()) for path in new)
        came = event.get("num_swapped", 0) - event.get("num_returned", 0)
        assert changed == came
    assert events[1]["num_swapped"] == sum(
        round(events[1]["replacement_rate"] * int(mask.sum()))
        for mask in first.values()
    )


def test_static_masks(idle, tmp_path):
    trained = smoke_run.tiny_train(tmp_path, epochs=1, replacement_rate=0.0)
    events = logged(tmp_path)
    assert [e.get("iou_previous") for e in events] == [None, 1.0]
    assert not any("num_swapped" in event for event in events)
    assert trained.progress.masks.keys() == trained.progress.first_masks.keys()
    for path, mask in trained.progress.masks.items():
        np.testing.assert_array_equal(mask, trained.progress.first_masks[path])


# Which data is read -------------------------------------------------------------------

DENSE = {"method": "deterministic", "epochs": 1}


def test_training_never_looks_at_the_test_set(tmp_path, digits):
    hidden = dataclasses.replace(digits, test_images=None, test_labels=None)
    trained = smoke_run.tiny_train(tmp_path, hidden, **DENSE)
    assert trained.signal == 0
    assert not any("test" in event for event in smoke_run.events(tmp_path))


def test_test_every_draws_a_curve(tmp_path):
    flags = {"test_every": 2, "epochs": 3, "method": "deterministic"}
    smoke_run.tiny_train(tmp_path, **flags)
    epochs = [e for e in smoke_run.events(tmp_path) if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs if "test" in e] == [2]
    assert {"accuracy", "nll", "brier", "ece"} <= epochs[1]["test"].keys()


def test_train_size_uses_the_first_images_only(tmp_path, digits):
    rest = np.full_like(digits.train_images[200:], 255)
    images = np.concatenate([digits.train_images[:200], rest])
    logs = []
    other = dataclasses.replace(digits, train_images=images)
    for name, dataset in (("a", digits), ("b", other)):
        trained = smoke_run.tiny_train(
            tmp_path / name, dataset, train_size=200, **DENSE
        )
        logs.append(smoke_run.events(tmp_path / name))
        assert trained.problem.num_data == 200
    assert logs[0] == logs[1]
    assert logs[0][-1]["step"] == 3  # 200 images are 3 batches


def test_epochs_are_counted_by_whole_batches(tmp_path):
    flags = {"method": "deterministic", "epochs": 3, "inner_steps": 7}
    trained = smoke_run.tiny_train(tmp_path, None, **flags)
    assert trained.problem.total_steps == 63  # 3 epochs of 20 steps, whole phases of 7
    epochs = [e for e in smoke_run.events(tmp_path) if e["event"] == "epoch"]
    # The first phase ends at or after the end of an epoch: 20 → 21, 40 → 42, 60 → 63.
    assert [(e["epoch"], e["step"]) for e in epochs] == [(1, 21), (2, 42), (3, 63)]


def test_a_phase_is_never_longer_than_the_run(tmp_path):
    trained = smoke_run.tiny_train(tmp_path, None, **DENSE, inner_steps=100_000)
    assert (trained.problem.inner_steps, trained.problem.total_steps) == (20, 20)
    events = smoke_run.events(tmp_path)
    assert [(e["event"], e["step"]) for e in events] == [("phase", 20), ("epoch", 20)]
    assert events[0]["epoch"] == events[1]["epoch"] == 1


# When it goes wrong -------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_its_step(tmp_path):
    flags = ["--method", "deterministic", "--learning-rate", "1e30"]
    words = smoke_run.refused(
        *smoke_run.TINY, *flags, "--no-figures", "--out", tmp_path
    )
    assert "the loss is not finite at step 2. Lower the learning rate" in words
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_the_last_good_checkpoint_is_kept(tmp_path, monkeypatch, what):
    step = Dense.step

    def poisoned(self, state, selection, arrays, rows):
        begin = int(state.step)
        state, traces = step(self, state, selection, arrays, rows)
        if begin == 30 and what == "loss":
            traces |= {"loss": traces["loss"].at[4].set(jnp.nan)}
        if begin == 30 and what == "weight":
            params = {**state.params, "linear": {"bias": jnp.full(10, jnp.inf)}}
            state = state._replace(params=params)
        return state, traces

    flags = {"method": "deterministic", "epochs": 3}
    where = {
        "loss": "the loss is not finite at step 35;",
        "weight": "linear/bias is not finite after step 40;",
    }[what]
    with monkeypatch.context() as patch:
        patch.setattr(Dense, "step", poisoned)
        with pytest.raises(InputError, match=f"{where} checkpoint 20 is kept"):
            smoke_run.tiny_train(tmp_path, **flags)
    assert [event["step"] for event in smoke_run.events(tmp_path)] == [10, 20, 20, 30]
    if what == "weight":
        return
    assert smoke_run.tiny_train(tmp_path, resume=True, **flags).signal == 0
    assert smoke_run.events(tmp_path)[-1]["step"] == 60


def test_bad_settings_leave_no_run_behind(tmp_path):
    for field, value, words in (
        ("batch_size", 5000, "batch_size: got 5000, allowed: 1 to 1294"),
        ("densities", "no.json", r"densities: cannot read no\.json"),
        ("sparsity", 0.9999, "is left without a weight"),
    ):
        with pytest.raises(InputError, match=words):
            smoke_run.tiny_train(tmp_path, None, **{field: value})
        assert list(tmp_path.iterdir()) == []


# Folders ------------------------------------------------------------------------------


def test_default_folders_are_free_or_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = smoke_run.tiny_config()
    folder = Path("runs/digits-ssvi-s95")
    assert default_folder(config) == folder
    assert default_folder(smoke_run.tiny_config(resume=True)) == folder
    for name in ("digits-ssvi-s95", "digits-ssvi-s95-2"):
        (Path("runs") / name).mkdir(parents=True)
    assert default_folder(config) == Path("runs/digits-ssvi-s95-3")
    resumed = default_folder(smoke_run.tiny_config(resume=True))
    assert resumed == Path("runs/digits-ssvi-s95-2")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sparsity": 0.995}, "digits-ssvi-s99_5"),
        ({"sparsity": 0.29}, "digits-ssvi-s29"),
        ({"method": "deterministic"}, "digits-deterministic-s0"),
        ({"densities": "some/where/mine.json"}, "digits-ssvi-mine"),
        ({"train_corruption": "fog"}, "digits-ssvi-s95-fog-3"),
        (
            {"train_corruption": "frost", "train_severity": 5, "sparsity": 0.995},
            "digits-ssvi-s99_5-frost-5",
        ),
    ],
)
def test_default_folders_say_what_ran(changes, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_folder(smoke_run.tiny_config(**changes)) == Path("runs") / name

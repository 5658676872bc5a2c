"""Early stopping: what is better, and what it needs."""

from types import SimpleNamespace
from typing import Any

import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.io.checkpoint import Checkpoints


def phase(scores, step=1, notes=None):
    session = SimpleNamespace(notes={} if notes is None else notes)
    metrics = {"validation": scores}
    found: Any = SimpleNamespace(metrics=metrics, step=step, session=session)
    return found


def stops_after(stopping, name, values):
    """How many values it takes to stop; 0: it does not."""
    notes: dict[str, Any] = {}
    given = enumerate(values, start=1)
    asked = (stopping(phase({name: value}, step, notes)) for step, value in given)
    return next((n for n, stop in enumerate(asked, start=1) if stop), 0)


@pytest.mark.parametrize(
    ("metric", "larger"),
    [("accuracy", 1), ("r2", 1), ("nll", 0), ("ece", 0), ("brier", 0), ("rmse", 0)],
)
def test_what_is_better_is_known(metric, larger):
    rising = [0.1, 0.2, 0.3, 0.4]
    good, bad = (rising, rising[::-1]) if larger else (rising[::-1], rising)
    assert stops_after(ssvi_jax.EarlyStopping(2, metric), metric, good) == 0
    assert stops_after(ssvi_jax.EarlyStopping(2, metric), metric, bad) == 3


def test_what_is_better_may_be_said():
    stopping = ssvi_jax.EarlyStopping(2, "coverage", larger_is_better=True)
    assert stops_after(stopping, "coverage", [0.5, 0.4, 0.3]) == 3
    with pytest.raises(
        InputError, match="metric: got 'coverage', allowed: accuracy, r"
    ):
        ssvi_jax.EarlyStopping(2, "coverage")


def test_what_is_no_number_is_never_better():
    nan = float("nan")
    assert stops_after(ssvi_jax.EarlyStopping(2), "nll", [nan, 0.5, nan, 0.4]) == 0
    assert stops_after(ssvi_jax.EarlyStopping(2), "nll", [nan, nan, 0.5]) == 2


def test_two_of_one_metric_do_not_count_twice():
    notes: dict[str, Any] = {}
    both = [ssvi_jax.EarlyStopping(patience) for patience in (2, 3)]
    given = enumerate([0.5, 0.6, 0.7, 0.8], start=1)
    asked = [[one(phase({"nll": v}, n, notes)) for one in both] for n, v in given]
    assert asked == [[False, False], [False, False], [True, False], [True, True]]


def test_a_score_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"metric: got 'r2', allowed: nll, rmse\."):
        ssvi_jax.EarlyStopping(2, "r2")(phase({"nll": 1.0, "rmse": 1.0}))


def fit(callbacks, **options):
    network = linen(mlp(), X)
    options = {"steps": 4, "inner_steps": 1, "batch_size": 20, **options}
    return ssvi_jax.fit(
        ssvi_jax.Static(), network, (X[:60], Y[:60]), callbacks=callbacks, **options
    )


def test_without_validation_it_is_refused_before_anything():
    stopping = ssvi_jax.EarlyStopping(2)
    with pytest.raises(InputError, match="callbacks: got EarlyStopping without valid"):
        fit([stopping, ssvi_jax.ProgressBar()], key=None)


def test_a_callback_may_give_the_scores_instead():
    def scored(phase):
        if phase.ends_epoch:
            phase.metrics["validation"] = {"nll": phase.metrics["loss"]}

    assert fit([scored, ssvi_jax.EarlyStopping(1)]).about["step"] in (3, 4)
    with pytest.raises(InputError, match="EarlyStopping without validation"):
        fit([lambda phase: None, ssvi_jax.EarlyStopping(1)])


SCORES = (0.9, 0.5, 0.6, 0.7, 0.8, 0.4, 0.3, 0.2)
"""Of the epochs of a training of eight steps, each of them an epoch."""


def steps_of(*callbacks, patience=3, **options):
    """The steps that a training makes before it stops early."""

    def scored(phase):
        phase.metrics["validation"] = {"nll": SCORES[phase.step - 1]}

    stopping = ssvi_jax.EarlyStopping(patience)
    own = [scored, stopping, *callbacks]
    found = fit(own, **{"steps": 8, "batch_size": 60, **options})
    return [event["step"] for event in found.history]


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_training_that_goes_on_stops_where_one_without_a_break_does(tmp_path, step):
    assert steps_of() == [1, 2, 3, 4, 5]
    assert steps_of(lambda phase: phase.step == step, folder=tmp_path)[-1] == step
    assert steps_of(folder=tmp_path) == list(range(step + 1, 6))


def test_a_training_that_was_stopped_stays_so_without_more_patience(tmp_path, caplog):
    assert steps_of(folder=tmp_path)[-1] == 5
    for _ in range(2):
        assert steps_of(folder=tmp_path) == []
    said = "EarlyStopping stopped it at step 5: nothing was trained"
    assert [r.message for r in caplog.records].count(said) == 2
    assert steps_of(folder=tmp_path, patience=4) == [6, 7, 8]


def test_checkpoints_of_earlier_versions_go_on(tmp_path, monkeypatch):
    save = Checkpoints.save

    def without_notes(self, step, tree, extra, **options):
        save(self, step, tree, {n: extra[n] for n in ("seconds", "total_steps")})

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", without_notes)
        steps_of(lambda phase: phase.step == 3, folder=tmp_path)
    # As if the validations began there: 0.7 is the best until 0.4 comes.
    assert steps_of(folder=tmp_path) == [4, 5, 6, 7, 8]


def test_it_may_be_given_to_several_trainings():
    def scored(phase):
        phase.metrics["validation"] = {"nll": SCORES[phase.step - 1]}

    own = [scored, ssvi_jax.EarlyStopping(3)]
    for _ in range(2):
        found = fit(own, steps=8, batch_size=60)
        assert found.history[-1]["step"] == 5

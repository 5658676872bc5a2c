"""Early stopping: what is better, and what it needs."""

from types import SimpleNamespace
from typing import Any

import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError


def phase(scores, *, ends_epoch=True):
    metrics = {} if scores is None else {"validation": scores}
    found: Any = SimpleNamespace(metrics=metrics, ends_epoch=ends_epoch)
    return found


def stops_after(stopping, name, values):
    """How many values it takes to stop; 0: it does not."""
    asked = (stopping(phase({name: value})) for value in values)
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


def test_a_score_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"metric: got 'r2', allowed: nll, rmse\."):
        ssvi_jax.EarlyStopping(2, "r2")(phase({"nll": 1.0, "rmse": 1.0}))


def fit(callbacks, **options):
    network = linen(mlp(), X)
    return ssvi_jax.fit(
        ssvi_jax.Static(),
        network,
        (X[:60], Y[:60]),
        steps=4,
        inner_steps=1,
        batch_size=20,
        callbacks=callbacks,
        **options,
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

"""Scores of a prediction of any kind against labels; see `vi.predictions`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import classification
from ssvi_jax.vi import likelihoods, predictions

LEVEL = 0.9
"""Of the interval whose coverage is reported."""


def by_likelihood(
    likelihood: likelihoods.Likelihood, prediction: predictions.Predicted, y: Any
) -> dict[str, float]:
    """`score`; of a likelihood that is a function its nll alone.

    That is -log of the mean over the passes of p(y | output), in nats an example.

    Args:
      likelihood: that the prediction is by.
      prediction: of n inputs.
      y: their labels, of a function a pytree perhaps.

    Raises:
      InputError: see `score`; or a function that does not return one number each.
    """
    if not isinstance(likelihood, likelihoods.Custom):
        return score(prediction, np.asarray(y))
    assert isinstance(prediction, predictions.Outputs)
    labels, outputs = jax.tree.map(jnp.asarray, (y, prediction.sample_outputs))
    passes, number = jax.tree.leaves(outputs)[0].shape[:2]
    each = []
    for i in range(passes):
        output = jax.tree.map(lambda leaf, i=i: leaf[i], outputs)
        each.append(np.asarray(likelihood.log_prob(output, labels), np.float64))
        if each[-1].shape != (number,):
            raise InputError(
                f"likelihood: got log p of shape {list(each[-1].shape)}, needed: "
                f"[{number}], one number an example."
            )
    log_mean = np.logaddexp.reduce(each, axis=0) - np.log(passes)
    return {"nll": float(-np.mean(log_mean))}


@functools.singledispatch
def score(prediction: predictions.Predicted, y: np.ndarray) -> dict[str, float]:
    """Scores by name.

    Args:
      prediction: of n inputs.
      y: their labels.

    Returns:
      Of classes, and of 0 or 1: see `metrics.evaluate`, with what the passes differ by
      where there are several; of soft labels nll (cross-entropy) and
      accuracy (of the likeliest class). Of numbers: nll (nats an example, of the
      mixture), rmse, r2 (mean over targets; of a constant one 1 if it is predicted
      exactly, else 0), coverage (fraction inside the central 90 % interval). Of counts:
      nll, rmse, coverage.

    Raises:
      InputError: labels of another shape or kind, or a prediction that has no scores.
    """
    del y
    raise InputError(
        f"evaluate: got a prediction of {type(prediction).__name__}, which has no "
        "scores (its likelihood is not one of ours); score `predict`'s result yourself."
    )


def nll(prediction: predictions.Predicted, y: np.ndarray) -> float:
    """The "nll" of `score` alone: intervals take far more time.

    Args:
      prediction: see `score`.
      y: likewise.

    Raises:
      InputError: likewise.
    """
    if isinstance(prediction, predictions.Regression | predictions.Counts):
        return float(-np.mean(prediction.log_prob(y)))
    return score(prediction, y)["nll"]


@score.register
def _(prediction: predictions.Classification, y: np.ndarray) -> dict[str, float]:
    y = np.asarray(y)
    if np.issubdtype(y.dtype, np.floating):
        return _soft(prediction.probs, y)
    _check_classes(y, *prediction.probs.shape)
    y = y.astype(np.int64) if y.dtype == bool else y
    return classification.evaluate(prediction.probs, y, *_of_passes(prediction))


@score.register
def _(prediction: predictions.Binary, y: np.ndarray) -> dict[str, float]:
    probs, y = prediction.class_probs, np.asarray(y)
    if y.shape == (len(probs), 1):  # trained on so by an output [n, 1]
        y = y[:, 0]
    _check_shape(y, len(probs), f"[{len(probs)}], one each")
    if np.issubdtype(y.dtype, np.floating) and not np.isin(y, (0.0, 1.0)).all():
        return _soft(probs, np.stack([1.0 - y, y], axis=-1))
    return classification.evaluate(probs, y.astype(np.int64), *_of_passes(prediction))


@score.register
def _(prediction: predictions.Regression, y: np.ndarray) -> dict[str, float]:
    found = nll(prediction, y)  # first, as it refuses labels of another shape
    error = _errors(prediction, y)
    return {
        "nll": found,
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "r2": _r2(np.square(error), np.reshape(np.asarray(y, np.float64), error.shape)),
        "coverage": _coverage(prediction, y),
    }


@score.register
def _(prediction: predictions.Counts, y: np.ndarray) -> dict[str, float]:
    found = nll(prediction, y)
    error = _errors(prediction, y)
    return {
        "nll": found,
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "coverage": _coverage(prediction, y),
    }


def _check_shape(y: np.ndarray, number: int, allowed: str) -> None:
    """Refuses labels that are not one number an example."""
    if y.shape != (number,):
        column = "; y[:, 0] of a column" if y.shape == (number, 1) else ""
        raise InputError(f"y: got shape {list(y.shape)}, allowed: {allowed}{column}.")


def _check_classes(y: np.ndarray, number: int, classes: int) -> None:
    """Refuses whole labels that are not one of the classes each."""
    allowed = f"[{number}], a class each, or probabilities [{number}, {classes}]"
    _check_shape(y, number, f"{allowed} as floats")
    if y.size and not 0 <= y.min() <= y.max() < classes:
        raise InputError(
            f"y: got labels from {y.min()} to {y.max()}, allowed: 0 to {classes - 1}, "
            f"as the network has {classes} outputs."
        )


def _of_passes(
    prediction: predictions.Classification | predictions.Binary,
) -> tuple[np.ndarray, ...]:
    """What `classification.evaluate` takes of the passes."""
    each = (prediction.sample_entropy, prediction.sample_log_odds)
    return each if len(each[1]) > 1 else ()  # one pass says nothing of the weights


def _soft(probs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    if y.shape != probs.shape:
        raise InputError(
            f"y: got shape {list(y.shape)}, allowed: whole numbers [n], or "
            f"probabilities {list(probs.shape)}."
        )
    logs = np.log(np.maximum(probs, classification.PROBABILITY_FLOOR))
    return {
        "nll": float(-np.mean(np.sum(y * logs, axis=-1))),
        "accuracy": float(np.mean(probs.argmax(axis=-1) == y.argmax(axis=-1))),
    }


def _errors(
    prediction: predictions.Regression | predictions.Counts, y: np.ndarray
) -> np.ndarray:
    return prediction.mean - np.reshape(
        np.asarray(y, np.float64), prediction.mean.shape
    )


def _r2(squares: np.ndarray, y: np.ndarray) -> float:
    """Of every target by itself, on average, as scikit-learn's `r2_score`."""
    rest, spread = squares.mean(axis=0), y.var(axis=0)
    # By the ends, as the variance of equal numbers may round to more than 0.
    varies = y.max(axis=0) > y.min(axis=0)
    each = np.where(varies, 1.0 - rest / np.where(varies, spread, 1.0), rest == 0)
    return float(each.mean())


def _coverage(
    prediction: predictions.Regression | predictions.Counts, y: np.ndarray
) -> float:
    low, high = prediction.interval(LEVEL)
    y = np.reshape(np.asarray(y), prediction.mean.shape)
    return float(np.mean((low <= y) & (y <= high)))

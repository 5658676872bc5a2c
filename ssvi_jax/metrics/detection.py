"""Out-of-distribution detection: how well a score separates foreign inputs.

Conventions, the same everywhere:

- The positive class is *out of distribution*, and a larger score means more likely out
  of distribution. An input is reported when its score reaches the threshold.
- Only the order of the scores matters, so infinite ones are allowed; NaN is not. Equal
  scores share every threshold: the order of the data never matters.
- Rates and areas are fractions in [0, 1].
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics.uncertainty import (
    checked_probs,
    entropy,
    logit_disagreement,
    uncertainty_from_entropies,
)

TARGET_RATE = 0.95
"""Fraction of the foreign inputs to be found at which FPR95 is read off."""

MAX_POINTS = 200
"""Points of a curve in a figure."""

_NUM_OFFSETS = 16  # `roc_curve` gives the bound on the area that follows from it


class Detection(NamedTuple):
    """How well one score tells two sets of inputs apart, fractions.

    Attributes:
      auroc: area under the ROC curve: the probability that a foreign input has the
        larger score, ties counted half. 0.5 is chance.
      aupr: average precision. Chance is the fraction of foreign inputs, m / (n + m).
      fpr95: smallest fraction of the known inputs reported by mistake when at least
        95 % of the foreign ones are found. Smaller is better.
    """

    auroc: float
    aupr: float
    fpr95: float


def scores(
    probs: ArrayLike,
    sample_entropy: ArrayLike | None = None,
    sample_log_odds: ArrayLike | None = None,
    mixture_entropy: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """The usual scores of predictions, each float64 ``[n]``, larger for foreign inputs.

    - ``"entropy"``: of the prediction, in nats.
    - ``"max_probability"``: 1 - the largest probability, a fraction (Hendrycks and
      Gimpel, 2017). Probabilities that were rounded to 1 tie here.
    - ``"mutual_information"``: between prediction and weights, in nats, where
      `sample_entropy` is given (Depeweg et al., 2018).
    - ``"logit_disagreement"``: of the samples, in nats, where `sample_log_odds` is
      given (see `uncertainty.logit_disagreement`).

    Args:
      probs: ``[n, C]`` class probabilities (averaged over posterior samples).
      sample_entropy: ``[S, n]`` entropy in nats of each sample's prediction.
      sample_log_odds: ``[S, n]`` largest log-odds in nats of each sample's prediction.
      mixture_entropy: ``[n]``, where `probs` does not average probabilities: see
        `uncertainty.uncertainty_from_entropies`.

    Raises:
      InputError: rows that are no probabilities, or entropies or log-odds that do not
        fit them.
    """
    p = checked_probs(probs)
    if p.ndim != 2:
        raise InputError(
            f"probs: got shape {p.shape}, allowed: [examples, classes]. Average over "
            "posterior samples first."
        )
    result = {"entropy": entropy(p), "max_probability": 1.0 - p.max(axis=1)}
    if sample_entropy is not None:
        parts = uncertainty_from_entropies(p, sample_entropy, mixture_entropy)
        result["mutual_information"] = parts.mutual_information
    if sample_log_odds is not None:
        result["logit_disagreement"] = logit_disagreement(sample_log_odds, len(p))
    return result


def detect(in_scores: ArrayLike, out_scores: ArrayLike) -> Detection:
    """AUROC, AUPR and FPR95 of a score, in O((n + m) log(n + m)).

    AUROC is the Mann-Whitney statistic U / nm. AUPR is Σ (R_k - R_{k-1}) P_k over the
    distinct thresholds, precision P and recall R, without interpolation.

    Args:
      in_scores: ``[n]`` of inputs from the distribution that was trained on.
      out_scores: ``[m]`` of foreign inputs, the positive class.

    Raises:
      InputError: NaN, another rank, or no scores on a side.
    """
    false, true = _counts(in_scores, out_scores)
    n, m = false[-1], true[-1]
    found, wrong = np.diff(true), np.diff(false)
    precision = true[1:] / (true[1:] + false[1:])
    return Detection(
        auroc=float(np.sum(wrong * (true[1:] + true[:-1])) / (2 * n * m)),
        aupr=float(np.sum(found * precision) / m),
        fpr95=float(false[np.argmax(true / m >= TARGET_RATE)] / n),
    )


def of_two_classes(probs: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """How well p(class 1) tells class 1 from class 0: "auroc" and "auprc".

    Args:
      probs: ``[n, C]``.
      labels: integers ``[n]``.

    Returns:
      The two as in `detect`, fractions; nothing unless there are two classes and each
      of them has an example.
    """
    probs, labels = np.asarray(probs), np.asarray(labels)
    if probs.shape[1] != 2 or len(np.unique(labels)) != 2:
        return {}
    found = detect(probs[labels == 0, 1], probs[labels == 1, 1])
    return {"auroc": found.auroc, "auprc": found.aupr}


def roc_curve(
    in_scores: ArrayLike, out_scores: ArrayLike, max_points: int = MAX_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve from (0, 0) to (1, 1) with `max_points` points at most.

    A curve with few corners comes exactly. Otherwise points *on* the curve are taken at
    equal steps δ = 2 / (max_points - 2) of its length abs(Δfpr) + abs(Δtpr). Along it
    the area is 1/2 + ∫ (tpr - fpr) / 2, and the mean over all offsets of such a grid is
    that integral; of 16 offsets the best is taken. It changes the area by less than
    δ/32 + δ²/8: 4e-4 with 200 points.

    Args:
      in_scores: as in `detect`.
      out_scores: as in `detect`.
      max_points: at least 3.

    Returns:
      False-positive and true-positive rate, fractions, neither of them falling.

    Raises:
      InputError: as in `detect`, or for fewer than 3 points.
    """
    if max_points < 3:
        raise InputError(f"max_points: got {max_points}, allowed: an integer from 3.")
    false, true = _corners(*_counts(in_scores, out_scores))
    fpr, tpr = false / false[-1], true / true[-1]
    if len(fpr) <= max_points:
        return fpr, tpr
    area = np.trapezoid(tpr, fpr)
    steps = np.arange(max_points - 2)
    offsets = (np.arange(_NUM_OFFSETS) + 0.5) / _NUM_OFFSETS
    curves = [
        _at(fpr, tpr, 2 * (steps + offset) / (max_points - 2)) for offset in offsets
    ]
    return min(curves, key=lambda curve: abs(np.trapezoid(curve[1], curve[0]) - area))


def checked_scores(argument: str, values: ArrayLike) -> np.ndarray:
    """Float64 scores ``[n]``.

    Raises:
      InputError: NaN, another rank, or none.
    """
    result = np.asarray(values, dtype=np.float64)
    if result.ndim != 1 or not len(result):
        raise InputError(
            f"{argument}: got shape {result.shape}, allowed: [examples] with at least "
            "one example."
        )
    bad = np.isnan(result)
    if bad.any():
        raise InputError(
            f"{argument}: {int(bad.sum())} of {len(result)} are NaN, the first at "
            f"{int(bad.argmax())}; allowed: numbers. Look for NaN in the predictions."
        )
    return result


def _counts(
    in_scores: ArrayLike, out_scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """False and true positives int64 at each distinct threshold, strictest first.

    The first entry of both is 0 (nothing is reported), the last the whole side.
    """
    known = checked_scores("in_scores", in_scores)
    foreign = checked_scores("out_scores", out_scores)
    values = np.concatenate([known, foreign])
    order = np.argsort(-values)
    values, is_foreign = values[order], order >= len(known)
    last_of_ties = np.append(values[1:] != values[:-1], True)
    ends = np.flatnonzero(last_of_ties)
    true = np.cumsum(is_foreign, dtype=np.int64)[ends]
    return np.append(0, ends + 1 - true), np.append(0, true)


def _corners(false: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaves out what lies on the straight line between its neighbours."""
    wrong, found = np.diff(false), np.diff(true)
    turns = wrong[1:] * found[:-1] != found[1:] * wrong[:-1]
    keep = np.concatenate([[True], turns, [True]])
    return false[keep], true[keep]


def _at(
    fpr: np.ndarray, tpr: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The curve's ends and its points at these lengths |Δfpr| + |Δtpr| in (0, 2)."""

    def points(rate: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.interp(lengths, fpr + tpr, rate), [1.0]])

    return points(fpr), points(tpr)

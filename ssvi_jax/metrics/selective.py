"""Selective prediction: accuracy when the least confident examples are left out.

Examples are ranked by confidence, the largest class probability as a rule, and the
first k of n are answered: coverage k/n, risk = the fraction of wrong answers among
them. Everything is a fraction in [0, 1].

Equally confident examples have no order of their own. Everything here is the
expectation over all their orders: an example counts as the mean correctness of those
with exactly its confidence. So the order of the data never matters, and a confidence
that is the same everywhere gives the plain accuracy at every coverage.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics.detection import MAX_POINTS, checked_scores

COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)
"""Coverages at which results give the accuracy."""


class Selective(NamedTuple):
    """How well confidence ranks right before wrong answers, all fractions.

    Attributes:
      aurc: area under the risk-coverage curve; smaller is better.
      excess_aurc: the part of it that a perfect ranking would not have.
      accuracy_at: coverage as text, such as ``"0.95"`` → accuracy there.
      coverage: ``[<= max_points]`` of the curve for figures, from 1/n to 1.
      accuracy: accuracy at each of these.
    """

    aurc: float
    excess_aurc: float
    accuracy_at: dict[str, float]
    coverage: np.ndarray
    accuracy: np.ndarray


def evaluate(
    confidence: ArrayLike,
    correct: ArrayLike,
    coverages: Sequence[float] = COVERAGES,
    max_points: int = MAX_POINTS,
) -> Selective:
    """All of this module at once, the curve thinned to equal steps of coverage.

    Args:
      confidence: ``[n]``, larger = surer; only its order matters.
      correct: ``[n]`` bool, or 0 and 1: is the predicted class the label?
      coverages: fractions in (0, 1].
      max_points: at least 2; both ends of the curve stay.

    Raises:
      InputError: as the functions below, or for fewer than 2 points.
    """
    if max_points < 2:
        raise InputError(f"max_points: got {max_points}, allowed: an integer from 2.")
    coverage, accuracy = risk_coverage(confidence, correct)
    num = len(coverage)
    kept = np.linspace(0, num - 1, min(num, max_points)).round().astype(np.int64)
    return Selective(
        aurc=aurc(confidence, correct),
        excess_aurc=excess_aurc(confidence, correct),
        accuracy_at=accuracy_at(confidence, correct, coverages),
        coverage=coverage[kept],
        accuracy=accuracy[kept],
    )


def risk_coverage(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage k/n and accuracy of the k most confident, k = 1..n; risk = 1 - accuracy.

    Args:
      confidence: ``[n]``, larger = surer; only its order matters.
      correct: ``[n]`` bool, or 0 and 1.

    Returns:
      Two float64 ``[n]``.

    Raises:
      InputError: no examples, other shapes, a NaN, or `correct` other than 0 and 1.
    """
    known, right = _checked(confidence, correct)
    _, group, counts = np.unique(-known, return_inverse=True, return_counts=True)
    rates = np.bincount(group, right) / counts
    number = np.arange(1, len(known) + 1)
    expected_right = np.cumsum(np.repeat(rates, counts))
    return number / len(known), expected_right / number


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean over k = 1..n of the risk at k.

    Geifman et al. (2019), section 2; the curve is that of Geifman and El-Yaniv (2017).
    Arguments and errors as in `risk_coverage`.
    """
    _, accuracy = risk_coverage(confidence, correct)
    return float(np.mean(1.0 - accuracy))


def excess_aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """AURC minus the smallest one that this accuracy allows (Geifman et al., 2019).

    A perfect ranking leaves the e wrong answers for the end: its area is the sum
    1/n Σ_k max(0, k - (n - e)) / k, not its approximation e/n + (1 - e/n) log(1 - e/n).
    0 for a perfect ranking; arguments and errors as in `risk_coverage`.
    """
    _, right = _checked(confidence, correct)
    number = np.arange(1, len(right) + 1)
    best = np.mean(np.maximum(number - right.sum(), 0.0) / number)
    return max(aurc(confidence, correct) - float(best), 0.0)  # rounding below 0


def accuracy_at(
    confidence: ArrayLike, correct: ArrayLike, coverages: Sequence[float] = COVERAGES
) -> dict[str, float]:
    """Accuracy of the most confident examples at each coverage.

    At coverage c the ⌈c n⌉ most confident are answered: at least that fraction.

    Args:
      confidence: as in `risk_coverage`.
      correct: as in `risk_coverage`.
      coverages: fractions in (0, 1].

    Returns:
      Coverage as text, such as ``"0.5"`` and ``"1.0"`` → accuracy.

    Raises:
      InputError: as `risk_coverage`, or for a coverage outside (0, 1].
    """
    reached, accuracy = risk_coverage(confidence, correct)
    for coverage in coverages:
        if not 0 < coverage <= 1:
            raise InputError(
                f"coverages: got {coverage}, allowed: fractions above 0, 1 at most."
            )
    # k/n is rounded as the decimal c is, so c = k/n finds exactly k.
    return {
        str(float(coverage)): float(accuracy[np.searchsorted(reached, coverage)])
        for coverage in coverages
    }


def _checked(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    known = checked_scores("confidence", confidence)
    right = checked_scores("correct", correct)
    if known.shape != right.shape:
        raise InputError(
            f"confidence, correct: got {len(known)} and {len(right)} examples, "
            "allowed: the same number."
        )
    bad = (right != 0) & (right != 1)
    if bad.any():
        raise InputError(
            f"correct: got {right[bad][0]} at example {int(bad.argmax())}, allowed: "
            "True and False, or 1 and 0. Pass predicted class == label."
        )
    return known, right

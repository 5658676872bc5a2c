"""Accuracy, proper scores and calibration of predicted class probabilities.

For any method: only probabilities and labels come in. Every score is one of the
probabilities that it is given, so pass the average over posterior samples to score
the averaged prediction (it is not the mean of the samples' scores). All sums are
float64 on the host, and `StreamingMetrics` gives the same numbers however the data
are cut into batches.

Conventions, the same everywhere:

- ``probs`` ``[n, C]``: non-negative rows that sum to 1 within 1e-3; they are used as
  they are. ``labels`` ``[n]``: integers in ``[0, C)``. Anything else raises
  `InputError`.
- The predicted class is the largest probability, the lowest class among equals; its
  probability is the confidence.
- Equal-width bins are ``(m/M, (m+1)/M]`` as in Guo et al. (2017); 0 is in the first.
- Logarithms are natural: NLL and entropies are in nats.
"""

import math
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

NUM_BINS = 15
"""Bins of every calibration error, the field's habit since Guo et al. (2017)."""

PROBABILITY_FLOOR = 2.0**-149
"""Smaller probabilities count as this one in the NLL, so that a zero costs 103.3 nats
instead of infinity. It is the smallest positive float32: no other value changes."""


class Reliability(NamedTuple):
    """What a reliability diagram shows, one entry a bin.

    Attributes:
      confidence: ``[num_bins]`` mean confidence in the bin; NaN where it is empty.
      accuracy: ``[num_bins]`` fraction of correct predictions; NaN where empty.
      count: int ``[num_bins]`` examples in the bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


class StreamingMetrics:
    """Collects batches of predictions; computes all metrics of what came so far.

    Holds sums, and per example its label, confidence and correctness: the equal-mass
    bins of the adaptive ECE need these.

    >>> metrics = StreamingMetrics()
    >>> metrics.update([[0.9, 0.1], [0.4, 0.6]], [0, 0])
    >>> metrics.compute()["accuracy"]
    0.5
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        """Starts empty; `num_bins` is used by all three calibration errors."""
        self._num_bins = _checked_bins(num_bins)
        self._num_classes: int | None = None
        self._sums: dict[str, float] = {}
        self._top_bins: np.ndarray | float = 0.0
        self._class_bins: np.ndarray | float = 0.0
        self._labels: list[np.ndarray] = []
        self._confidence: list[np.ndarray] = []
        self._correct: list[np.ndarray] = []

    @property
    def labels(self) -> np.ndarray:
        """The labels int64 ``[n]`` in the order in which they came."""
        return np.concatenate([np.zeros(0, np.int64), *self._labels])

    def update(
        self,
        probs: ArrayLike,
        labels: ArrayLike,
        sample_entropy: ArrayLike | None = None,
        sample_log_odds: ArrayLike | None = None,
        mixture_entropy: ArrayLike | None = None,
    ) -> None:
        """Adds one batch; an empty one adds nothing.

        Args:
          probs: ``[n, C]`` class probabilities (averaged over posterior samples).
          labels: integers ``[n]``.
          sample_entropy: ``[S, n]`` entropy in nats of each sample's prediction; when
            given, in every batch, expected entropy and mutual information follow.
          sample_log_odds: ``[S, n]`` largest log-odds in nats of each sample's
            prediction; when given, in every batch, the logit disagreement follows.
          mixture_entropy: ``[n]`` entropy in nats of the samples' averaged
            probabilities, for the mutual information, where `probs` averages something
            else, such as logits (see `uncertainty.uncertainty_from_entropies`).

        Raises:
          InputError: for values outside the module's conventions, or a batch unlike
            the ones before it.
        """
        p, y = _checked(probs, labels)
        scores = _scores(p, y, sample_entropy, sample_log_odds, mixture_entropy)
        correct, confidence = scores["accuracy"], p.max(axis=1)
        self._check_classes(p.shape[1])
        self._add(scores)
        self._top_bins += _bin_sums(
            confidence[:, None], correct[:, None], self._num_bins
        )
        self._class_bins += _bin_sums(p, _one_hot(p, y), self._num_bins)
        self._labels.append(y)
        self._confidence.append(confidence)
        self._correct.append(correct)

    def compute(self) -> dict[str, float]:
        """Returns every metric of all examples so far, as Python floats.

        Keys: accuracy, nll, brier, ece, ece_if_calibrated, adaptive_ece,
        classwise_ece, predictive_entropy and, where `update` had the samples'
        entropies, expected_entropy and mutual_information, where it had their
        log-odds, logit_disagreement. Nothing is reset.

        Raises:
          InputError: if no example came.
        """
        num = len(self.labels)
        _check_any(num)
        means = {name: total / num for name, total in self._sums.items()}
        confidence = np.concatenate(self._confidence)
        correct = np.concatenate(self._correct)
        calibration = {
            "ece": _gap(np.asarray(self._top_bins)),
            "ece_if_calibrated": _gap_if_calibrated(np.asarray(self._top_bins)),
            "adaptive_ece": _equal_mass_gap(confidence, correct, self._num_bins),
            "classwise_ece": _gap(np.asarray(self._class_bins)),
        }
        head = {name: means.pop(name) for name in ("accuracy", "nll", "brier")}
        return head | calibration | means

    def _check_classes(self, num_classes: int) -> None:
        if self._num_classes not in (None, num_classes):
            raise InputError(
                f"probs: got {num_classes} classes after batches of "
                f"{self._num_classes}. Use one StreamingMetrics for each data set."
            )
        self._num_classes = num_classes

    def _add(self, scores: dict[str, np.ndarray]) -> None:
        if self._sums and self._sums.keys() != scores.keys():
            raise InputError(
                "sample_entropy, sample_log_odds: came with some batches and not with "
                "others. Give each with every batch or with none."
            )
        for name, values in scores.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())


def evaluate(
    probs: ArrayLike,
    labels: ArrayLike,
    sample_entropy: ArrayLike | None = None,
    sample_log_odds: ArrayLike | None = None,
    mixture_entropy: ArrayLike | None = None,
) -> dict[str, float]:
    """All metrics of one array of predictions: `StreamingMetrics` in one call."""
    metrics = StreamingMetrics()
    metrics.update(probs, labels, sample_entropy, sample_log_odds, mixture_entropy)
    return metrics.compute()


def accuracy(probs: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of examples whose predicted class is the label."""
    return float(_correct(*_checked_some(probs, labels)).mean())


def nll(probs: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log p(label) in nats, p at least `PROBABILITY_FLOOR`."""
    return float(_nll(*_checked_some(probs, labels)).mean())


def brier(probs: ArrayLike, labels: ArrayLike) -> float:
    """Brier score: squared error summed over classes, mean over examples, in [0, 2]."""
    return float(_brier(*_checked_some(probs, labels)).mean())


def ece(probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error of the predicted class, a fraction in [0, 1].

    Sum over equal-width confidence bins of count / n · abs(accuracy - mean
    confidence)
    (Guo et al., 2017, equation 3).
    """
    return _gap(_top_bins(probs, labels, num_bins))


def ece_if_calibrated(
    probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS
) -> float:
    """The `ece` to expect of these predictions if every confidence were exact.

    Few examples in a bin are right more or less often than their confidence says by
    chance alone, and the ECE counts that as error: it is above 0 for a network whose
    confidence is exact, the more so the fewer the examples (0.07 for 150 images of
    ten classes is common). An ECE means something as far as it is above this number.
    It is what consistency resampling (Bröcker and Smith, 2007) estimates by drawing
    labels from the predictions, here in closed form: the number of correct
    predictions in a bin is taken as binomial with the bin's mean confidence, which
    overstates its spread by a few percent at most.
    """
    return _gap_if_calibrated(_top_bins(probs, labels, num_bins))


def adaptive_ece(
    probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS
) -> float:
    """The same with bins of equal mass (Nguyen and O'Connor, 2015).

    Bin sizes differ by one example at most, the larger ones at low confidence.
    Examples of exactly equal confidence share their mean correctness, so the result
    does not depend on the order of the data where a bin's edge falls among them.
    """
    p, y = _checked_some(probs, labels)
    return _equal_mass_gap(p.max(axis=1), _correct(p, y), _checked_bins(num_bins))


def classwise_ece(
    probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS
) -> float:
    """Calibration error of every class's probability, averaged over the classes.

    Kull et al. (2019), equation 3; the static calibration error of Nixon et al. (2019).
    """
    p, y = _checked_some(probs, labels)
    return _gap(_bin_sums(p, _one_hot(p, y), _checked_bins(num_bins)))


def reliability(
    probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS
) -> Reliability:
    """Confidence, accuracy and count of each equal-width bin, for the diagram."""
    count, confidence, correct = _top_bins(probs, labels, num_bins)[:, 0]
    filled = np.where(count > 0, count, np.nan)
    return Reliability(confidence / filled, correct / filled, count.astype(np.int64))


def _scores(
    p: np.ndarray,
    y: np.ndarray,
    sample_entropy: ArrayLike | None,
    sample_log_odds: ArrayLike | None,
    mixture_entropy: ArrayLike | None,
) -> dict[str, np.ndarray]:
    """The metrics that are plain means: name → value of each example ``[n]``."""
    scores = {"accuracy": _correct(p, y), "nll": _nll(p, y), "brier": _brier(p, y)}
    if sample_entropy is None:
        scores |= {"predictive_entropy": entropy(p)}
    else:
        scores |= uncertainty_from_entropies(
            p, sample_entropy, mixture_entropy
        )._asdict()
    if sample_log_odds is not None:
        scores |= {"logit_disagreement": logit_disagreement(sample_log_odds, len(p))}
    return scores


def _correct(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (p.argmax(axis=1) == y).astype(np.float64)


def _nll(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(p[np.arange(len(y)), y], PROBABILITY_FLOOR))


def _brier(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sum((p - _one_hot(p, y)) ** 2, axis=1)


def _one_hot(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.arange(p.shape[1])[None, :] == y[:, None]).astype(np.float64)


def _top_bins(probs: ArrayLike, labels: ArrayLike, num_bins: int) -> np.ndarray:
    p, y = _checked_some(probs, labels)
    confidence, correct = p.max(axis=1)[:, None], _correct(p, y)[:, None]
    return _bin_sums(confidence, correct, _checked_bins(num_bins))


def _bin_sums(values: np.ndarray, hits: np.ndarray, num_bins: int) -> np.ndarray:
    """Count, sum of values, sum of hits ``[3, K, num_bins]`` for each of K columns."""
    num_columns = values.shape[1]
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    # A rounded probability of 1 + 1e-7 belongs to the last bin, exactly 0 to the first.
    bins = np.clip(np.searchsorted(edges, values) - 1, 0, num_bins - 1)
    slots = (bins + num_bins * np.arange(num_columns)[None, :]).ravel()
    sums = [
        np.bincount(slots, weights, num_columns * num_bins)
        for weights in (None, values.ravel(), hits.ravel())
    ]
    return np.stack(sums).astype(np.float64).reshape(3, num_columns, num_bins)


def _gap(sums: np.ndarray) -> float:
    """Calibration error of bin sums ``[3, K, num_bins]``, averaged over columns."""
    count, values, hits = sums
    return float(np.abs(values - hits).sum() / count.sum())


def _gap_if_calibrated(sums: np.ndarray) -> float:
    """Expected `_gap` of bin sums ``[3, 1, num_bins]`` if hits are binomial."""
    count, confidence, _ = sums[:, 0]
    gaps = [
        _binomial_deviation(int(n), total / n)
        for n, total in zip(count, confidence, strict=True)
        if n
    ]
    return math.fsum(gaps) / float(count.sum())


def _binomial_deviation(n: int, p: float) -> float:
    """E|X - n p| of a binomial X: De Moivre's formula."""
    if p <= 0 or p >= 1:
        return 0.0
    k = min(math.floor(n * p) + 1, n)
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    log_term = log_ways + k * math.log(p) + (n - k + 1) * math.log1p(-p)
    return 2 * k * math.exp(log_term)


def _equal_mass_gap(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int
) -> float:
    values, group, counts = np.unique(
        confidence, return_inverse=True, return_counts=True
    )
    rates = np.bincount(group, correct) / counts
    gaps = np.array_split(np.repeat(values - rates, counts), num_bins)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(confidence))


def _checked(probs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Float64 probabilities and int64 labels that keep the module's conventions."""
    p, y = checked_probs(probs), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise InputError(
            f"probs, labels: got shapes {p.shape} and {y.shape}, allowed: "
            "[examples, classes] and [examples] of the same length."
        )
    if y.size and not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels: got {y.dtype}, allowed: integers.")
    wrong = (y < 0) | (y >= p.shape[1])
    if wrong.any():
        raise InputError(
            f"labels: got {y[wrong][0]} at example {int(wrong.argmax())}, allowed: "
            f"0 to {p.shape[1] - 1} with {p.shape[1]} classes."
        )
    return p, y.astype(np.int64)


def _checked_some(probs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = _checked(probs, labels)
    _check_any(len(y))
    return p, y


def _checked_bins(num_bins: int) -> int:
    if num_bins < 1:
        raise InputError(f"num_bins: got {num_bins}, allowed: an integer from 1.")
    return num_bins


def _check_any(num_examples: int) -> None:
    if num_examples == 0:
        raise InputError("probs: got no examples, allowed: at least one.")

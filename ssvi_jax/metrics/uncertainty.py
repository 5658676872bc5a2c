"""Entropies, mutual information and logit disagreement of predicted classes, in nats.

From the probabilities of every posterior sample, or from what a run stores of them: the
average over samples, and of each sample its entropy and its largest log-odds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssvi_jax.core.errors import InputError

SUM_TOLERANCE = 1e-3
"""How far a row's sum may be from 1, and an entropy outside its range (nats)."""


class Uncertainty(NamedTuple):
    """Uncertainty of each example's prediction in nats, all float64 ``[n]``.

    Attributes:
      predictive_entropy: H of the prediction (total uncertainty).
      expected_entropy: average over samples of H (aleatoric part).
      mutual_information: H of the samples' averaged probabilities less the expected
        entropy (epistemic part), at least 0. So it is the difference of the two above,
        unless the prediction averages something else, such as logits.
    """

    predictive_entropy: np.ndarray
    expected_entropy: np.ndarray
    mutual_information: np.ndarray


def entropy(probs: ArrayLike) -> np.ndarray:
    """Entropy in nats along the last axis, float64 ``[...]``; 0 log 0 is 0.

    Raises:
      InputError: if an entry is NaN or negative, or a row does not sum to 1.
    """
    p = checked_probs(probs)
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def uncertainty(sample_probs: ArrayLike) -> Uncertainty:
    """Entropies and mutual information from every sample's probabilities.

    Args:
      sample_probs: ``[S, n, C]``, one prediction for each posterior sample.

    Returns:
      Predictive entropy, expected entropy, mutual information, each ``[n]`` in nats.

    Raises:
      InputError: for another rank, no samples, or rows that are no probabilities.
    """
    p = checked_probs(sample_probs)
    if p.ndim != 3 or not len(p):
        raise InputError(
            f"sample_probs: got shape {p.shape}, allowed: [samples, examples, classes] "
            "with at least one sample."
        )
    return uncertainty_from_entropies(p.mean(axis=0), entropy(p))


def uncertainty_from_entropies(
    mean_probs: ArrayLike,
    sample_entropy: ArrayLike,
    mixture_entropy: ArrayLike | None = None,
) -> Uncertainty:
    """The same from what a run stores: mean probabilities and samples' entropies.

    Args:
      mean_probs: ``[n, C]``, the average over samples.
      sample_entropy: ``[S, n]`` entropy of each sample's prediction in nats.
      mixture_entropy: ``[n]`` entropy in nats of the samples' averaged probabilities,
        where `mean_probs` is not their average but that of logits, say; None: it is.

    Returns:
      As `uncertainty`. Rounding below 0 of the mutual information becomes 0.

    Raises:
      InputError: if shapes do not fit, an entropy is NaN or outside [0, log C], or the
        samples' entropies are larger on average than the entropy of the mean: then the
        arrays do not belong together.
    """
    total = entropy(mean_probs)
    num_classes = np.shape(mean_probs)[-1]
    expected = _checked_entropies(sample_entropy, total, num_classes).mean(axis=0)
    mixture = total
    if mixture_entropy is not None:
        mixture = _checked_mixture(mixture_entropy, total, num_classes)
    information = mixture - expected
    if np.any(information < -SUM_TOLERANCE):
        raise InputError(
            "sample_entropy: its mean is above the entropy of the mean prediction by "
            f"{-information.min():.3g} nats, which no average of probabilities can "
            "have. Give the entropies of the very samples that were averaged, and of "
            "averaged logits mixture_entropy as well."
        )
    return Uncertainty(total, expected, np.maximum(information, 0.0))


def logit_disagreement(
    sample_log_odds: ArrayLike, num_examples: int | None = None
) -> np.ndarray:
    """How far posterior samples differ in the largest log-odds, float64 ``[n]``.

    The standard deviation over the samples, sqrt(Σ_s (l_s - mean)² / S), of
    l_s = max over classes of log(p / (1 - p)): the disagreement of logits that Raina
    (arXiv 2502.15648) detects foreign inputs by, with log-odds in place of logits, as a
    constant in all logits of a sample changes no prediction. Samples that are certain
    of one class may differ in it, where mutual information is 0.

    Args:
      sample_log_odds: ``[S, n]``, of each sample's prediction in nats.
      num_examples: n; None: whatever comes.

    Raises:
      InputError: another shape, no samples, or values that are not finite.
    """
    values = np.asarray(sample_log_odds, dtype=np.float64)
    fits = values.ndim == 2 and num_examples in (None, values.shape[1])
    if not fits or not len(values):
        raise InputError(
            f"sample_log_odds: got shape {values.shape}, allowed: [samples, "
            f"{'examples' if num_examples is None else num_examples}] with at least "
            "one sample."
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"sample_log_odds: got {values[~np.isfinite(values)][0]}, allowed: finite "
            "numbers. Look for NaN in the predictions."
        )
    return values.std(axis=0)


def checked_probs(probs: ArrayLike) -> np.ndarray:
    """Float64 probabilities ``[..., C]``, as they came.

    Raises:
      InputError: if an entry is NaN or negative, or a row does not sum to 1 within
        `SUM_TOLERANCE`.
    """
    p = np.asarray(probs, dtype=np.float64)
    if p.ndim < 1 or p.shape[-1] < 1:
        raise InputError(f"probs: got shape {p.shape}, allowed: [..., classes].")
    # Written so that NaN, for which every comparison is false, is refused as well.
    bad = ~((p >= 0).all(axis=-1) & (np.abs(p.sum(axis=-1) - 1) <= SUM_TOLERANCE))
    if bad.any():
        row = p[bad][0]
        raise InputError(
            f"probs: {int(bad.sum())} of {bad.size} rows are no probabilities; the "
            f"first of them sums to {row.sum():.6g}, its smallest entry is "
            f"{row.min():.3g}. Allowed: entries from 0 to 1, sum 1 within "
            f"{SUM_TOLERANCE}. Pass softmax(logits), not logits."
        )
    return p


def _checked_entropies(
    sample_entropy: ArrayLike, total: np.ndarray, num_classes: int
) -> np.ndarray:
    h = np.asarray(sample_entropy, dtype=np.float64)
    if h.ndim != 2 or not len(h) or h.shape[1:] != total.shape:
        raise InputError(
            f"sample_entropy: got shape {h.shape}, allowed: [samples, "
            f"{', '.join(map(str, total.shape))}] with at least one sample."
        )
    return _in_range("sample_entropy", h, num_classes)


def _checked_mixture(
    mixture_entropy: ArrayLike, total: np.ndarray, num_classes: int
) -> np.ndarray:
    h = np.asarray(mixture_entropy, dtype=np.float64)
    if h.shape != total.shape:
        raise InputError(
            f"mixture_entropy: got shape {h.shape}, allowed: {total.shape}, one number "
            "an example."
        )
    return _in_range("mixture_entropy", h, num_classes)


def _in_range(argument: str, h: np.ndarray, num_classes: int) -> np.ndarray:
    limit = np.log(num_classes)
    good = (h >= -SUM_TOLERANCE) & (h <= limit + SUM_TOLERANCE)
    if not good.all():
        raise InputError(
            f"{argument}: got {h[~good][0]:.6g}, allowed: 0 to log({num_classes}) "
            f"= {limit:.4g} nats."
        )
    return h

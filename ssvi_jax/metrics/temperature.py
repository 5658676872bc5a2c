"""Temperature scaling of class probabilities, after training (Guo et al., 2017).

p_T ∝ p^(1/T): one number T for all inputs, fitted on data that were not trained on.
T > 1 makes predictions less confident, T < 1 more; the predicted class stays. No logits
are needed, since log p are logits of p.

For a posterior, scale the *average* over samples, as here: the average of calibrated
networks is not calibrated itself (Rahaman and Thiery, 2021). This is a correction after
the fact, on the averaged prediction: the posterior and its samples do not change, and
entropies of single samples do not belong to a scaled prediction.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import classification as metrics
from ssvi_jax.metrics.uncertainty import checked_probs

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Temperatures are searched and allowed in between, both included."""

_UNIFORM_SPREAD = 1e-6  # of log p: several roundings of float32
_PRECISION = 1e-12  # of 1/T, which is between 0.01 and 100


def fit(probs: ArrayLike, labels: ArrayLike) -> float:
    """The temperature with the smallest mean NLL of `apply(probs, T)`.

    The NLL is convex in 1/T, so the minimum is the zero of its slope, which Brent's
    method finds to 1e-10 (relative).

    The minimum can lie at the border of the range, and the border is returned:
    `MIN_TEMPERATURE` where every prediction is right, certain ones too;
    `MAX_TEMPERATURE` where uniform ones would be better than any that are surer. Few
    examples often end there. Predictions that are all uniform (within float32 rounding
    of log p) do not depend on T and give 1.

    Args:
      probs: ``[n, C]`` class probabilities (averaged over posterior samples) of
        held-out examples; smaller ones count as `metrics.PROBABILITY_FLOOR`.
      labels: integers ``[n]``.

    Raises:
      InputError: what `metrics.nll` refuses.
    """
    metrics.nll(probs, labels)  # refuses what cannot be scored
    log_p = _log_probs(checked_probs(probs))
    if log_p.min() > -_UNIFORM_SPREAD:
        return 1.0
    of_label = log_p[np.arange(len(log_p)), np.asarray(labels)]

    def slope(inverse: float) -> float:
        """Of the mean NLL by 1/T: mean over examples of E[log p] under p_T - log p."""
        weights = np.exp(inverse * log_p)
        weights /= weights.sum(axis=1, keepdims=True)
        return float(np.mean(np.sum(weights * log_p, axis=1) - of_label))

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    found = optimize.root_scalar(slope, bracket=(low, high), xtol=_PRECISION)
    return 1 / found.root


def apply(probs: ArrayLike, temperature: float) -> np.ndarray:
    """Scaled class probabilities p^(1/T) / Σ p^(1/T), float64 ``[..., C]``.

    Rows sum to 1 whatever the sum was within its tolerance. An order of classes within
    a row never reverses by more than rounding. Probabilities below
    `metrics.PROBABILITY_FLOOR`, zero too, are scaled as if they were equal to it.

    Args:
      probs: ``[..., C]`` class probabilities (averaged over posterior samples).
      temperature: T, from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`.

    Raises:
      InputError: rows that are no probabilities, or another temperature.
    """
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise InputError(
            f"temperature: got {temperature}, allowed: {MIN_TEMPERATURE} to "
            f"{MAX_TEMPERATURE}."
        )
    powers = np.exp(_log_probs(checked_probs(probs)) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def _log_probs(p: np.ndarray) -> np.ndarray:
    """Log probabilities with the largest of each row moved to 0, against overflow."""
    log_p = np.log(np.maximum(p, metrics.PROBABILITY_FLOOR))
    return log_p - log_p.max(axis=-1, keepdims=True)

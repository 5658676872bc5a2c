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

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import classification as metrics
from ssvi_jax.metrics.uncertainty import checked_probs

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Temperatures are searched and allowed in between, both included."""

_UNIFORM_SPREAD = 1e-6  # of log p: several roundings of float32
_PRECISION = 1e-10  # relative, of 1/T
_MAX_STEPS = 100


def fit(probs: ArrayLike, labels: ArrayLike) -> float:
    """The temperature with the smallest mean NLL of `apply(probs, T)`.

    The NLL is convex in 1/T, so the minimum is the zero of its slope, found by Newton's
    method within a bracket to 1e-10 (relative).

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
    if _slopes(log_p, of_label, 1 / MAX_TEMPERATURE)[0] >= 0:
        return MAX_TEMPERATURE
    if _slopes(log_p, of_label, 1 / MIN_TEMPERATURE)[0] <= 0:
        return MIN_TEMPERATURE
    return 1 / _minimum(log_p, of_label)


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


def _slopes(
    log_p: np.ndarray, of_label: np.ndarray, inverse: float
) -> tuple[float, float]:
    """First and second derivative of the mean NLL by 1/T at `inverse`.

    With l = log p: the mean over examples of E[l] - l_label, and of Var[l], under p_T.
    """
    weights = np.exp(inverse * log_p)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = np.sum(weights * log_p, axis=1)
    variance = np.sum(weights * (log_p - mean[:, None]) ** 2, axis=1)
    return float(np.mean(mean - of_label)), float(np.mean(variance))


def _minimum(log_p: np.ndarray, of_label: np.ndarray) -> float:
    """1/T where the slope, below 0 at one border and above at the other, is 0."""
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    inverse, last_step = 1.0, np.inf
    for _ in range(_MAX_STEPS):
        slope, curvature = _slopes(log_p, of_label, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = -slope / curvature if curvature > abs(slope) / high else np.inf
        # Halves the bracket where Newton's method leaves it or hardly gets closer.
        if not (low <= inverse + step <= high and abs(step) <= last_step / 2):
            step = np.sqrt(low * high) - inverse
        inverse, last_step = inverse + step, abs(step)
        if last_step <= _PRECISION * inverse:
            break
    return float(inverse)

"""What a prediction keeps of each forward pass beside the average: two scores.

Both come from log-probabilities in float64, which tell how certain a certain pass is
where its probabilities are rounded to 0 and 1.
"""

import numpy as np

FLOOR = -1e4
"""Least log-probability: that of a class that is ruled out is -inf."""


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """Entropy of a pass ``[n]`` in nats, of float64 log-probabilities ``[n, C]``."""
    # A probability of 0 adds nothing, whatever its logarithm.
    return -np.sum(np.exp(log_probs) * np.maximum(log_probs, FLOOR), axis=-1)


def largest_log_odds(log_probs: np.ndarray) -> np.ndarray:
    """The largest log(p / (1 - p)) of a pass over its classes, in nats.

    It is that of the likeliest class; of two classes the absolute difference of their
    logits. 1 - p is the sum of the other probabilities, so that nothing is lost where p
    is rounded to 1; it counts as e^`FLOOR` at least.

    Args:
      log_probs: float64 ``[n, C]``, at least 2 classes.

    Returns:
      Float64 ``[n]``, at least -log(C - 1).
    """
    rest = np.maximum(log_probs, FLOOR)
    likeliest = rest.argmax(axis=-1)[..., None]
    largest = np.take_along_axis(rest, likeliest, axis=-1)
    np.put_along_axis(rest, likeliest, -np.inf, axis=-1)
    second = rest.max(axis=-1, keepdims=True)
    others = second + np.log(np.exp(rest - second).sum(axis=-1, keepdims=True))
    return (largest - others)[..., 0]

"""How much the members of an ensemble differ in what they predict.

Every number is a mean over examples and over pairs of members; two equal members have
a disagreement and a divergence of 0 and a similarity of 1.
"""

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import PROBABILITY_FLOOR
from ssvi_jax.metrics.uncertainty import checked_probs


def diversity(member_probs: ArrayLike) -> dict[str, float]:
    """Disagreement, KL divergence and cosine similarity of pairs of members.

    Args:
      member_probs: ``[K, n, classes]`` probabilities, at least 2 members.

    Returns:
      disagreement: fraction of examples whose predicted classes differ (Fort et al.,
      arXiv 1912.02757, before they divide by the error rate); kl: of each member from
      each other, in nats; cosine_similarity: of the probability vectors, in [0, 1].

    Raises:
      InputError: another rank, fewer than 2 members, no examples, or rows that are no
        probabilities.
    """
    p = checked_probs(member_probs)
    if p.ndim != 3 or len(p) < 2 or not p.shape[1]:
        raise InputError(
            f"member_probs: got shape {p.shape}, allowed: [members, examples, classes] "
            "with at least two members and one example."
        )
    pairs = list(combinations(range(len(p)), 2))
    each = [_pair(p[i], p[j]) for i, j in pairs]
    names = ("disagreement", "kl", "cosine_similarity")
    return dict(zip(names, map(float, np.mean(each, axis=0)), strict=True))


def _pair(p: np.ndarray, q: np.ndarray) -> tuple[float, float, float]:
    """The three numbers of two members ``[n, classes]``; the KL of both directions."""
    logs = [np.log(np.maximum(a, PROBABILITY_FLOOR)) for a in (p, q)]
    jeffreys = np.sum((p - q) * (logs[0] - logs[1]), axis=-1)
    norms = np.linalg.norm(p, axis=-1) * np.linalg.norm(q, axis=-1)
    cosine = np.sum(p * q, axis=-1) / norms
    differ = p.argmax(axis=-1) != q.argmax(axis=-1)
    return differ.mean(), jeffreys.mean() / 2, cosine.mean()

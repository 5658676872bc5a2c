"""A few test images under a few corruptions, with what every model says of them."""

from collections.abc import Sequence

import numpy as np

from ssvi_jax.evaluation.shift.inputs import Inputs
from ssvi_jax.evaluation.shift.kept_predictions import Predictions
from ssvi_jax.evaluation.shift.subjects import Subject
from ssvi_jax.metrics.uncertainty import (
    entropy,
    logit_disagreement,
    uncertainty_from_entropies,
)

NUM_IMAGES = 6
LOOKS = (
    *("clean", "gaussian_noise/1", "gaussian_noise/5", "glass_blur/3"),
    *("fog/5", "contrast/5", "jpeg_compression/5"),
)
"""Sets that the examples are shown in, where they were evaluated."""


def examples(
    predictions: Predictions, models: Sequence[Subject], inputs: Inputs
) -> dict[str, np.ndarray]:
    """What examples.npz holds; k images, m looks.

    Args:
      predictions: of every model on every set.
      models: the models.
      inputs: the images.

    Returns:
      ``images`` uint8 ``[k, m, h, w, c]``, ``looks`` ``[m]``, ``labels`` ``[k, m]``
      (-1 out of distribution), and for model number r ``probs_r`` ``[k, m, C]``,
      ``entropy_r`` and, with a posterior, ``mutual_information_r`` and
      ``logit_disagreement_r`` ``[k, m]`` (nats).
    """
    looks = [name for name in LOOKS if name in inputs.names]
    looks += [f"ood/{found.name}" for found in inputs.ood[:1]]
    shown = [inputs.read(name) for name in looks]
    rows = _one_of_each(shown[0].labels[: min(len(s.labels) for s in shown)])
    arrays = {
        "looks": np.array(looks),
        "images": np.stack([s.images[rows] for s in shown], axis=1),
        "labels": np.stack([s.labels[rows] for s in shown], axis=1),
    }
    for r, model in enumerate(models):
        parts = [_said(predictions, model, name, rows) for name in looks]
        for key in parts[0]:
            if all(key in part for part in parts):  # an earlier version kept less
                arrays[f"{key}_{r}"] = np.stack([part[key] for part in parts], axis=1)
    return arrays


def _one_of_each(labels: np.ndarray) -> np.ndarray:
    """Rows of the first examples of `NUM_IMAGES` different classes."""
    return np.sort(np.unique(labels, return_index=True)[1])[:NUM_IMAGES]


def _said(
    predictions: Predictions, model: Subject, name: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    found = predictions.read(model.name, name)
    if found.sample_entropy is None:
        probs = found.probs["mean"][rows]
        return {"probs": probs, "entropy": entropy(probs)}
    probs = found.probs["mc"][rows]
    parts = uncertainty_from_entropies(probs, found.sample_entropy[:, rows])
    said = {
        "probs": probs,
        "entropy": parts.predictive_entropy,
        "mutual_information": parts.mutual_information,
    }
    if found.sample_log_odds is not None:
        odds = found.sample_log_odds[:, rows]
        said |= {"logit_disagreement": logit_disagreement(odds)}
    return said

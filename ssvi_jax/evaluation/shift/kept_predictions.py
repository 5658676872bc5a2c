"""Predictions of several models on many sets of images, kept on disk as they come.

An evaluation of the whole of CIFAR-10-C takes hours on a CPU: whatever is finished is
read back instead of predicted again. Only the predictions of one set are in memory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift.subjects import Subject
from ssvi_jax.io import run_files
from ssvi_jax.io.run_log import RunLog
from ssvi_jax.vi.predictive import backend_for, has_samples, predict

NETWORKS = {"mc": "mc_probs", "mean": "mean_probs"}
"""Network (average over posterior samples; at the posterior mean) → stored array."""

_OF_SAMPLES = ("sample_entropy", "sample_log_odds")


class ImageSet(NamedTuple):
    """Images that every model predicts.

    Attributes:
      name: ``"clean"``, ``"val"``, ``"fog/3"``, ``"ood/svhn"``; unique.
      images: uint8 ``[n, h, w, c]``.
      labels: int ``[n]``; -1 where the image belongs to no class of the model.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray


class Predicted(NamedTuple):
    """Predictions of one model on one set.

    Attributes:
      probs: network → float32 ``[n, C]``; "mean" always, "mc" with a posterior.
      sample_entropy: float32 ``[S, n]`` in nats; None without a posterior.
      sample_log_odds: float32 ``[S, n]``, the largest of each sample, in nats; None
        without a posterior, and where an earlier version kept the predictions.
      labels: int ``[n]``.
    """

    probs: dict[str, np.ndarray]
    sample_entropy: np.ndarray | None
    sample_log_odds: np.ndarray | None
    labels: np.ndarray

    def entropies(self, network: str) -> np.ndarray | None:
        """The samples' entropies where `network` averages over samples."""
        return self.sample_entropy if network == "mc" else None

    def log_odds(self, network: str) -> np.ndarray | None:
        """The samples' largest log-odds where `network` averages over samples."""
        return self.sample_log_odds if network == "mc" else None


class Predictions:
    """Of several models on several sets: made, or read where they were made before.

    Args:
      folder: where predictions are kept: ``<model>/<set>.npz``.
      samples: S, posterior samples per prediction.
      seed: seed of the samples; the same S networks predict every set.
      batch_size: images per call.
    """

    def __init__(self, folder: Path, *, samples: int, seed: int, batch_size: int = 500):
        self._folder = folder
        self._samples = samples
        self._key = jax.random.key(seed)
        self._batch_size = batch_size

    def get(self, subject: Subject, images: ImageSet) -> Predicted:
        """Predictions of one model on one set.

        Raises:
          InputError: no images, a prediction that is not finite, or a full disk.
        """
        if self.has(subject.name, images.name):
            return self.read(subject.name, images.name)
        found = predict(
            subject.network,
            subject.weights,
            subject.masks,
            images.images,
            key=self._key,
            num_samples=self._samples,
            batch_size=self._batch_size,
            backend=backend_for(subject.masks),
        )
        arrays = {"mean_probs": found.mean_probs, "labels": images.labels}
        if has_samples(subject.network, subject.weights):
            arrays |= {"mc_probs": found.mc_probs}
            arrays |= {name: getattr(found, name) for name in _OF_SAMPLES}
        log = RunLog(self._folder / subject.name)
        log.write_arrays(_file(images.name), arrays)
        return _predicted(arrays)

    def has(self, subject: str, images: str) -> bool:
        """Whether this model's predictions on this set are kept."""
        return (self._folder / subject / _file(images)).exists()

    def read(self, subject: str, images: str) -> Predicted:
        """Predictions that are kept.

        Raises:
          InputError: they are missing or damaged.
        """
        path = self._folder / subject / _file(images)
        arrays = run_files.read_arrays(path)
        if not {"mean_probs", "labels"} <= arrays.keys():
            raise InputError(f"{path}: no predictions in it; delete it and run again.")
        return _predicted(arrays)

    def pooled(self, subject: str, names: Sequence[str]) -> Predicted:
        """Predictions on several sets as if they were one."""
        parts = [self.read(subject, name) for name in names]
        return Predicted(
            {k: np.concatenate([p.probs[k] for p in parts]) for k in parts[0].probs},
            _joined([p.sample_entropy for p in parts]),
            _joined([p.sample_log_odds for p in parts]),
            np.concatenate([p.labels for p in parts]),
        )


def _file(name: str) -> str:
    return name.replace("/", "-") + ".npz"


def _predicted(arrays: dict[str, np.ndarray]) -> Predicted:
    probs = {k: arrays[name] for k, name in NETWORKS.items() if name in arrays}
    entropies, log_odds = (arrays.get(name) for name in _OF_SAMPLES)
    return Predicted(probs, entropies, log_odds, arrays["labels"])


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Arrays ``[S, n]`` as one; None where one of them is missing."""
    there = [array for array in arrays if array is not None]
    return np.concatenate(there, axis=1) if len(there) == len(arrays) else None

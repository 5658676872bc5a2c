"""A classification data set, and how its validation images are chosen."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ssvi_jax.data import lazy


class Corruption(NamedTuple):
    """How the training and validation images of a data set were corrupted.

    Attributes:
      name: one of `ssvi_jax.data.corruptions.NAMES`.
      severity: 1 to 5.
      test_images: uint8 ``[t, h, w, c]``, the test images under the same corruption.
    """

    name: str
    severity: int
    test_images: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and labels of three disjoint splits, with what augmentation may do.

    The inputs are images unless `pixels` says otherwise; then the fields named images
    hold float32 ``[n, time, features]``. A set that does not fit in memory has
    `lazy.Images` and `lazy.Labels` in the place of all six arrays.

    Attributes:
      name: ``"cifar10"``, ``"cifar100"``, ``"digits"``, ``"mimic3"`` or
        ``"imagenet2012"``; never ``"auto"``.
      train_images: uint8 ``[n, h, w, c]``, pixels in 0 to 255.
      train_labels: int32 ``[n]``, classes from 0.
      val_images: uint8 ``[v, h, w, c]``, taken out of the official training set.
      val_labels: int32 ``[v]``.
      test_images: uint8 ``[t, h, w, c]``.
      test_labels: int32 ``[t]``.
      num_classes: number of classes.
      mean: float32 ``[c]``, mean of the training pixels divided by 255, or of the
        features, ``[features]``.
      std: float32, their standard deviation, likewise.
      source: one sentence on where the images came from, for the results.
      pad: pixels of zeros around an image before a random crop of its own size.
      flip: whether a mirrored image keeps its class (a mirrored 3 is no digit).
      corruption: what `shifted.corrupt_training` did; None: the images are clean.
      pixels: whether the inputs are images.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: np.ndarray
    std: np.ndarray
    source: str
    pad: int
    flip: bool
    corruption: Corruption | None = None
    pixels: bool = True

    @property
    def is_streamed(self) -> bool:
        """Whether images are read from disk whenever they are asked for."""
        return isinstance(self.train_images, lazy.Images)


def stratified_split(
    labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `count` examples so that each class gives its share (Sainte-Laguë).

    Args:
      labels: integer ``[n]``.
      count: examples to draw, 0 to n.
      seed: seed of the draw.

    Returns:
      Sorted positions of the rest ``[n - count]`` and of the drawn ``[count]``.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    # The k-th of a class's n_c examples lies at (k + 1/2) / n_c: taking the smallest
    # of these takes the same fraction of every class.
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    ranked = order[np.argsort(position, kind="stable")]
    return np.sort(ranked[count:]), np.sort(ranked[:count])


def channel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, pixels divided by 255.

    Args:
      images: uint8 ``[n, h, w, c]``.

    Returns:
      float32 ``[c]`` twice; the sums behind them are exact integers.
    """
    flat = images.reshape(len(images), -1)
    total = flat.sum(axis=0, dtype=np.uint64)
    total_squares = np.zeros_like(total)
    for chunk in np.array_split(flat, 1 + len(flat) // 1000):
        total_squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
    num_channels = images.shape[-1]
    num_pixels = images.size // num_channels * 255.0
    mean = total.reshape(-1, num_channels).sum(axis=0) / num_pixels
    squares = total_squares.reshape(-1, num_channels).sum(axis=0)
    variance = np.maximum(squares / (num_pixels * 255.0) - mean**2, 0.0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

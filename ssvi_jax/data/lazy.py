"""Images and labels of a set that does not fit in memory: read when they are asked for.

Both stand where a `Dataset` otherwise has NumPy arrays. They have a length, a shape and
a type, and indexing with rows reads those. No image is kept.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ssvi_jax.core.errors import check_rows


class Records(Protocol):
    """What the images and labels of a split are read from, from several threads."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        ...

    def batch(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ``[n, h, w, c]`` without augmentation, labels int32 ``[n]``."""
        ...

    def labels(self, rows: Sequence[int]) -> np.ndarray:
        """Labels int32 ``[n]`` alone."""
        ...

    def example(
        self, row: int, *, seed: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """An augmented training image ``[h, w, c]``, and its label ``[]``."""
        ...


class _Lazy:
    """Some rows of a split.

    Args:
      records: the split.
      rows: int ``[n]``, which records these are, in this order.
    """

    def __init__(self, records: Records, rows: np.ndarray):
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def _checked(self, key: np.ndarray) -> np.ndarray:
        key = np.asarray(key)
        if key.ndim != 1:
            raise TypeError(f"rows: got {key.ndim} axes, allowed: 1, or a slice")
        check_rows("rows", key, len(self))
        return key


class Images(_Lazy):
    """Images of some rows of a split; see the module.

    ``images[rows]`` reads them without augmentation, uint8 ``[len(rows), h, w, c]``,
    and ``images[start:stop]`` are the images of fewer rows, still unread.
    """

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(n, h, w, c)``, as of an array."""
        return len(self), *self.records.shape

    def __getitem__(self, key):
        if isinstance(key, slice):
            return Images(self.records, self.rows[key])
        # Predictions repeat the last image until a batch is full.
        own, places = np.unique(self._checked(key), return_inverse=True)
        images = self.records.batch(self.rows[own].tolist())[0]
        return images if np.array_equal(own, key) else images[places]

    def example(
        self, position: int, *, seed: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image at a position as it is trained on in an epoch, and its label."""
        row = int(self.rows[position])
        return self.records.example(row, seed=seed, epoch=epoch)


class Labels(_Lazy):
    """Labels of some rows of a split; `numpy.asarray` reads them all, once."""

    dtype = np.dtype(np.int32)

    @functools.cached_property
    def _all(self) -> np.ndarray:
        return self.records.labels(self.rows.tolist())

    @property
    def shape(self) -> tuple[int]:
        """``(n,)``, as of an array."""
        return (len(self),)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return Labels(self.records, self.rows[key])
        return self.records.labels(self.rows[self._checked(key)].tolist())

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy  # astype always makes one
        return self._all.astype(dtype or self.dtype)

"""Every set of images that a corruption evaluation predicts, by name."""

import dataclasses

import numpy as np

from ssvi_jax.data import Dataset
from ssvi_jax.data.corrupted import Cells
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, SEVERITIES
from ssvi_jax.data.ood import OodSet
from ssvi_jax.evaluation.shift.kept_predictions import ImageSet


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Clean, validation, corrupted and out-of-distribution images.

    Attributes:
      data: the data set; its test and validation images are used.
      cells: the corrupted images.
      ood: the out-of-distribution sets.
      limit: use only the first so many test images; 0: all.
    """

    data: Dataset
    cells: Cells
    ood: list[OodSet]
    limit: int = 0

    @property
    def benchmark(self) -> list[str]:
        """Corruptions of the benchmark that there are, in its order."""
        return [name for name in BENCHMARK if name in self.cells.names]

    @property
    def extra(self) -> list[str]:
        """Extra corruptions that there are."""
        return [name for name in EXTRA if name in self.cells.names]

    @property
    def names(self) -> list[str]:
        """Names of all sets: "clean", "val", "fog/3", …, "ood/svhn"."""
        corruptions = [*self.benchmark, *self.extra]
        cells = [f"{name}/{s}" for name in corruptions for s in SEVERITIES]
        return ["clean", "val", *cells, *(f"ood/{found.name}" for found in self.ood)]

    def read(self, name: str) -> ImageSet:
        """One set, read (or made) now."""
        if name == "clean":
            images, labels = self.data.test_images, self.data.test_labels
            end = self.limit or len(labels)
            return ImageSet(name, images[:end], labels[:end])
        if name == "val":
            return ImageSet(name, self.data.val_images, self.data.val_labels)
        kind, _, which = name.partition("/")
        if kind != "ood":
            return ImageSet(name, *self.cells.read(kind, int(which)))
        (images,) = (found.images for found in self.ood if found.name == which)
        return ImageSet(name, images, np.full(len(images), -1, np.int32))

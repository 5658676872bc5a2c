"""Corrupted test images: official files, or TFDS's, or made here from the test images.

The benchmark is CIFAR-10-C: 15 corruptions at 5 severities each (Hendrycks and
Dietterich 2019).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar, corruptions, official, prepared_cells
from ssvi_jax.data.cells import Cells, check_cell, check_limit, how_many
from ssvi_jax.data.dataset import Dataset

__all__ = ["Cells", "GeneratedCells", "open_cells"]


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedCells:
    """Cells that are made when they are read; see `ssvi_jax.data.cells.Cells`.

    Attributes:
      source: one sentence on where the images came from.
      names: the corruptions.
      images: uint8 ``[n, h, w, c]``, clean.
      labels: int32 ``[n]``.
      seed: seed of the corruptions; the same cell is the same at every reading.
    """

    source: str
    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    seed: int
    kind: str = dataclasses.field(default="generated", init=False)

    @property
    def num_images(self) -> int:
        """Images in a cell."""
        return len(self.images)

    def read(self, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
        """Corrupts the images."""
        check_cell(self.names, name, severity)
        made = corruptions.corrupt_any(self.images, name, severity, seed=self.seed)
        return made, self.labels.copy()


def open_cells(
    dataset: Dataset,
    *,
    corruptions_dir: Path | None,
    data_dir: Path | None,
    extra: bool,
    limit: int,
    seed: int,
    notify: Callable[[str], object],
) -> Cells:
    """Opens the best corrupted images there are; reads none of them.

    In this order: `corruptions_dir` where it is given; for CIFAR-10, what TFDS has
    prepared; else the test images are corrupted here, which is said loudly.

    Args:
      dataset: the models' data set.
      corruptions_dir: folder of .npy files in the official layout, of any number of
        images.
      data_dir: folder of sets prepared by TFDS; without it $TFDS_DATA_DIR, then
        ``~/tensorflow_datasets``.
      extra: whether the four extra corruptions are wanted too.
      limit: take the first so many images of each cell; 0: all.
      seed: seed of corruptions that are made here, 0 or more.
      notify: called with a line on whatever a reader of the results must know.

    Raises:
      InputError: what is there is damaged or does not fit the data set, a negative
        `limit`, or a data set that is not of images in memory.
    """
    check_limit(limit)
    if not dataset.pixels or dataset.is_streamed:
        raise InputError(
            f"dataset: got {dataset.name}, allowed: data sets of images in memory; "
            "corruptions are made of their pixels."
        )
    if corruptions_dir is not None:
        return official.open_folder(
            corruptions_dir.expanduser(),
            dataset,
            extra=extra,
            limit=limit,
            notify=notify,
        )
    if dataset.name == "cifar10":
        root = cifar.data_root(data_dir)
        cells = prepared_cells.open_prepared(
            root, dataset, extra=extra, limit=limit, notify=notify
        )
        if cells is not None:
            return cells
        notify(
            f"*** CIFAR-10-C is not in {root}, so corruptions are MADE from the test "
            f"images (seed {seed}): compare models with one another, not with "
            "published numbers. The official files: --corruptions-dir, or "
            f"python -m ssvi_jax.data.prepare {prepared_cells.TFDS_SET}. ***"
        )
    else:
        notify(
            f"*** There is no official corrupted {dataset.name}: corruptions are MADE "
            f"from the test images (seed {seed}). ***"
        )
    return _generated(dataset, extra=extra, limit=limit, seed=seed)


def _generated(
    dataset: Dataset, *, extra: bool, limit: int, seed: int
) -> GeneratedCells:
    images = dataset.test_images[: limit or None]
    source = (
        f"made from the test images of {dataset.name} by ssvi_jax.corruptions with "
        f"seed {seed}, not official files; "
        f"{how_many(len(images), len(dataset.test_images))}"
    )
    names = corruptions.NAMES if extra else corruptions.BENCHMARK
    labels = dataset.test_labels[: limit or None]
    return GeneratedCells(source, names, images, labels, seed)

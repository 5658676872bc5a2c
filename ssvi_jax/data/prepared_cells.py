"""CIFAR-10-C as TensorFlow Datasets (TFDS) has prepared it: one set for each cell."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ssvi_jax.data import cifar, records
from ssvi_jax.data.cells import check_cell, how_many
from ssvi_jax.data.corruptions import BENCHMARK, NAMES, SEVERITIES
from ssvi_jax.data.dataset import Dataset

TFDS_SET = "cifar10_corrupted"
_TFDS_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
_OTHERWISE = "give the official files with --corruptions-dir"


def tfds_name(name: str, severity: int) -> str:
    """TFDS's name of one cell: ``"cifar10_corrupted/frosted_glass_blur_3"``.

    Args:
      name: one of `ssvi_jax.data.corruptions.NAMES`; TFDS has all 19.
      severity: 1 to 5.
    """
    return f"{TFDS_SET}/{_TFDS_NAMES.get(name, name)}_{severity}"


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCells:
    """Cells that are read from TFDS's records; see `ssvi_jax.data.cells.Cells`.

    Attributes:
      source: one sentence on where the images came from.
      names: the corruptions of which every severity is prepared.
      folders: (corruption, severity) → folder of the newest version.
      rows: int ``[n]``, the row of the official files that each record belongs to;
        None: unknown, the images stay as the records lie.
      num_images: images taken of each cell, its first ones.
    """

    source: str
    names: tuple[str, ...]
    folders: Mapping[tuple[str, int], Path]
    rows: np.ndarray | None
    num_images: int
    kind: str = dataclasses.field(default="tfds", init=False)

    def read(self, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
        """Decodes one cell."""
        check_cell(self.names, name, severity)
        found = _read(self.folders[name, severity], self.rows, self.num_images)
        return found.images, found.labels[: self.num_images]


def open_prepared(
    root: Path,
    dataset: Dataset,
    *,
    extra: bool,
    limit: int,
    notify: Callable[[str], object],
) -> PreparedCells | None:
    """Finds the prepared cells; a corruption counts when all its severities are there.

    Args:
      root: folder of prepared sets.
      dataset: CIFAR-10, the clean images.
      extra: whether the four extra corruptions are taken too, where they are there.
      limit: take the first so many images of each cell; 0: all.
      notify: called with a line on what lacks.

    Returns:
      None where not one corruption of the benchmark is complete.

    Raises:
      InputError: a prepared cell is incomplete or of another size, by its own account.
    """
    wanted = NAMES if extra else BENCHMARK
    cells = [(name, severity) for name in wanted for severity in SEVERITIES]
    found = {cell: cifar.find(root, tfds_name(*cell)) for cell in cells}
    folders = {cell: folder for cell, folder in found.items() if folder is not None}
    names = tuple(n for n in wanted if all((n, s) in folders for s in SEVERITIES))
    lacking = [tfds_name(*cell) for cell in cells if cell not in folders]
    if folders and lacking:
        notify(
            f"*** {root} lacks {_shortened(lacking)}: only corruptions with all 5 "
            f"severities are used, {len(names)} of {len(wanted)}. ***"
        )
    if not set(names) & set(BENCHMARK):
        return None
    folders = {cell: folder for cell, folder in folders.items() if cell[0] in names}
    size = cifar.SPLIT_SIZES["test"]
    for folder in folders.values():
        with records.naming_damage(folder, _OTHERWISE):
            records.check(records.open_info(folder), "test", size)
    first = folders[names[0], SEVERITIES[0]]
    num_images = min(limit or size, size)
    source = (
        f"CIFAR-10-C (Hendrycks and Dietterich 2019), prepared by TensorFlow Datasets "
        f"as {TFDS_SET}/{first.name}, {how_many(num_images, size)}"
    )
    if missing := [name for name in wanted if name not in names]:
        source += f"; not there: {', '.join(missing)}"
    rows = _official_rows(first, dataset.test_labels, notify)
    return PreparedCells(source, names, folders, rows, num_images)


def _read(folder: Path, rows: np.ndarray | None, keep: int) -> records.Records:
    with records.naming_damage(folder, _OTHERWISE):
        return records.read(
            records.open_info(folder),
            "test",
            cifar.SPLIT_SIZES["test"],
            cifar.IMAGE_SHAPE,
            rows=rows,
            keep=keep,
        )


def _official_rows(
    folder: Path, test_labels: np.ndarray, notify: Callable[[str], object]
) -> np.ndarray | None:
    """Undoes TFDS's shuffling, by which row i is image i of the test set again.

    TFDS sorts records by the MD5 sum of the split and the key, here the image's number.
    The records themselves carry no number, so the labels tell whether that was right.
    """
    keys = range(len(test_labels))
    rows = np.array(sorted(keys, key=lambda i: _digest(b"test%d" % i)))
    if np.array_equal(_read(folder, rows, 0).labels, test_labels):
        return rows
    notify(
        f"*** {folder} is not in the order of the test images: row i of a cell is not "
        "test image i. ***"
    )
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _shortened(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

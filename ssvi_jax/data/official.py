"""Corrupted images from a folder in the layout of the official CIFAR-10-C files.

One file a corruption, ``fog.npy``: uint8 ``[5 n, h, w, c]``, n images at severity 1,
the same n at severity 2, and so on; ``labels.npy``: ``[5 n]``. The official n is
10,000; any other will do.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data.cells import check_cell, how_many
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, NAMES, SEVERITIES
from ssvi_jax.data.dataset import Dataset
from ssvi_jax.io.npy import open_npy

LABELS = "labels.npy"


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialCells:
    """Cells of memory-mapped files; see `ssvi_jax.data.cells.Cells`.

    Attributes:
      source: one sentence on where the images came from.
      files: corruption → uint8 ``[5 n, h, w, c]``, mapped, so that nothing is read
        before it is asked for.
      labels: int32 ``[n]``, the same at every severity.
      num_images: images taken of each cell, the first of its n.
    """

    source: str
    files: Mapping[str, np.ndarray]
    labels: np.ndarray
    num_images: int
    kind: str = dataclasses.field(default="folder", init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions there are."""
        return tuple(self.files)

    def read(self, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies one cell out of its file."""
        check_cell(self.names, name, severity)
        start = (severity - 1) * len(self.labels)
        images = self.files[name][start : start + self.num_images]
        return np.array(images), self.labels[: self.num_images].copy()


def open_folder(
    folder: Path,
    dataset: Dataset,
    *,
    extra: bool,
    limit: int,
    notify: Callable[[str], object],
) -> OfficialCells:
    """Maps all files of a folder and checks what can be checked without reading them.

    Args:
      folder: where the .npy files lie.
      dataset: the models' data set: its image shape and number of classes must fit.
      extra: whether the four extra corruptions are taken too, where they are there.
      limit: take the first so many images of each cell; 0: all.
      notify: called with a line on every corruption that lacks, and on oddities.

    Raises:
      InputError: a wrong folder, or a file that is missing, damaged, or of another
        type, shape or length than the others or the data set; the text names it.
    """
    _check_folder(folder)
    wanted = NAMES if extra else BENCHMARK
    files = {
        name: _open_images(folder / f"{name}.npy", dataset.test_images.shape[1:])
        for name in wanted
        if (folder / f"{name}.npy").exists()
    }
    labels = _open_labels(folder / LABELS, dataset.num_classes)
    for name, images in files.items():
        _check_length(folder / f"{name}.npy", len(images), len(labels))
    labels = _one_block(folder / LABELS, labels)
    lacking = [name for name in wanted if name not in files]
    _tell(folder, labels, dataset, lacking, notify)
    num_images = min(limit or len(labels), len(labels))
    source = (
        f"files in the layout of CIFAR-10-C (Hendrycks and Dietterich 2019), folder "
        f"{folder.resolve().name}, {how_many(num_images, len(labels))}"
    )
    if lacking:
        source += f"; not there: {', '.join(lacking)}"
    return OfficialCells(source, files, labels, num_images)


def _check_folder(folder: Path) -> None:
    allowed = f"allowed: the folder that holds {LABELS} and the corruptions' .npy files"
    if not folder.is_dir():
        what = "which is a file: unpack it" if folder.exists() else "which is not there"
        raise InputError(f"corruptions_dir: got {folder}, {what}; {allowed}.")
    if any((folder / f"{name}.npy").exists() for name in BENCHMARK):
        return
    inside = sorted(path.parent for path in folder.glob(f"*/{LABELS}"))
    if inside:
        hint = f"pass {inside[0]}"
    else:
        names = ", ".join(f"{name}.npy" for name in BENCHMARK)
        hint = f"the files of the benchmark are {names}"
    raise InputError(
        f"corruptions_dir: got {folder}, which has none of the benchmark's "
        f"corruptions; {allowed}; {hint}."
    )


def _open(path: Path) -> np.ndarray:
    try:
        return open_npy(path)
    except FileNotFoundError as error:
        raise InputError(
            f"corruptions_dir: {path} is missing; put the file of that name beside the "
            "images, it comes with them."
        ) from error
    except (ValueError, OSError) as error:
        if zipfile.is_zipfile(path):
            raise InputError(
                f"corruptions_dir: {path} is an archive of arrays (.npz); allowed: one "
                "array, as np.save writes it."
            ) from error
        raise InputError(
            f"corruptions_dir: {path} is damaged or holds no plain array ({error}); "
            "download or unpack it again."
        ) from error


def _open_images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    images = _open(path)
    wanted = f"[5 n, {', '.join(map(str, shape))}]"
    if images.dtype != np.uint8 or images.shape[1:] != shape or images.ndim != 4:
        raise InputError(
            f"corruptions_dir: {path} holds {images.dtype} {list(images.shape)}; "
            f"allowed: uint8 {wanted}, images like the model's; take the corruptions "
            "of the data set that the model was trained on."
        )
    return images


def _open_labels(path: Path, num_classes: int) -> np.ndarray:
    labels = _open(path)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        raise InputError(
            f"corruptions_dir: {path} holds {labels.dtype} {list(labels.shape)}; "
            "allowed: integers [5 n], the n labels once per severity."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"corruptions_dir: {path} holds labels from {labels.min()} to "
            f"{labels.max()}; allowed: 0 to {num_classes - 1}, the model's classes; "
            "take the corruptions of the data set that the model was trained on."
        )
    return labels.astype(np.int32)


def _check_length(path: Path, num_images: int, num_labels: int) -> None:
    if num_images != num_labels or num_images % len(SEVERITIES):
        raise InputError(
            f"corruptions_dir: {path} holds {num_images:,} images for {num_labels:,} "
            f"labels in {LABELS}; allowed: as many images as labels, the same number "
            "at each of 5 severities (is a severity missing?); take the whole file."
        )


def _one_block(path: Path, labels: np.ndarray) -> np.ndarray:
    blocks = labels.reshape(len(SEVERITIES), -1)
    unlike = np.flatnonzero((blocks != blocks[0]).any(axis=1))
    if len(unlike):
        raise InputError(
            f"corruptions_dir: the labels in {path} at severity {unlike[0] + 1} differ "
            f"from those at severity 1; allowed: the same {blocks.shape[1]:,} labels 5 "
            "times; take the labels.npy that belongs to these files."
        )
    return blocks[0]


def _tell(
    folder: Path,
    labels: np.ndarray,
    dataset: Dataset,
    lacking: list[str],
    notify: Callable[[str], object],
) -> None:
    if lacking:
        notify(f"*** {folder} lacks {', '.join(lacking)}: evaluated without. ***")
    known = {f"{name}.npy" for name in (*BENCHMARK, *EXTRA)} | {LABELS}
    unknown = sorted(p.name for p in folder.glob("*.npy") if p.name not in known)
    if unknown:
        notify(f"{folder}: ignored {', '.join(unknown)}, no corruption's name.")
    if not np.array_equal(labels, dataset.test_labels[: len(labels)]):
        notify(
            f"*** {folder / LABELS} does not begin like the labels of the test images "
            f"of {dataset.name}: these are corruptions of other images. ***"
        )

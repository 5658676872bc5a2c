"""CIFAR-10 and CIFAR-100 as TensorFlow Datasets (TFDS) has prepared them on disk."""

import os
import pathlib
import re

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import records

SPLIT_SIZES = {"train": 50_000, "test": 10_000}
"""Images in the official splits, the same for CIFAR-10 and CIFAR-100."""

IMAGE_SHAPE = (32, 32, 3)


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """The folder of prepared sets: `data_dir`, else $TFDS_DATA_DIR, else TFDS's own."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser()


def find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder of the newest version of `name` under `root`, or None.

    Args:
      root: folder of prepared sets.
      name: a set, ``"cifar10"``, or one configuration, ``"cifar10_corrupted/fog_1"``.

    Raises:
      InputError: `root` lies inside the set, so that the sets' folder is above it.
    """
    folder = _newest(root, name)
    if folder is None:
        for inside in (root, root.parent):
            if inside.name == name and _newest(inside.parent, name):
                raise InputError(
                    f"data_dir: got {root}, which lies inside the set: pass "
                    f"{inside.parent}, the folder that contains {name}/."
                )
    return folder


def _newest(root: pathlib.Path, name: str) -> pathlib.Path | None:
    versions = {
        tuple(int(number) for number in path.name.split(".")): path
        for path in root.glob(f"{name}/*.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
    }
    return versions[max(versions)] if versions else None


def read(folder: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the official training and test split of CIFAR-10 or CIFAR-100.

    Args:
      folder: a prepared version, as `find` returns it.

    Returns:
      ``"train"`` and ``"test"``: images uint8 ``[n, 32, 32, 3]``, labels int32 ``[n]``.

    Raises:
      InputError: files are missing or cannot be read, or hold another number or shape
        of images than the official set; the text names the folder.
    """
    return {split: read_split(folder, split) for split in SPLIT_SIZES}


def read_split(
    folder: pathlib.Path, split: str, *, otherwise: str = "use --dataset digits"
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split, as `read` does.

    TFDS shuffles the official files. The test images come back in the official order,
    so that row i is the same image as row i of every block of CIFAR-10-C. The training
    images stay as the records lie.

    Args:
      folder: a prepared version, as `find` returns it.
      split: ``"train"`` or ``"test"``.
      otherwise: the last advice of the error about damaged data.

    Raises:
      InputError: as `read`.
    """
    with records.naming_damage(folder, otherwise):
        info = records.open_info(folder)
        found = records.read(info, split, SPLIT_SIZES[split], IMAGE_SHAPE)
    if split != "test" or not found.ids:
        return found.images, found.labels
    # Names are numbered with leading zeros: test_00000 to test_09999.
    order = np.argsort(np.array(found.ids), kind="stable")
    return found.images[order], found.labels[order]

"""Files of the official layout: one a corruption, severity-major, and the labels.

``<name>.npy`` holds uint8 ``[5n, h, w, c]``, all n images at severity 1 first;
``labels.npy`` holds the n labels five times over.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data.corruptions import SEVERITIES, corrupt_any
from ssvi_jax.io.npy import open_npy

_BATCH_SIZE = 250


def read_images(path: Path) -> np.ndarray:
    """Opens a .npy file of uint8 ``[n, h, w, c]``, c 1 or 3; pages are read on demand.

    Raises:
      InputError: not such a file, or without images.
    """
    images = _open(path, "images")
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
        raise InputError(
            f"images: {path} holds {images.dtype} {list(shape)}, needed: uint8 [n, "
            "height, width, 3 or 1], pixels 0 to 255."
        )
    return images


def read_labels(path: Path, num_images: int) -> np.ndarray:
    """Reads a .npy file of whole numbers ``[num_images]``.

    Raises:
      InputError: not such a file.
    """
    labels = _open(path, "labels")
    if labels.dtype.kind not in "iu" or labels.shape != (num_images,):
        raise InputError(
            f"labels: {path} holds {labels.dtype} {list(labels.shape)}, needed: whole "
            f"numbers [{num_images}], one an image."
        )
    return labels


def _open(path: Path, argument: str) -> np.ndarray:
    try:
        array = open_npy(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{argument}: cannot read {path} as .npy: {error}") from error
    if array.size == 0:
        raise InputError(f"{argument}: {path} is empty, needed: at least one.")
    return array


def write_corruption(
    path: Path,
    images: np.ndarray,
    name: str,
    *,
    seed: int,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Writes one corruption of all images at all severities.

    Batches go straight to the disk, so any number of images fits in memory. The file
    has its name only once it is whole.

    Args:
      path: of the result.
      images: uint8 ``[n, h, w, c]``, may be a memory map.
      name: one of `NAMES`.
      seed: of the random numbers.
      advance: called with the number of images that were added.
    """
    partial = path.with_name(path.name + ".part")
    shape = (len(SEVERITIES) * len(images), *images.shape[1:])
    try:
        out = np.lib.format.open_memmap(partial, "w+", dtype=np.uint8, shape=shape)
        for block, severity in enumerate(SEVERITIES):
            for start in range(0, len(images), _BATCH_SIZE):
                batch = np.asarray(images[start : start + _BATCH_SIZE])
                first = block * len(images) + start
                out[first : first + len(batch)] = corrupt_any(
                    batch, name, severity, seed=seed, start=start
                )
                advance(len(batch))
        out.flush()
        del out
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Writes the labels once a severity, in their own integer type."""
    np.save(path, np.tile(labels, len(SEVERITIES)), allow_pickle=False)

"""CIFAR-10 and CIFAR-100 as their author distributes them: one archive, checked by MD5.

What a machine without a prepared set downloads. It needs neither TensorFlow nor TFDS,
and has the images in the official order.
"""

import hashlib
import os
import pathlib
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar, download
from ssvi_jax.data.download import NotPreparedError

URL = "https://www.cs.toronto.edu/~kriz/"
"""Folder of the archives."""

_BLOCK = 2**20
_TIMEOUT = 30  # seconds without a byte


class Archive(NamedTuple):
    """What is known of an archive.

    Attributes:
      file: its name.
      md5: its checksum, as its author states it.
      members: split → files in it, each of records.
      num_labels: bytes before the pixels of a record; the last is the label.
    """

    file: str
    md5: str
    members: dict[str, tuple[str, ...]]
    num_labels: int


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        {
            "train": tuple(
                f"cifar-10-batches-bin/data_batch_{number}.bin"
                for number in range(1, 6)
            ),
            "test": ("cifar-10-batches-bin/test_batch.bin",),
        },
        1,
    ),
    "cifar100": Archive(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        {
            "train": ("cifar-100-binary/train.bin",),
            "test": ("cifar-100-binary/test.bin",),
        },
        2,
    ),
}
"""Data set → its archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""


def path_of(root: pathlib.Path, name: str) -> pathlib.Path:
    """Where the archive of a set lies below the folder of sets."""
    return root / name / ARCHIVES[name].file


def fetch(name: str, root: pathlib.Path, notify: Callable[[str], object]) -> None:
    """Downloads the archive of a set, unless it is there.

    Args:
      name: ``"cifar10"`` or ``"cifar100"``.
      root: folder of sets; made when missing.
      notify: called with one line before the download starts.

    Raises:
      NotPreparedError: no network, or a download that failed or is another file.
    """
    path = path_of(root, name)
    if path.exists():
        return
    if not download.has_network():
        raise NotPreparedError(name, root, "there is no network to www.cs.toronto.edu")
    notify(f"Downloading {URL}{path.name} to {path.parent} (some 170 MB; once only).")
    partial = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = _download(URL + path.name, partial)
        if digest != ARCHIVES[name].md5:
            raise OSError(f"its MD5 is {digest}, not {ARCHIVES[name].md5}")
        os.replace(partial, path)
    except (OSError, urllib.error.URLError) as error:
        partial.unlink(missing_ok=True)
        reason = f"{URL}{path.name} could not be downloaded ({error})"
        raise NotPreparedError(name, root, reason) from error


def _download(url: str, path: pathlib.Path) -> str:
    """Writes what is at an address into a file; its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, path.open("wb") as to:
        while block := answer.read(_BLOCK):
            digest.update(block)
            to.write(block)
    return digest.hexdigest()


def read(root: pathlib.Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The official splits, as `cifar.read` returns them, in the official order.

    Raises:
      InputError: the archive is damaged.
    """
    known, path = ARCHIVES[name], path_of(root, name)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != known.md5:
            raise ValueError(f"its MD5 is {digest}, not {known.md5}")
        with tarfile.open(path) as tar:
            return {
                split: _split(b"".join(_content(tar, file) for file in files), known)
                for split, files in known.members.items()
            }
    except (OSError, ValueError, LookupError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete it to download it again, or use "
            "--dataset digits."
        ) from error


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _split(content: bytes, known: Archive) -> tuple[np.ndarray, np.ndarray]:
    size = known.num_labels + int(np.prod(cifar.IMAGE_SHAPE))
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    height, width, channels = cifar.IMAGE_SHAPE
    planes = records[:, known.num_labels :].reshape(-1, channels, height, width)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, records[:, known.num_labels - 1].astype(np.int32)

"""Reads what TensorFlow Datasets (TFDS) has prepared on disk, without TensorFlow.

Both of its usual formats are read: array_record, and tfrecord, whose framing is so
plain that a few lines replace TensorFlow's reader.
"""

import io
import os
import pathlib
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ssvi_jax.errors import InputError

SPLIT_SIZES = {"train": 50_000, "test": 10_000}
"""Images in the official splits, the same for CIFAR-10 and CIFAR-100."""

IMAGE_SHAPE = (32, 32, 3)


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """The folder of prepared sets: `data_dir`, else $TFDS_DATA_DIR, else TFDS's own."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser()


def find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder of the newest version of `name` under `root`, or None.

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
    # TFDS, array_record and Pillow each raise errors of their own on damaged files.
    try:
        import tensorflow_datasets as tfds

        _check_files(folder / name for name in ("dataset_info.json", "features.json"))
        builder = tfds.builder_from_directory(folder)
        return {split: _read_split(builder.info, split) for split in SPLIT_SIZES}
    except ImportError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"data_dir: the data in {folder} is incomplete or damaged ({reason}). "
            "Delete that folder and run again with a network to prepare it anew, copy "
            "it again from where it is whole, or use --dataset digits."
        ) from error


def _read_split(info: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    # TFDS's own decoder of an example takes as long again as Pillow for the pixels.
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    # Protobuf makes the class at import, so a type checker cannot see it.
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]
    images = np.empty((SPLIT_SIZES[split], *IMAGE_SHAPE), np.uint8)
    labels = np.empty(SPLIT_SIZES[split], np.int32)
    count = 0
    for record in _records(info, split):
        feature = parse(record).features.feature
        png = io.BytesIO(feature["image"].bytes_list.value[0])
        pixels = np.asarray(Image.open(png, formats=["PNG"]))
        if pixels.shape != IMAGE_SHAPE:
            raise ValueError(f"an image of {split} has shape {pixels.shape}")
        if count < len(images):
            images[count], labels[count] = pixels, feature["label"].int64_list.value[0]
        count += 1
    if count != len(images):
        raise ValueError(f"{split} has {count:,} images, not {len(images):,}")
    return images, labels


def _records(info: Any, split: str) -> Iterator[bytes]:
    paths = [pathlib.Path(path) for path in info.splits[split].filepaths]
    _check_files(paths)
    kind = info.file_format.value
    readers = {"array_record": _array_records, "tfrecord": _tfrecords}
    if kind not in readers:
        raise ValueError(f"format {kind}, readable are {', '.join(readers)}")
    for path in paths:
        yield from readers[kind](path)


def _check_files(paths: Iterable[pathlib.Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"missing {', '.join(missing)}")


def _array_records(path: pathlib.Path, chunk: int = 1000) -> Iterator[bytes]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource([str(path)])
    for start in range(0, len(source), chunk):
        yield from source.__getitems__(range(start, min(start + chunk, len(source))))


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
    # Each record: its length (8 bytes, little endian), checksum (4), data, checksum
    # (4). The checksums stay unread: PNG carries its own for the pixels.
    with path.open("rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q4x", header)
            record = file.read(length)
            if len(file.read(4)) != 4:
                raise EOFError(f"{path.name} ends inside a record")
            yield record

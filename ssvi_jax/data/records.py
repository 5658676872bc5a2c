"""Reads the records of one set that TensorFlow Datasets (TFDS) has prepared on disk.

Both of its usual formats are read without TensorFlow: array_record, and tfrecord, whose
framing is so plain that a few lines replace TensorFlow's reader.
"""

import contextlib
import io
import pathlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError


class Records(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 ``[n, h, w, c]``.
      labels: int32 ``[size]``, of all records, whichever images were kept.
      ids: ``[size]`` the names that the records carry, by row; empty without names.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: list[bytes]


@contextlib.contextmanager
def naming_damage(folder: pathlib.Path, otherwise: str) -> Iterator[None]:
    """Turns whatever fails inside into an `InputError` that names the folder.

    TFDS, array_record and Pillow each raise errors of their own on damaged files.

    Args:
      folder: the prepared version that is read inside.
      otherwise: what to do where it can neither be prepared anew nor copied again; the
        end of a sentence.

    Raises:
      InputError: anything failed but an import.
    """
    try:
        yield
    except (ImportError, InputError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"data_dir: the data in {folder} is incomplete or damaged ({reason}). "
            "Delete that folder and run again with a network to prepare it anew, copy "
            f"it again from where it is whole, or {otherwise}."
        ) from error


def open_info(folder: pathlib.Path) -> Any:
    """What TFDS wrote about a prepared version: a `tfds.core.DatasetInfo`."""
    import tensorflow_datasets as tfds

    _check_files(folder / name for name in ("dataset_info.json", "features.json"))
    return tfds.builder_from_directory(folder).info


def check(info: Any, split: str, size: int) -> None:
    """Raises unless the split has all its files and `size` images, by its own account.

    It reads no records.
    """
    _check_files(_paths(info, split))
    _check_size(split, info.splits[split].num_examples, size)


def read(
    info: Any,
    split: str,
    size: int,
    shape: tuple[int, ...],
    *,
    rows: np.ndarray | None = None,
    keep: int | None = None,
) -> Records:
    """Reads one split record by record.

    Args:
      info: what `open_info` returns.
      split: for example ``"test"``.
      size: number of images that it must hold.
      shape: ``(h, w, c)`` that every image must have.
      rows: int ``[size]``, the row that each record goes to; None: as they lie.
      keep: only images of the first so many rows are decoded; None: all.

    Raises:
      Exception: damaged data; call it inside `naming_damage`.
    """
    places = range(size) if rows is None else rows.tolist()
    images = np.empty((size if keep is None else keep, *shape), np.uint8)
    labels = np.empty(size, np.int32)
    ids: dict[int, bytes] = {}
    count = 0
    for record in _records(info, split):
        count += 1
        if count > size:
            continue  # counted for the message
        feature, row = features(record), places[count - 1]
        labels[row] = feature["label"].int64_list.value[0]
        if "id" in feature:
            ids[row] = feature["id"].bytes_list.value[0]
        if row < len(images):
            png = feature["image"].bytes_list.value[0]
            images[row] = _decoded(png, split, shape)
    _check_size(split, count, size)
    names = [ids[row] for row in range(size)] if len(ids) == size else []
    return Records(images, labels, names)


def features(record: bytes) -> Any:
    """What a serialized example holds: name → feature, images still encoded."""
    # TFDS's own decoder of an example takes as long again as Pillow for the pixels.
    from tensorflow_datasets.proto import tf_example_pb2

    # Protobuf makes the class at import, so a type checker cannot see it.
    example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
    return example.FromString(record).features.feature


def random_access(info: Any, split: str) -> Any:
    """The records of a split in array_record, to be read in any order.

    Returns:
      Has a length, and ``__getitems__`` of a list of rows gives bytes.

    Raises:
      Exception: damaged data, or another format; call it inside `naming_damage`.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    paths = _paths(info, split)
    _check_files(paths)
    if info.file_format.value != "array_record":
        raise ValueError(f"format {info.file_format.value}, needed is array_record")
    source = ArrayRecordDataSource([str(path) for path in paths])
    _check_size(split, len(source), info.splits[split].num_examples)
    return source


def _decoded(png: bytes, split: str, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))
    if pixels.shape != shape:
        raise ValueError(f"an image of {split} has shape {pixels.shape}")
    return pixels


def _check_size(split: str, count: int, size: int) -> None:
    if count != size:
        raise ValueError(f"{split} has {count:,} images, not {size:,}")


def _paths(info: Any, split: str) -> list[pathlib.Path]:
    return [pathlib.Path(path) for path in info.splits[split].filepaths]


def _records(info: Any, split: str) -> Iterator[bytes]:
    paths = _paths(info, split)
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

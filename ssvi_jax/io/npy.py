"""Arrays from .npy and .npz files of others, whatever their headers claim.

NumPy's own readers allocate what a header asks for before they see whether the file
holds as much, and fail in a dozen ways. Here the length is compared first, an archive
may expand to no more than deflate can (1,032 times its size), and whatever is wrong is
a `ValueError`. Objects are refused, so nothing is ever unpickled.
"""

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_KINDS = "biufSU"
_MAX_RATIO = 1032
_ERRORS = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError),
    *(SyntaxError, RecursionError, MemoryError, RuntimeError, tokenize.TokenError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
)
"""What NumPy's parser of headers and zipfile raise on damaged or hostile files."""


def open_npy(path: Path) -> np.ndarray:
    """Maps the array of a .npy file; reads nothing but its header.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: it is not one whole array of numbers or text.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            dtype, shape, order = _header(file, num_bytes)
            if 0 in shape:
                return np.zeros(shape, dtype)
            return np.memmap(file, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload]
        except _ERRORS as error:
            raise ValueError(_reason(error)) from error


def read_npz(
    path: Path, choose: Callable[[list[str]], list[str]] = lambda names: names
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file.

    Args:
      path: the file.
      choose: which of the arrays named to read; what it raises passes through.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: it is not a whole archive of arrays of numbers or text, or it would
        expand to more than such an archive can.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, io.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, num_bytes)
        except _ERRORS as error:
            raise ValueError(_reason(error)) from error
        names = choose(list(members))
        try:
            with zipfile.ZipFile(file) as archive:
                return {name: _read(archive, members[name]) for name in names}
        except _ERRORS as error:
            raise ValueError(_reason(error)) from error


def _members(archive: zipfile.ZipFile, num_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Name of an array → where it lies."""
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > _MAX_RATIO * num_bytes:
        raise ValueError("its arrays would be larger than such an archive can hold")
    for entry in entries:
        known = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not known or not entry.filename.endswith(".npy"):
            raise ValueError(f"{entry.filename!r} in it is no array of np.savez")
    return {entry.filename.removesuffix(".npy"): entry for entry in entries}


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    data = archive.read(entry)
    file = io.BytesIO(data)
    dtype, shape, order = _header(file, len(data))
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order=order).copy()


def _header(
    file: BinaryIO, num_bytes: int
) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]:
    """Dtype, shape and order ("C" or "F"); leaves the file where the values begin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities in headers that are refused
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format")
        shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"it holds {str(dtype)[:40]}, not numbers or text")
    if any(length < 0 for length in shape):
        raise ValueError(f"an impossible shape {shape}")
    claimed, there = math.prod(shape) * dtype.itemsize, num_bytes - file.tell()
    if claimed != there:
        raise ValueError(f"its header asks for {claimed} bytes, it holds {there}")
    return dtype, tuple(map(int, shape)), "F" if is_fortran else "C"


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0][:200] or type(error).__name__

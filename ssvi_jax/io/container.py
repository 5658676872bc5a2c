"""A file of named byte streams under a JSON header, checked to the last bit.

The container is safetensors: bytes and a JSON header, nothing that could run code, its
offsets validated against the file's length. Each stream is Huffman coded (deflate
without a search for repeats: weights hold none, and it would cost time and bits). A
SHA-256 over the header and every stream tells apart what was written and what was not.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import json_text

_FORMAT = 1
_KEY = "ssvi_jax"

ERRORS = (
    *(OSError, safetensors.SafetensorError, zlib.error, ValueError, TypeError),
    *(LookupError, AttributeError, ArithmeticError, RecursionError),
)
"""What reading a damaged or hostile file can raise, here and in whoever unpacks it."""


def path_of(given: str | os.PathLike[str]) -> Path:
    """A path that came from outside.

    Raises:
      InputError: no text and no path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            f"path: got a {type(given).__name__}, allowed: the path of a file, as "
            "'model.ssvi'."
        )
    return Path(given)


def check_file(path: Path) -> None:
    """Raises `InputError` where a folder is, which no file can replace."""
    if path.is_dir() or not path.name:
        raise InputError(
            f"path: got {path}, a folder, allowed: a file, as {path / 'model.ssvi'}."
        )


def write(
    path: Path, header: Mapping[str, Any], streams: Mapping[str, bytes]
) -> dict[str, int]:
    """Writes a file; an existing one is replaced only by a complete one.

    Args:
      path: the file; its folder must exist.
      header: JSON values.
      streams: name → bytes.

    Returns:
      Coded bytes of every stream, and those of the whole ``file``.

    Raises:
      InputError: the header is not JSON, the path is a folder's, or the file cannot be
        written.
    """
    check_file(path)
    text = _json({"format": _FORMAT, **header})
    coded = {name: _deflate(data) for name, data in streams.items()}
    content = safetensors.numpy.save(
        {name: np.frombuffer(data, np.uint8) for name, data in coded.items()},
        {_KEY: text, "sha256": _digest(text, coded)},
    )
    replace(path, content)
    return {name: len(data) for name, data in coded.items()} | {"file": len(content)}


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the coded streams (for `inflate`) of a whole file.

    Raises:
      InputError: a file of another program or of another format version.
      ERRORS: anything else that is wrong with it.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise InputError(f"{path}: a safetensors file, but no model of ssvi_jax.")
        streams = {name: file.get_tensor(name) for name in file.keys()}
    if any(array.dtype != np.uint8 for array in streams.values()):
        raise ValueError("a stream is not bytes")
    coded = {name: array.tobytes() for name, array in streams.items()}
    if metadata.get("sha256") != _digest(metadata[_KEY], coded):
        raise ValueError("its checksum is wrong")
    header = json_text.parse(metadata[_KEY])
    if header["format"] != _FORMAT:
        raise InputError(
            f"{path}: format {header['format']}, this version reads {_FORMAT}. Install "
            "the version of ssvi_jax that wrote it."
        )
    return header, coded


def inflate(data: bytes, size: int) -> bytes:
    """The bytes of a coded stream, which may be hostile.

    Raises:
      ValueError: the data does not expand to exactly `size` bytes; found out without
        expanding beyond that.
    """
    if size < 0:
        raise ValueError("an impossible size")
    coder = zlib.decompressobj(-15)
    # One more than is due, as a limit of zero would mean none.
    expanded = coder.decompress(data, size + 1)
    if len(expanded) != size or not coder.eof or coder.unused_data:
        raise ValueError("a wrong size")
    return expanded


def _deflate(data: bytes) -> bytes:
    """Huffman codes bytes."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def replace(path: Path, content: bytes) -> None:
    """Writes beside the file, then renames: no half-written file under its name.

    Raises:
      InputError: the file cannot be written.
    """
    # One name for all: what a killed process leaves is replaced by the next.
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the file could not be written ({error.strerror}). Free "
            "space or choose a folder that exists and is writable."
        ) from error


def _digest(header: str, coded: Mapping[str, bytes]) -> str:
    """SHA-256 over the header's text, then name, length and bytes of every stream."""
    sha256 = hashlib.sha256(header.encode())
    for name in sorted(coded):
        sha256.update(f"\n{name} {len(coded[name])}\n".encode())
        sha256.update(coded[name])
    return sha256.hexdigest()


def _json(header: Mapping[str, Any]) -> str:
    try:
        return json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"config, metadata: {error}; allowed: JSON values, finite numbers."
        ) from error

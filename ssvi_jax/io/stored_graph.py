"""The graph of a model file, read back in Python: see `io.graph`."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import container
from ssvi_jax.io.graph import MAGIC, OPERATIONS, VERSION, Graph, Node

_MAX_RANK = 8
_MAX_LENGTH = 1 << 24


def load(path: str | Path) -> Graph:
    """The graph of a model file, whose weights `artifact.load` reads.

    Raises:
      InputError: the file has none, and why; or it is damaged.
    """
    path = container.path_of(path)
    try:
        header, coded = container.read(path)
        said = header.get("graph", {})
        if "graph" in coded:
            return decode(container.inflate(coded["graph"], said["bytes"]))
        reason = said.get("refused", "it was written by an earlier version")
    except InputError:
        raise
    except container.ERRORS as error:
        raise InputError(f"{path}: its graph is damaged ({error}).") from error
    raise InputError(
        f"{path}: does not say what its network computes ({reason}); load it with its "
        "module: ssvi_jax.load(path, module)."
    )


def decode(stream: bytes) -> Graph:
    """Inverse of `graph.encode`, of bytes that may be hostile.

    Raises:
      ValueError: they are no graph, or one of another version.
    """
    words = _Words(stream)
    if words.take(2) != (MAGIC, VERSION):
        raise ValueError("no graph, or one of another version")
    input_shape = words.lengths()
    (classes,) = words.take(1)
    constants = [_constant(words) for _ in range(words.count(1))]
    nodes = [_node(words, place) for place in range(words.count(3))]
    if classes < 1 or not nodes or words.left():
        raise ValueError("no whole graph")
    return Graph(input_shape, classes, constants, nodes)


def _constant(words: "_Words") -> np.ndarray:
    shape = words.lengths()
    return words.numbers(math.prod(shape)).reshape(shape)


def _node(words: "_Words", place: int) -> Node:
    (operation,) = words.take(1)
    if not 0 <= operation < len(OPERATIONS):
        raise ValueError("an unknown operation")
    inputs = words.take(words.count(1))
    if not all(0 <= node < place for node in inputs):
        raise ValueError("a node that reads what comes later")
    flat = words.take(2 * words.count(2))
    numbers = tuple(zip(flat[::2], flat[1::2], strict=True))
    return Node(OPERATIONS[operation], inputs, numbers)


class _Words:
    """32-bit words of a stream, one after the other."""

    def __init__(self, stream: bytes):
        self._stream = stream
        self._at = 0

    def left(self) -> int:
        """Words that were not read; part of one counts as one."""
        return -(-(len(self._stream) - self._at) // 4)

    def take(self, number: int) -> tuple[Any, ...]:
        """The next words, as whole numbers."""
        return struct.unpack(f"<{number}i", self._bytes(number))

    def numbers(self, number: int) -> np.ndarray:
        """The next words, as float32."""
        return np.frombuffer(self._bytes(number), "<f4").astype(np.float32)

    def count(self, width: int) -> int:
        """How many things follow, which take up at least `width` words each."""
        (number,) = self.take(1)
        if not 0 <= width * number <= self.left():
            raise ValueError("an impossible number")
        return number

    def lengths(self) -> tuple[int, ...]:
        """A shape, behind its rank."""
        shape = self.take(self.count(1))
        known = all(0 <= length <= _MAX_LENGTH for length in shape)
        if len(shape) > _MAX_RANK or not known:
            raise ValueError("an impossible shape")
        return shape

    def _bytes(self, number: int) -> bytes:
        end = self._at + 4 * number
        if end > len(self._stream):
            raise ValueError("an end that is too early")
        found, self._at = self._stream[self._at : end], end
        return found

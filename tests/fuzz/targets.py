"""A target: something that reads a file or a command line of others.

Every target also checks its answer, so that what is accepted was read right.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import mutate
from .mutate import Edit


class Input(NamedTuple):
    """One mutated input: what reads it and checks the answer, and its size in bytes."""

    read: Callable[[], object]
    size: int


class Target(NamedTuple):
    """A reader.

    Attributes:
      name: what it reads.
      inputs: how many the long mode gives it.
      make: makes an input of edits; of none a valid one.
    """

    name: str
    inputs: int
    make: Callable[[Sequence[Edit]], Input]


def of_file(
    name: str,
    inputs: int,
    path: Path,
    seeds: Sequence[bytes],
    read: Callable[[bytes], object],
) -> Target:
    """A reader of the file at `path`; `read` is told the bytes that lie there."""

    def make(edits: Sequence[Edit]) -> Input:
        seed, other = mutate.chosen(edits, seeds)
        data = mutate.of_bytes(seed, edits, other)
        path.write_bytes(data)
        return Input(lambda: read(data), len(data))

    return Target(name, inputs, make)


def of_json(
    name: str, inputs: int, path: Path, seed: Any, read: Callable[[], object]
) -> Target:
    """A reader of a JSON file: half of the edits are of values, half of the text."""
    text = json.dumps(seed).encode()

    def make(edits: Sequence[Edit]) -> Input:
        data = mutate.of_bytes(text, edits)
        if edits and edits[0].value & 2:
            data = json.dumps(mutate.of_json(seed, edits)).encode()
        path.write_bytes(data)
        return Input(read, len(data))

    return Target(name, inputs, make)

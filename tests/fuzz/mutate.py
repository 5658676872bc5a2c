"""Valid bytes, JSON values and command lines, changed a little.

A change is a list of `Edit`s, so that a random generator or hypothesis can draw them.
"""

import copy
import re
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NUMBERS = (
    *(0, 1, -1, 2, 3, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400),
)
"""Where readers of numbers go wrong."""

WORDS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "1e-999", "null", "true", "-1", "1.5"),
    *("[]", "{}", '""', '"x"', '"\\ud800"', "0x10", "1_000", "[" * 3000, "(" * 300),
    *("-" * 3000 + "1", "9" * 5000, "'\\x00'", "b''", "|O", "<U99999999", "<M8[s]"),
)
"""What stands where something else was meant, in JSON, in Python literals, in flags."""

VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(float("nan"), float("inf"), -0.5, 1.5, 1e300, None, True, False, "", "x", "\0"),
    *("1", "../../etc/passwd", "O", "float16", "float32", "bool", "uint8", "\ud800"),
    *([], {}, [[]], [0], [-1], [1, 2, 3, 4], {"x": 1}, "x" * 10_000, "é/\n"),
)
"""JSON values, and some that only Python's JSON knows."""

KINDS = (
    *("flip", "flip", "set", "truncate", "delete", "insert", "repeat", "splice"),
    *("length", "length", "digits", "digits", "word"),
)


_EDIT = struct.Struct("<HIQ")

MOST_BYTES = 8 * _EDIT.size
"""Of edits as bytes."""


class Edit(NamedTuple):
    """One change: how (an index, taken modulo), where (in [0, 1)), and what to."""

    kind: int
    where: float
    value: int


def draw(rng: np.random.Generator) -> list[Edit]:
    """One to four edits, mostly one."""
    return [
        Edit(int(rng.integers(2**16)), float(rng.random()), int(rng.integers(2**62)))
        for _ in range(1 + int(rng.geometric(0.6) - 1) % 4)
    ]


def to_bytes(edits: Sequence[Edit]) -> bytes:
    """Edits as bytes, for a generator that knows nothing else."""
    packed = (_EDIT.pack(e.kind, int(e.where * 2**32), e.value << 2) for e in edits)
    return b"".join(packed)


def from_bytes(data: bytes) -> list[Edit]:
    """Inverse of `to_bytes`, up to rounding; of any bytes, the rest is left out."""
    whole = data[: min(len(data), MOST_BYTES) // _EDIT.size * _EDIT.size]
    return [
        Edit(kind, where / 2**32, value >> 2)
        for kind, where, value in _EDIT.iter_unpack(whole)
    ]


def chosen(edits: Sequence[Edit], seeds: Sequence[Any]) -> tuple[Any, Any]:
    """What to edit, and what to splice from; the first where there are no edits."""
    if not edits:
        return seeds[0], seeds[0]
    return seeds[edits[0].value % len(seeds)], seeds[edits[-1].kind % len(seeds)]


def of_bytes(data: bytes, edits: Sequence[Edit], other: bytes = b"") -> bytes:
    """Bytes with changes; `other` is what splices come from."""
    for edit in edits:
        data = _of_bytes(data, edit, other or data)
    return data


def _of_bytes(data: bytes, edit: Edit, other: bytes) -> bytes:
    # Half of the edits where the headers are.
    end = len(data) if edit.value & 1 else min(len(data), 256)
    at, kind = int(edit.where * end), KINDS[edit.kind % len(KINDS)]
    value = edit.value >> 1
    size = 1 + value % 64
    match kind:
        case "flip" if data:
            changed = bytearray(data)
            changed[at] ^= 1 << (value % 8)
            return bytes(changed)
        case "set" if data:
            return data[:at] + bytes([value % 256]) + data[at + 1 :]
        case "truncate":
            return data[:at]
        case "delete":
            return data[:at] + data[at + size :]
        case "insert":
            return data[:at] + value.to_bytes(8, "little") + data[at:]
        case "repeat":
            return data[:at] + data[at : at + size] * (2 + value % 7) + data[at:]
        case "splice":
            start = value % max(len(other), 1)
            return data[:at] + other[start : start + 8 * size] + data[at + size :]
        case "length":
            width = (2, 4, 8)[value % 3]
            number = NUMBERS[value % len(NUMBERS)] % 2 ** (8 * width)
            return data[:at] + number.to_bytes(width, "little") + data[at + width :]
        case "digits":
            return _replace(data, rb"\d+", edit, str(NUMBERS[value % len(NUMBERS)]))
        case "word":
            return _replace(data, rb"[\w.<|]+", edit, WORDS[value % len(WORDS)])
    return data


def _replace(data: bytes, pattern: bytes, edit: Edit, by: str) -> bytes:
    """One match near the beginning, replaced."""
    found = list(re.finditer(pattern, data[:4096]))
    if not found:
        return data
    match = found[int(edit.where * len(found))]
    return data[: match.start()] + by.encode() + data[match.end() :]


def of_json(values: Any, edits: Sequence[Edit]) -> Any:
    """A JSON value in which entries are replaced, removed or added."""
    root = [copy.deepcopy(values)]
    for edit in edits:
        places = list(_places(root))
        container, key = places[int(edit.where * len(places))]
        value = copy.deepcopy(VALUES[edit.value % len(VALUES)])
        kind = edit.kind % 6
        if kind == 0 and container is not root:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[str(value)[:100]] = container[key]
        elif kind == 2 and isinstance(container[key], int | float):
            container[key] = container[key] * (-1, 2, 1000, -3)[edit.value % 4]
        else:
            container[key] = value
    return root[0]


def _places(container: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below, the container's own included."""
    if isinstance(container, dict):
        keys = list(container)
    elif isinstance(container, list):
        keys = list(range(len(container)))
    else:
        return []
    places = [(container, key) for key in keys]
    return places + [place for key in keys for place in _places(container[key])]


def of_words(words: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """A command line in which words are replaced, removed, doubled or mutated."""
    words = list(words)
    for edit in edits:
        if not words:
            return words
        at = int(edit.where * len(words))
        text = (*WORDS, *map(str, NUMBERS), "", "--", "--help=1", "-", "é")
        match edit.kind % 5:
            case 0:
                del words[at]
            case 1:
                words.insert(at, words[edit.value % len(words)])
            case 2:
                raw = of_bytes(words[at].encode(errors="replace"), [edit])
                words[at] = raw.decode(errors="replace")
            case _:
                words[at] = text[edit.value % len(text)]
    return words

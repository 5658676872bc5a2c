"""What crosses the wire: messages between devices, read from a program's text.

An HLO text has one line for each operation that exchanges data, with the type of what
each device gets. A loop's body is counted once, so of an inner loop it is the messages
of one step.
"""

import re

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_LINE = re.compile(
    rf"=\s*(?P<type>\S.*?)\s(?P<name>{'|'.join(_COLLECTIVES)})(?:-start)?\(", re.M
)
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+)(?P<bits>\d+)?\w*\[(?P<shape>[\d,]*)\]")


def messages(hlo: str) -> list[tuple[str, int]]:
    """Every collective operation of a program: its name, and bytes of its results.

    Args:
      hlo: text of a program, lowered (``as_text("hlo")``) or compiled.
    """
    return [
        (found["name"], sum(map(_array_bytes, _ARRAY.finditer(found["type"]))))
        for found in _LINE.finditer(hlo)
    ]


def message_bytes(hlo: str) -> int:
    """The sum over `messages`."""
    return sum(number for _, number in messages(hlo))


def _array_bytes(found: re.Match[str]) -> int:
    """Of a type such as ``f32[3,4]``; a boolean takes a byte."""
    size = 1
    for length in filter(None, found["shape"].split(",")):
        size *= int(length)
    return size * max(int(found["bits"] or 8) // 8, 1)

"""A table for the page: columns that have values, formatted cells, the best marked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

_MISSING = "–"
_LOOKS = {"run": "", "text": "", "path": "path"}  # all others hold numbers


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      key: of a row.
      head: above the column.
      kind: how values are shown: "percent" from fractions, "score" with three digits
        (as a power of ten where these are 0), "count" with separators; "run" names a
        run by its index.
      better: which values are marked as best, if any.
      group: text above neighbouring columns that share it.
    """

    key: str
    head: str
    kind: Literal["run", "text", "path", "percent", "score", "count"] = "text"
    better: Literal["high", "low", ""] = ""
    group: str = ""

    @property
    def look(self) -> str:
        """Classes of its cells."""
        return _LOOKS.get(self.kind, "n")


class Cell(NamedTuple):
    """What a template shows in a cell.

    Attributes:
      text: what is read.
      look: classes, separated by spaces.
      value: number to sort by; None: there is none.
      run: index of the run that is named; None: none is.
    """

    text: str
    look: str
    value: float | None = None
    run: int | None = None


class Table(NamedTuple):
    """What a template shows as a table.

    Attributes:
      caption: above it.
      groups: texts above neighbouring columns and how many these are; "": no text.
      heads: of the columns.
      rows: cells; the first of a row names it.
    """

    caption: str
    groups: list[tuple[str, int]]
    heads: list[Cell]
    rows: list[list[Cell]]


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    labels: Sequence[str],
    by: str = "",
) -> Table | None:
    """A table of the columns that have values; None where there is nothing to show.

    Args:
      caption: text above it.
      columns: left to right; the first names the row.
      rows: key → value; None or no key where there is none.
      labels: of the runs, for columns of kind "run".
      by: key; the best values are marked among rows that share it. Default: all rows.
    """
    rows = list(rows)
    shown = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    if not shown:
        return None
    best = {
        group: [_best(c, [r for r in rows if r.get(by) == group]) for c in shown]
        for group in {row.get(by) for row in rows}
    }
    return Table(
        caption,
        [(name, len(list(same))) for name, same in groupby(c.group for c in shown)],
        [Cell(c.head, c.look) for c in shown],
        [
            [
                _cell(column, row.get(column.key), top, labels)
                for column, top in zip(shown, best[row.get(by)], strict=True)
            ]
            for row in rows
        ],
    )


def _best(column: Column, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The value to mark; none where all are the same."""
    values = {row[column.key] for row in rows if row.get(column.key) is not None}
    if not column.better or len(values) < 2:
        return None
    return max(values) if column.better == "high" else min(values)


def _cell(
    column: Column, value: Any, best: float | None, labels: Sequence[str]
) -> Cell:
    if value is None:
        return Cell(_MISSING, column.look)
    if column.kind == "run":
        return Cell(labels[int(value)], "", run=int(value))
    if column.kind in ("text", "path"):
        return Cell(str(value), column.look)
    look = f"{column.look} best" if value == best else column.look
    return Cell(_shown(column.kind, value), look, value)


def _shown(kind: str, value: float) -> str:
    if not math.isfinite(value):
        return _MISSING
    if kind == "percent":
        return f"{100 * value:.1f}"
    if kind == "count":
        return f"{value:,}"
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"

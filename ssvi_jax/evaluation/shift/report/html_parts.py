"""Pieces of an HTML page: escaped text, tables, figures, lists.

Everything that comes from outside goes through `escape`; what these functions return
is markup. No piece has a style attribute, so that a page can forbid them.
"""

import base64
import html
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["run", "text", "path", "percent", "score", "count"]

_PIXELS_PER_UNIT = 1.5  # figures have 150 pixels an inch, a page 96 to 100
_MISSING = "–"
_CLASSES: dict[str, str] = {"text": "", "path": "path"}  # all others hold numbers
# Controls, and characters that reverse the direction of what follows them.
_REMOVED = dict.fromkeys(
    (
        *(*range(9), 11, 12, *range(14, 32), 127),
        *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    )
)


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
    kind: Kind = "text"
    better: Literal["high", "low", ""] = ""
    group: str = ""


def escape(text: object) -> str:
    """Text as markup that shows it, in elements and in quoted attributes."""
    clean = str(text).translate(_REMOVED)
    clean = clean.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    return html.escape(clean, quote=True)


def run_name(index: int, label: str) -> str:
    """A run's colour and label."""
    key = f'<span class="key run-{index}" aria-hidden="true"></span>'
    return f"{key}<bdi>{escape(label)}</bdi>"


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    labels: Sequence[str],
    by: str = "",
) -> str:
    """A table in a box of its own that scrolls.

    Args:
      caption: text above it.
      columns: left to right; the first names the row. One without values is left out.
      rows: key → value; None or no key where there is none.
      labels: of the runs, for columns of kind "run".
      by: key; the best values are marked among rows that share it. Default: all rows.
    """
    rows = list(rows)
    shown = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    if not rows or not shown:
        return ""
    best = {
        group: [_best(c, [r for r in rows if r.get(by) == group]) for c in shown]
        for group in {row.get(by) for row in rows}
    }
    lines = []
    for row in rows:
        marked = zip(shown, best[row.get(by)], strict=True)
        first, *others = (
            _cell(c, row.get(c.key), row.get(c.key) in top, labels) for c, top in marked
        )
        first = first.replace("<td", '<th scope="row"', 1)[: -len("</td>")] + "</th>"
        lines.append(f"<tr>{first}{''.join(others)}</tr>")
    name = escape(caption)
    return (
        f'<div class="scroll table" tabindex="0" role="region" aria-label="{name}">'
        f"<table><caption>{name}</caption><thead>{_heads(shown)}</thead>\n<tbody>"
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def figure(path: Path, alt: str, caption: str) -> str:
    """A PNG within the page, with its caption.

    Args:
      path: of the file.
      alt: what it shows, for those who cannot see it.
      caption: below it.
    """
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    data = base64.b64encode(content).decode("ascii")
    wide, high = (round(pixels / _PIXELS_PER_UNIT) for pixels in (width, height))
    return (
        '<figure><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(alt)}"><img alt="{escape(alt)}" '
        f'width="{wide}" height="{high}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def bullets(items: Iterable[str]) -> str:
    """A list of items that are markup already."""
    lines = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<ul>\n{lines}\n</ul>"


def definitions(pairs: Mapping[str, Any], *, code: Sequence[str] = ()) -> str:
    """A list of terms with their values; None and empty ones are left out.

    Args:
      pairs: term → value.
      code: terms whose values are set as code.
    """
    lines = []
    for term, value in pairs.items():
        if value is not None and value != "":
            shown = escape(value)
            shown = f"<code>{shown}</code>" if term in code else shown
            lines.append(f"<dt>{escape(term)}</dt><dd>{shown}</dd>")
    return f"<dl>\n{chr(10).join(lines)}\n</dl>" if lines else ""


def _heads(columns: Sequence[Column]) -> str:
    heads = "".join(
        f'<th scope="col"{_class(c, False)}>{escape(c.head)}</th>' for c in columns
    )
    if not any(c.group for c in columns):
        return f"<tr>{heads}</tr>"
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    above = "".join(
        f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>'
        if name
        else f'<td colspan="{span}"></td>'
        for name, span in groups
    )
    return f'<tr class="groups">{above}</tr>\n<tr>{heads}</tr>'


def _best(column: Column, rows: Sequence[Mapping[str, Any]]) -> set[float]:
    """The value to mark; none where all are the same."""
    values = {row[column.key] for row in rows if row.get(column.key) is not None}
    if not column.better or len(values) < 2:
        return set()
    return {max(values) if column.better == "high" else min(values)}


def _cell(column: Column, value: Any, best: bool, labels: Sequence[str]) -> str:
    if value is None:
        return f"<td{_class(column, False)}>{_MISSING}</td>"
    if column.kind == "run":
        return f"<td>{run_name(value, labels[int(value)])}</td>"
    look = _class(column, best)
    if column.kind in ("text", "path"):
        return f"<td{look}>{escape(value)}</td>"
    return f'<td{look} data-v="{value!r}">{_shown(column.kind, value)}</td>'


def _class(column: Column, best: bool) -> str:
    names = [] if column.kind == "run" else [_CLASSES.get(column.kind, "n")]
    names = [name for name in [*names, "best" * best] if name]
    return f' class="{" ".join(names)}"' if names else ""


def _shown(kind: str, value: float) -> str:
    if not math.isfinite(value):
        return _MISSING
    if kind == "percent":
        return f"{100 * value:.1f}"
    if kind == "count":
        return f"{value:,}"
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"

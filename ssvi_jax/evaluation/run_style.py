"""How the runs of a report look: a colour, line, marker and name for each, everywhere.

Names come from outside: what the font cannot draw is replaced, and nothing in them is
taken for a formula.
"""

import functools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssvi_jax.evaluation.figure_style import BLUE, GREEN, GREY, ORANGE, PINK, RED

COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, "#56B4E9", GREY, "#000000")
"""Of run number i, in every figure and table; after the last the first comes again."""

_MARKERS = "os^DvPX*"
_LINES = ("-", "--", ":", "-.")
_ROW = 110  # characters of a legend's row across a figure of full width

WIDTH = 10.0
"""Of every figure of a report, in inches: text has its size in print at page width."""


def colour(index: int) -> str:
    """Of run number `index`."""
    return COLOURS[index % len(COLOURS)]


def line_look(index: int, *, marker: bool = False) -> dict[str, Any]:
    """Arguments of `Axes.plot` for run number `index`."""
    look: dict[str, Any] = {
        "color": colour(index),
        "linestyle": _LINES[index // len(COLOURS) % len(_LINES)],
        "linewidth": 1.6,
    }
    if marker:
        look |= {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 5}
    return look


def drawable(text: str, limit: int = 48, width: int = 0) -> str:
    """Text as a figure can show it: no formulas, known glyphs, not too long.

    Args:
      text: anything.
      limit: characters; what is longer loses its middle.
      width: characters of a line; 0: one line.
    """
    known = _glyphs()
    shown = "".join(c if ord(c) in known else "?" for c in " ".join(text.split()))
    if len(shown) > limit:
        end = limit * 2 // 5
        shown = f"{shown[: limit - end - 1]}…{shown[-end:]}"
    shown = textwrap.fill(shown, width) if width else shown
    return shown.replace("$", r"\$") or "?"


@functools.cache
def _glyphs() -> frozenset[int]:
    """Code points that the font of all figures has."""
    path = font_manager.findfont("DejaVu Sans")
    return frozenset(font_manager.get_font(path).get_charmap())


def readable(name: str) -> str:
    """A corruption, look or score for people: "fog/3" → "fog, severity 3"."""
    kind, _, rest = name.replace("_", " ").partition("/")
    if kind == "ood":
        return rest
    return f"{kind}, severity {rest}" if rest else kind


def title(figure: Figure, text: str, y: float | None = None) -> None:
    """What one sees, above the whole figure and flush left.

    Args:
      figure: where; its layout makes room for the title unless `y` is given.
      text: the title.
      y: upper edge as a fraction of the figure's height.
    """
    place = {} if y is None else {"y": y, "va": "top"}
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", **place)


def legend(
    figure: Figure, labels: Sequence[str], *, marker: bool = False, thick: bool = False
) -> None:
    """Names the runs below the figure; nothing for a single one.

    Args:
      figure: where.
      labels: of the runs.
      marker: lines with markers.
      thick: patches of colour in place of lines.
    """
    if len(labels) > 1:
        looks = [line_look(i, marker=marker) for i in range(len(labels))]
        looks = (
            [look | {"linewidth": 7, "linestyle": "-"} for look in looks]
            if thick
            else looks
        )
        handles = [Line2D([], [], **look) for look in looks]
        legend_below(figure, handles, [drawable(label) for label in labels])


def legend_below(
    figure: Figure, handles: Iterable[Artist], labels: Sequence[str]
) -> None:
    """A legend across the figure, in as many columns as its names allow."""
    columns = max(1, min(len(labels), _ROW // (max(map(len, labels)) + 6)))
    figure.legend(
        list(handles),
        list(labels),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
    )

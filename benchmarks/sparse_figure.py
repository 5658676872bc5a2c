"""The figure of `sparse.py`: seconds of a training step against density."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sparse_train import Curve

from ssvi_jax.evaluation.figure_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    label_axes,
    panels,
    percent_ticks,
    save,
)


class _Look(NamedTuple):
    text: str
    colour: str
    line: str
    marker: str = ""


_LOOKS = {
    "sparse": _Look("this library, sparse", BLUE, "-", "o"),
    "xla": _Look("this library, xla", RED, "-", "s"),
    "torch_lrt": _Look("PyTorch, dense VI", ORANGE, "--"),
    "torch": _Look("PyTorch, deterministic", GREEN, ":"),
}
_SECONDS = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5))
_GAP = 0.05  # between names, as a fraction of the axis


def draw(
    path: Path,
    curves: Mapping[str, Curve],
    levels: Mapping[str, float],
    batch_size: int,
    crossover: float | None,
) -> None:
    """Writes the figure.

    Args:
      path: PNG file.
      curves: backend → curve.
      levels: name of a PyTorch contestant → seconds a step; may be empty.
      batch_size: images a step.
      crossover: density at which the two curves meet, if they do.
    """
    figure, (ax,) = panels(1, width=7.6, height=4.6)
    ax.set(xscale="log", yscale="log")
    ends = dict(levels)
    for name, curve in curves.items():
        densities, seconds = zip(*sorted(curve.items()), strict=True)
        look, ends[name] = _LOOKS[name], seconds[-1]
        ax.plot(densities, seconds, color=look.colour, marker=look.marker, markersize=5)
    for name, level in levels.items():
        ax.axhline(level, color=_LOOKS[name].colour, linestyle=_LOOKS[name].line)
    if crossover is not None:
        _mark(ax, crossover)
    ticks = sorted({density for curve in curves.values() for density in curve})
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    percent_ticks(ax.xaxis)
    ax.yaxis.set_major_locator(FixedLocator(_SECONDS))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    label_axes(ax, "density (share of weights kept)", "seconds")
    ax.set_title(f"One training step of ResNet-18 at batch {batch_size}", loc="left")
    _name(ax, ends)
    save(figure, path)


def _mark(ax: Axes, crossover: float) -> None:
    ax.axvline(crossover, color=GREY, linestyle=":", linewidth=1)
    ax.annotate(
        f"equal at {crossover:.0%} ",
        (crossover, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        color=GREY,
        fontsize=9,
    )


def _name(ax: Axes, ends: Mapping[str, float]) -> None:
    """Names every line beside its right end; close ones make room for each other."""
    low, high = map(math.log10, ax.get_ylim())
    place = -math.inf
    for name, seconds in sorted(ends.items(), key=lambda item: item[1]):
        place = max((math.log10(seconds) - low) / (high - low), place + _GAP)
        look = _LOOKS[name]
        ax.annotate(
            look.text,
            (1.015, place),
            xycoords="axes fraction",
            va="center",
            color=look.colour,
            fontsize=10,
        )

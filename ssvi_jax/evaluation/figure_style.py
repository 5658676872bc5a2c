"""The look that all figures share: palette, panels, labels, legends.

Only Matplotlib's object interface is used, so nothing global changes and no display is
needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito's palette: told apart with any colour vision, and in grey.
BLUE, ORANGE, GREEN, RED, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
SKY, GREY = "#9CCBEA", "#6B6B6B"
_DPI = 150


def panels(
    count: int, *, width: float, height: float, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels side by side, each of that size in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06)
    figure = Figure(figsize=(width * count, height), layout=layout)
    axes = figure.subplots(1, count, squeeze=False, sharex=sharex)
    return figure, list(np.ravel(axes))


def label_axes(ax: Axes, x: str, y: str) -> None:
    """Axis labels, a pale grid, and no frame above and to the right."""
    ax.set(xlabel=x, ylabel=y)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_above(
    ax: Axes,
    side: Literal["left", "right"],
    handles: Sequence[Artist] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """A one-line legend above the axes, where it cannot cover data."""
    if handles is None or labels is None:
        handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles,
        labels,
        loc="lower left" if side == "left" else "lower right",
        bbox_to_anchor=(float(side == "right"), 0.995),
        ncols=3,
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handlelength=1.6,
        borderaxespad=0.2,
    )


def whole_epochs(ax: Axes) -> None:
    """Ticks of the epoch axis at whole numbers."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def percent_ticks(axis: Axis) -> None:
    """Ticks of fractions as percent, with the digits that they have: 20%, 22.5%."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.4g}%"))


def marker_size(x: np.ndarray) -> float:
    """Visible for few points, none where they would melt together."""
    return 4.0 if len(x) <= 40 else 0.0


def nats_unit(largest: float) -> tuple[float, str]:
    """A power of 1000 to divide by, and how it reads: (1000, "$10^3$ nats")."""
    power = 3 * int(np.log10(max(largest, 1.0)) // 3)
    return 10.0**power, f"$10^{power}$ nats" if power else "nats"


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG and returns its path."""
    figure.savefig(path, dpi=_DPI, pil_kwargs={"optimize": True})
    return path

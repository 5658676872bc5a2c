"""Heat maps of accuracy, corruption by severity, and of its difference to a baseline.

Rows are corruptions, the benchmark's first and then the extras; the last row is the
mean over the benchmark, the last column the mean over severities.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ssvi_jax.evaluation.run_style import WIDTH, drawable, readable, title
from ssvi_jax.evaluation.shift.report.data import Report, headline

_ABREAST = 3  # maps in a row of the figure
_FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names}


class _Map(NamedTuple):
    """One panel: a title and its numbers, rows as in `_Look.rows`."""

    title: str
    values: np.ndarray


class _Look(NamedTuple):
    """What the panels of a figure share."""

    rows: list[str]
    gaps: list[int]  # rows that a gap follows
    severities: list[int]
    colours: Colormap
    norm: Normalize
    signed: bool
    bar: str


def accuracy(report: Report) -> Figure | None:
    """Accuracy of every cell in percent; one map a run.

    Args:
      report: what to show.
    """
    maps = [
        _Map(drawable(label, 48, 26), 100 * _accuracies(report, index))
        for index, label in enumerate(report.labels)
    ]
    every = np.concatenate([m.values.ravel() for m in maps])
    low, high = 10 * np.floor(every.min() / 10), 10 * np.ceil(every.max() / 10)
    colours, norm = matplotlib.colormaps["viridis"], Normalize(low, max(high, low + 10))
    look = _look(report, colours, norm, False, "accuracy (%)")
    return _figure(maps, look, "Accuracy of every corruption and severity, in percent")


def difference(report: Report) -> Figure | None:
    """Accuracy minus that of the baseline, in points; None for a single run.

    Args:
      report: what to show.
    """
    if len(report.runs) == 1:
        return None
    base = _accuracies(report, report.baseline)
    maps = [
        _Map(drawable(label, 48, 26), 100 * (_accuracies(report, index) - base))
        for index, label in enumerate(report.labels)
        if index != report.baseline
    ]
    largest = max(1.0, *(np.abs(m.values).max() for m in maps))
    norm = Normalize(-largest, largest)
    colours = matplotlib.colormaps["RdBu"]
    look = _look(report, colours, norm, True, "points: blue is better")
    name = drawable(report.labels[report.baseline])
    return _figure(maps, look, f"Accuracy minus that of “{name}”, in points")


def _accuracies(report: Report, index: int) -> np.ndarray:
    """Cells with a mean column, and below the benchmark's mean ``[rows, columns]``."""
    network = headline(report.runs[index])
    names = [*report.benchmark, *report.extra]
    cells = report.cells(network, "accuracy", names)
    if report.benchmark:
        mean = cells[: len(report.benchmark)].mean(axis=0, keepdims=True)
        cells = np.concatenate([cells, mean])
    return np.concatenate([cells, cells.mean(axis=1, keepdims=True)], axis=1)


def _look(
    report: Report, colours: Colormap, norm: Normalize, signed: bool, bar: str
) -> _Look:
    names = [*report.benchmark, *report.extra]
    stars = [" *" if name in report.extra else "" for name in names]
    rows = [drawable(readable(n)) + star for n, star in zip(names, stars, strict=True)]
    families = [_FAMILY_OF.get(name, "extra") for name in names] + ["mean"]
    gaps = [i for i in range(len(names)) if families[i] != families[i + 1]]
    if report.benchmark:
        rows.append("mean without *" if report.extra else "mean")
    return _Look(rows, gaps, report.severities, colours, norm, signed, bar)


def _figure(maps: Sequence[_Map], look: _Look, text: str) -> Figure | None:
    if not look.rows:
        return None
    columns = min(_ABREAST, len(maps))
    lines = -(-len(maps) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    height = 1.1 + lines * (0.7 + 0.27 * len(look.rows))
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for number, ax in enumerate(axes.flat):
        if number < len(maps):
            _draw(ax, maps[number], look)
        else:
            ax.set_visible(False)
    bar = ScalarMappable(look.norm, look.colours)
    shape = {"fraction": 0.03, "pad": 0.01, "aspect": 2 * len(look.rows) * lines}
    figure.colorbar(bar, ax=axes, label=look.bar, **shape)
    figure.supxlabel("severity", fontsize=10)
    title(figure, text)
    return figure


def _draw(ax: Axes, panel: _Map, look: _Look) -> None:
    ax.imshow(panel.values, cmap=look.colours, norm=look.norm, aspect="auto")
    ax.set_title(panel.title, loc="left", fontsize=11)
    ax.set_yticks(range(len(look.rows)), look.rows, fontsize=10)
    ticks = [*map(str, look.severities), "mean"]
    ax.set_xticks(range(len(ticks)), ticks, fontsize=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for row in look.gaps:
        ax.axhline(row + 0.5, color="white", linewidth=3)
    ax.axvline(len(look.severities) - 0.5, color="white", linewidth=3)
    for (row, column), value in np.ndenumerate(panel.values):
        whole = round(float(value))
        text = f"{whole:+d}".replace("-", "\N{MINUS SIGN}") if whole else "0"
        text = text if look.signed else text.removeprefix("+")
        ink = _ink(look.colours(look.norm(value)))
        ax.text(column, row, text, color=ink, ha="center", va="center", fontsize=9)


def _ink(background: Sequence[float]) -> str:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2)."""
    linear = np.asarray(background[:3]) ** 2.2
    return "white" if linear @ (0.2126, 0.7152, 0.0722) < 0.18 else "black"

"""Figures of a comparison: accuracy against cost, and calibration under shift."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from ssvi_jax.evaluation import figure_style as style
from ssvi_jax.evaluation.run_style import colour, drawable, legend_below, title

_SHIFT = {"nll": "NLL (nats per image)", "ece": "ECE (15 bins)"}
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (7, 14, 24, 36, 50, 66)  # of a label from its point, in points


def make_figures(comparison: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes pareto.png and shift.png; nothing where no run finished.

    Args:
      comparison: what comparison.json holds.
      folder: where to.

    Returns:
      Their paths.
    """
    if not comparison["methods"]:
        return []
    figures = {"pareto": pareto(comparison), "shift": shift(comparison)}
    return [style.save(made, folder / f"{name}.png") for name, made in figures.items()]


def pareto(comparison: Mapping[str, Any]) -> Figure:
    """Test accuracy against the FLOPs of the training, with the methods' names.

    A line joins the methods that no other beats in both. Bars are standard errors.

    Args:
      comparison: what comparison.json holds; one method at least.
    """
    figure, (ax,) = style.panels(1, width=8.0, height=5.4)
    methods = comparison["methods"]
    x, _ = _column(methods, "train_flops")
    y, errors = _column(methods, "accuracy")
    best = front(x, y)
    ax.plot(x[best], y[best], color=style.GREY, linestyle="--", linewidth=1)
    for i in range(len(x)):
        ax.errorbar(x[i], y[i], yerr=errors[i], fmt="o", color=colour(i), capsize=3)
    ax.set_xscale("log")
    low, high = x.min(), x.max()
    ax.set_xlim(low / 1.5, high * 1.5)
    ax.margins(y=0.12)
    style.percent_ticks(ax.yaxis)
    style.label_axes(ax, "FLOPs of the whole training", "test accuracy")
    title(figure, "Accuracy against training cost")
    line = Line2D([], [], color=style.GREY, linestyle="--", linewidth=1)
    style.legend_above(ax, "right", [line], ["no method is better in both"])
    _label_points(figure, ax, np.stack([x, y, errors], axis=1), list(methods))
    return figure


def shift(comparison: Mapping[str, Any]) -> Figure:
    """NLL and ECE of every method on clean and on corrupted test images.

    Args:
      comparison: what comparison.json holds; one method at least.
    """
    methods = comparison["methods"]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(10.0, 1.8 + 0.34 * len(methods)), layout=layout)
    axes = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(methods))
    for ax, (name, text) in zip(axes, _SHIFT.items(), strict=True):
        clean, clean_errors = _column(methods, name)
        shifted, errors = _column(methods, f"corrupted_{name}")
        ax.hlines(rows, clean, shifted, color="#BBBBBB", linewidth=2)
        look = {"linestyle": "none", "capsize": 3}
        ax.errorbar(
            clean, rows, xerr=clean_errors, marker="o", color=style.BLUE, **look
        )
        ax.errorbar(shifted, rows, xerr=errors, marker="D", color=style.RED, **look)
        style.label_axes(ax, text, "")
        ax.set_xlim(left=0)
    axes[0].set_yticks(rows, [drawable(method) for method in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    title(figure, "Calibration under shift: mean over corruptions and severities")
    handles = [
        Line2D([], [], color=look, marker=marker, linestyle="none")
        for look, marker in ((style.BLUE, "o"), (style.RED, "D"))
    ]
    legend_below(figure, handles, ["clean test images", "corrupted test images"])
    return figure


def front(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Rows that no other beats: none costs as little or less and scores higher.

    Args:
      cost: float ``[n]``, the less the better.
      score: float ``[n]``, the more the better.

    Returns:
      Their numbers, by ascending cost; equal rows are there once.
    """
    found: list[int] = []
    for row in np.lexsort((-score, cost)):
        if not found or score[row] > score[found[-1]]:
            found.append(int(row))
    return np.array(found)


def text_box(label: Annotation) -> Bbox:
    """Where the text of a label is, in pixels; its line is not counted."""
    label.get_window_extent()  # moves the text to where its point is
    return Text.get_window_extent(label)


def _column(methods: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors (0 where one seed has none), float ``[methods]``."""
    values = [found["metrics"][name] for found in methods.values()]
    means = np.array([value["mean"] for value in values], float)
    return means, np.array([value["standard_error"] or 0.0 for value in values], float)


def _label_points(
    figure: Figure, ax: Axes, points: np.ndarray, names: Sequence[str]
) -> None:
    """Names beside points [x, y, error], as near as they fit and cover nothing."""
    figure.draw_without_rendering()  # the layout decides where points are
    taken = []
    for x, y, error in points:
        ends = ax.transData.transform([(x, y - error), (x, y + error)])
        taken.append(Bbox(np.add(ends, [(-8, -8), (8, 8)])))
    inside = ax.get_window_extent()
    for i, name in enumerate(names):
        x, y, _ = map(float, points[i])
        label = ax.annotate(
            drawable(name),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            color=colour(i),
            arrowprops={"arrowstyle": "-", "color": colour(i), "linewidth": 0.6},
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
        )
        label.set_in_layout(False)
        taken.append(_place(figure, label, taken, inside))


def _place(figure: Figure, label: Annotation, taken: list[Bbox], inside: Bbox) -> Bbox:
    """Moves a label to the first place that is free, or the last; returns its box."""
    size = text_box(label)
    pixels = figure.dpi / 72
    half = np.array([size.width, size.height]) / 2 / pixels
    box = size
    for distance, direction in itertools.product(_DISTANCES, _DIRECTIONS):
        x, y = map(float, np.array(direction) * (half + distance))
        label.set_position((x, y))
        box = size.translated(x * pixels, y * pixels)
        within = Bbox.intersection(box, inside)
        free = not box.count_overlaps(taken)
        if free and within is not None and np.allclose(within, box):
            break
    return box

"""Example images, clean and corrupted, with what the runs say of them."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ssvi_jax.evaluation.figure_style import GREEN, GREY, RED
from ssvi_jax.evaluation.run_style import WIDTH, colour, drawable, readable, title
from ssvi_jax.evaluation.shift.report.data import Report

MAX_IMAGES, MAX_LOOKS, MAX_RUNS = 6, 8, 4
"""Drawn of what examples.npz holds; more would not be legible."""

# Inches.
_LEFT, _TOP, _LEGEND = 0.95, 0.85, 0.3
_CELL, _GAP, _LINE, _STRIPE = 1.45, 0.1, 0.17, 0.035
_LEAST_WIDTH = 7.0


def examples(report: Report) -> Figure | None:
    """Images by look; below each, every run's class, confidence and uncertainty.

    Args:
      report: what to show; None without examples.
    """
    if not report.examples:
        return None
    images = report.examples["images"][:MAX_IMAGES, :MAX_LOOKS]
    num, looks = images.shape[:2]
    shown = [r for r in range(len(report.runs)) if f"probs_{r}" in report.examples]
    shown = shown[:MAX_RUNS]
    cell = min(_CELL, (WIDTH - _LEFT) / looks)
    side = cell - _GAP
    row = side + _LINE * len(shown) + 2 * _GAP
    width = max(_LEAST_WIDTH, _LEFT + looks * cell)
    lines = 1 + (math.ceil(len(shown) / 2) if len(shown) > 1 else 0)
    height = _TOP + num * row + _LEGEND * lines + 0.1
    figure = Figure(figsize=(width, height))
    ax = _inches(figure, width, height)
    for column in range(looks):
        x = _LEFT + column * cell
        _head(ax, str(report.examples["looks"][column]), x + side / 2)
        for line in range(num):
            y = _TOP + line * row
            _image(ax, images[line, column], x, y, side)
            for place, r in enumerate(shown):
                below = y + side + _LINE * place + 0.04
                _verdict(ax, report, r, (line, column), (x, below, side))
    for line in range(num):
        _truth(ax, report, line, _TOP + line * row + side / 2)
    _legend(ax, report, shown, height)
    title(figure, "What the models say of images that get worse", 1 - 0.12 / height)
    return figure


def _inches(figure: Figure, width: float, height: float) -> Axes:
    """Axes over the whole figure in inches from its upper left corner."""
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(height, 0))
    return ax


def _head(ax: Axes, look: str, x: float) -> None:
    kind, _, rest = look.partition("/")
    second = f"severity {rest}" if rest else ""
    if kind == "ood":
        kind, second = "foreign:", drawable(rest, 14)
    text = f"{drawable(readable(kind), 18)}\n{second}"
    ax.text(x, _TOP - 0.08, text, ha="center", va="bottom", fontsize=8)


def _image(ax: Axes, image: np.ndarray, x: float, y: float, side: float) -> None:
    grey = image.shape[-1] == 1
    ax.imshow(
        image[..., 0] if grey else image,
        extent=(x, x + side, y + side, y),
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest",
        aspect="auto",
    )


def _verdict(
    ax: Axes,
    report: Report,
    run: int,
    at: tuple[int, int],
    place: tuple[float, float, float],
) -> None:
    """One run's class and confidence over a bar of its uncertainty."""
    x, y, side = place
    probs = report.examples[f"probs_{run}"][at]
    truth = int(report.examples["labels"][at])
    guess, scale = int(probs.argmax()), math.log(len(probs))
    inside = _LINE - 0.03
    ax.add_patch(Rectangle((x, y), side, inside, color="#F0F0F0", linewidth=0))
    shades = {"entropy": (inside, 0.3), "mutual_information": (_STRIPE, 1.0)}
    for name, (high, alpha) in shades.items():
        values = report.examples.get(f"{name}_{run}")
        if values is not None:
            long = side * min(1.0, float(values[at]) / scale)
            look = {"color": colour(run), "alpha": alpha, "linewidth": 0}
            ax.add_patch(Rectangle((x, y + inside - high), long, high, **look))
    if truth >= 0:
        mark, ink = ("✓", "#00513B") if guess == truth else ("✗", "#9A2A00")
        ax.text(x + 0.02, y + inside / 2, mark, color=ink, va="center", fontsize=7)
    name = drawable(_class_name(report.results, guess), 11)
    text = f"{name} {100 * probs[guess]:.0f}%"
    ax.text(x + 0.14, y + inside / 2 + 0.005, text, va="center", fontsize=7)


def _truth(ax: Axes, report: Report, line: int, y: float) -> None:
    known = [int(label) for label in report.examples["labels"][line] if label >= 0]
    if known:
        name = drawable(_class_name(report.results, known[0]), 12)
        ax.text(_LEFT - 0.1, y, name, ha="right", va="center", fontsize=9)


def _class_name(results: Mapping, label: int) -> str:
    names = results.get("dataset", {}).get("class_names") or ()
    return str(names[label]) if label < len(names) else f"class {label}"


def _legend(ax: Axes, report: Report, shown: list[int], height: float) -> None:
    runs = [(Patch(color=colour(r)), drawable(report.labels[r])) for r in shown]
    marks = [
        (_mark("✓", GREEN), "right"),
        (_mark("✗", RED), "wrong"),
        (Patch(color=GREY, alpha=0.3), "bar: entropy, full at ln C"),
    ]
    if any(f"mutual_information_{r}" in report.examples for r in shown):
        marks.append((Line2D([], [], color=GREY, linewidth=3), "mutual information"))
    look = {"loc": "lower center", "frameon": False, "fontsize": 9}
    first = ax.legend(
        *zip(*marks, strict=True), ncols=len(marks), bbox_to_anchor=(0.5, 0), **look
    )
    if len(shown) > 1:
        ax.add_artist(first)
        above = (0.5, _LEGEND / height)
        ax.legend(*zip(*runs, strict=True), ncols=2, bbox_to_anchor=above, **look)


def _mark(text: str, ink: str) -> Line2D:
    return Line2D([], [], marker=f"${text}$", color=ink, linestyle="", markersize=7)

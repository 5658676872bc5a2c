"""Reliability diagrams, ROC and selective curves of an evaluation.

Every function takes a report and gives a figure, or None where it has no such data.
Curves are those of each run's headline network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ssvi_jax.evaluation.figure_style import GREY, label_axes
from ssvi_jax.evaluation.run_style import (
    WIDTH,
    colour,
    drawable,
    legend,
    line_look,
    readable,
    title,
)
from ssvi_jax.evaluation.shift.report.data import Report, headline

FEW = 10
"""Bins with fewer images are drawn hollow: their accuracy says little."""

_SCORES = ("entropy", "max_probability", "mutual_information", "logit_disagreement")
_PERCENT = PercentFormatter(1.0, decimals=0)


def reliability(report: Report) -> Figure | None:
    """Accuracy against confidence, clean and shifted; shares of images and ECE below.

    Args:
      report: what to show; the first, a middle and the last severity are drawn.
    """
    curves = [_curves(run, "reliability") for run in report.runs]
    looks = [name for name in _chosen_looks(report) if any(name in c for c in curves)]
    if not looks:
        return None
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06)
    bars = 0.35 + 0.2 * len(report.runs)
    figure = Figure(figsize=(WIDTH, 5.0 + bars), layout=layout)
    axes = figure.subplots(
        3, len(looks), sharey="row", squeeze=False, height_ratios=(2.6, 0.9, bars)
    )
    for column, name in zip(axes.T, looks, strict=True):
        found = {i: curve[name] for i, curve in enumerate(curves) if name in curve}
        _reliability_column(column, found, len(report.runs))
        column[0].set_title(_look_title(name), loc="left", fontsize=11)
    for ax in axes[1]:
        ax.set_ylim(bottom=0)
    widest = max(ax.get_xlim()[1] for ax in axes[2])
    for ax in axes[2]:
        ax.set_xlim(0, widest)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("of images")
    title(figure, "Confidence and accuracy: below the diagonal is overconfident")
    legend(figure, report.labels, marker=True)
    return figure


def roc(report: Report) -> Figure | None:
    """ROC curves of every out-of-distribution set (rows) by score (columns)."""
    curves = [_curves(run, "roc") for run in report.runs]
    names = [name for name in report.ood if any(name in c for c in curves)]
    scores = [
        s for s in _SCORES if any(s in c.get(n, {}) for c in curves for n in names)
    ]
    if not scores:
        return None
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    size = min(WIDTH / len(scores), 4.0)
    figure = Figure(figsize=(WIDTH, 0.9 + size * len(names)), layout=layout)
    axes = figure.subplots(
        len(names), len(scores), squeeze=False, sharex=True, sharey=True
    )
    for row, name in zip(axes, names, strict=True):
        for ax, score in zip(row, scores, strict=True):
            _roc_panel(ax, report, name, score)
            ax.set_title(f"By {readable(score)}", loc="left", fontsize=11)
        row[0].set_ylabel(f"found of {drawable(name, 24)}")
    for ax in axes[-1]:
        ax.set_xlabel("reported of clean test images")
    title(figure, "Out-of-distribution detection: ROC curves by score")
    legend(figure, report.labels)
    return figure


def selective(report: Report) -> Figure | None:
    """Accuracy of the most confident images against their share, clean and shifted."""
    curves = [_curves(run, "selective") for run in report.runs]
    sets = {"clean": "Clean test images", "shifted": "Corrupted, all severities"}
    names = [name for name in sets if any(name in c for c in curves)]
    if not names:
        return None
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(WIDTH, 4.4), layout=layout)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)
    for ax, name in zip(axes.flat, names, strict=True):
        for index, curve in enumerate(curves):
            if name in curve:
                x, y = curve[name]["coverage"], curve[name]["accuracy"]
                ax.plot(x, y, **line_look(index))
        label_axes(ax, "images answered, most confident first", "")
        ax.set_title(sets[name], loc="left", fontsize=11)
        ax.xaxis.set_major_formatter(_PERCENT)
        ax.yaxis.set_major_formatter(_PERCENT)
        ax.set_xlim(0, 1)
    axes[0, 0].set_ylim(top=1.005)
    axes[0, 0].set_ylabel("accuracy of these")
    title(figure, "Selective prediction: accuracy when unsure images are left out")
    legend(figure, report.labels)
    return figure


def ece_of_bins(bins: Mapping[str, Sequence]) -> float:
    """Expected calibration error of a stored reliability diagram, a fraction.

    Args:
      bins: "confidence", "accuracy" (None where empty) and "count".
    """
    confidence, accuracy, count = _filled(bins)
    return float(np.sum(count * np.abs(accuracy - confidence)) / np.sum(count))


def _curves(run: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return headline(run).get("curves", {}).get(kind, {})


def _chosen_looks(report: Report) -> list[str]:
    severities = report.severities
    chosen = sorted({0, (len(severities) - 1) // 2, len(severities) - 1})
    return ["clean", *(f"severity_{severities[i]}" for i in chosen if severities)]


def _look_title(name: str) -> str:
    return "Clean" if name == "clean" else name.replace("_", " ").capitalize()


def _filled(bins: Mapping[str, Sequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and count of the bins that have images, float64."""
    count = np.array(bins["count"], np.float64)
    keep = count > 0
    confidence, accuracy = (
        np.array(bins[name], np.float64)[keep] for name in ("confidence", "accuracy")
    )
    return confidence, accuracy, count[keep]


def _reliability_column(
    column: Sequence[Axes], found: Mapping[int, Mapping], num_runs: int
) -> None:
    """Diagram, histogram of confidence and ECE of one set, top to bottom."""
    top, middle, bottom = column
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for index, bins in found.items():
        confidence, accuracy, count = _filled(bins)
        top.plot(confidence, accuracy, **line_look(index))
        points = line_look(index, marker=True)
        # On the frame they are whole; and no layout can measure none of them.
        points |= {"linestyle": "", "clip_on": False, "in_layout": False}
        many = count >= FEW
        top.plot(confidence[many], accuracy[many], **points)
        points["markerfacecolor"] = "white"
        top.plot(confidence[~many], accuracy[~many], **points)
        share = np.array(bins["count"], np.float64) / np.sum(bins["count"])
        edges = np.linspace(0, 1, len(share) + 1)
        middle.stairs(share, edges, color=colour(index), linewidth=1.5)
        _ece_bar(bottom, index, ece_of_bins(bins))
    for ax in (top, middle):
        label_axes(ax, "", "")
        ax.set_xlim(0, 1.02)
        ax.yaxis.set_major_formatter(_PERCENT)
        ax.set_xticks([0, 0.5, 1], ["0", "50", "100"])
    top.set_ylim(0, 1.02)
    top.tick_params(labelbottom=False)
    middle.set_xlabel("confidence (%)")
    bottom.set_ylim(num_runs - 0.4, -0.6)
    bottom.set(xticks=[], yticks=[])
    bottom.spines[:].set_visible(False)


def _ece_bar(ax: Axes, index: int, value: float) -> None:
    ax.barh(index, value, color=colour(index), height=0.7)
    ax.annotate(
        f"ECE {value:.3f}",
        (value, index),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )
    # Room for the text beside the longest bar.
    ax.set_xlim(0, max(ax.get_xlim()[1], 2.0 * value, 1e-3))


def _roc_panel(ax: Axes, report: Report, name: str, score: str) -> None:
    handles, areas = [], []
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for index, run in enumerate(report.runs):
        curve = _curves(run, "roc").get(name, {}).get(score)
        if curve is None:
            continue
        ax.plot(curve["fpr"], curve["tpr"], **line_look(index))
        handles.append(Line2D([], [], **line_look(index)))
        area = headline(run).get("ood", {}).get(name, {}).get(score, {}).get("auroc")
        areas.append("–" if area is None else f"{area:.3f}")
    label_axes(ax, "", "")
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.xaxis.set_major_formatter(_PERCENT)
    ax.yaxis.set_major_formatter(_PERCENT)
    if areas:
        look = {"loc": "lower right", "framealpha": 0.85, "edgecolor": "none"}
        ax.legend(handles, areas, title="AUROC", fontsize=9, title_fontsize=9, **look)

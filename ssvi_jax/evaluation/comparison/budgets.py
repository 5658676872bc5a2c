"""Figures of methods at several training times: what time, work and bytes buy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ssvi_jax.evaluation import figure_style as style
from ssvi_jax.evaluation.run_style import legend, line_look, title

MINUTES = "minutes"

SCORES = {
    "accuracy": "test accuracy",
    "nll": "NLL (nats per image)",
    "corrupted_nll": "corrupted NLL (nats per image)",
}
COSTS = {
    MINUTES: "training time (minutes)",
    "train_flops": "FLOPs of the whole training",
    "model_bytes": "model file (bytes)",
}


class Points(NamedTuple):
    """One method at the budgets that it was trained for, each array ``[budgets]``."""

    cost: np.ndarray
    score: np.ndarray
    error: np.ndarray


def points(
    parts: Mapping[float, Mapping[str, Any]], method: str, cost: str, score: str
) -> Points:
    """Means over seeds, with standard errors (NaN where one seed has none).

    Args:
      parts: minutes → what comparison.json holds.
      method: its name; a part that lacks it is left out.
      cost: one of `COSTS`.
      score: one of `SCORES`.
    """
    rows = []
    for minutes in sorted(parts):
        if method not in parts[minutes]["methods"]:
            continue
        metrics = parts[minutes]["methods"][method]["metrics"]
        x = minutes if cost == MINUTES else metrics[cost]["mean"]
        found = metrics[score]
        rows.append((x, found["mean"], found["standard_error"]))
    return Points(*np.array(rows, float).T)


def figure(
    parts: Mapping[float, Mapping[str, Any]],
    methods: Sequence[str] | None = None,
    *,
    costs: Sequence[str] = tuple(COSTS),
    scores: Sequence[str] = tuple(SCORES),
) -> Figure:
    """Scores against costs; a line joins the budgets of a method.

    Args:
      parts: minutes → what comparison.json holds; one method at least.
      methods: which, in the order of their colours; None: all.
      costs: of `COSTS`, a column each.
      scores: of `SCORES`, a row each.
    """
    there = list(
        dict.fromkeys(name for part in parts.values() for name in part["methods"])
    )
    shown = [name for name in methods or there if name in there]
    across = len(costs) if len(costs) > 1 else len(scores)
    down = len(scores) if len(costs) > 1 else 1
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    whole = Figure(figsize=(4.0 * across, 3.1 * down + 0.9), layout=layout)
    panels = [(cost, score) for score in scores for cost in costs]
    axes = np.ravel(whole.subplots(down, across, squeeze=False))
    for ax, (cost, score) in zip(axes, panels, strict=True):
        for i, method in enumerate(shown):
            _draw(ax, points(parts, method, cost, score), i)
        _finish(ax, cost, score, sorted(parts))
    title(whole, "Scores of equal training time")
    legend(whole, shown, marker=True)
    return whole


def _draw(ax: Axes, found: Points, index: int) -> None:
    look = line_look(index, marker=True)
    ax.errorbar(found.cost, found.score, yerr=found.error, capsize=3, **look)


def _finish(ax: Axes, cost: str, score: str, minutes: Sequence[float]) -> None:
    style.label_axes(ax, COSTS[cost], SCORES[score])
    ax.set_xscale("log")
    if cost == MINUTES:
        ax.set_xticks(minutes, [f"{each:g}" for each in minutes])
        ax.set_xticks([], minor=True)
    if score == "accuracy":
        style.percent_ticks(ax.yaxis)

"""Figures of a finished run, made from the files that it left and nothing else.

`make_figures` reads ``metrics.jsonl``, ``summary.json`` and ``predictions.npz`` and
writes PNGs into ``figures/``. What a run does not have (a deterministic one has neither
a KL nor masks that move) is left out of its figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ssvi_jax import metrics
from ssvi_jax.evaluation.figure_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    label_axes,
    legend_above,
    marker_size,
    nats_unit,
    panels,
    percent_ticks,
    save,
    whole_epochs,
)
from ssvi_jax.io import run_files

_FEW = 10  # bins with fewer examples say little and are drawn pale
_SPLITS = {
    "val": ("validation", ORANGE),
    "test": ("test", GREEN),
    "test_corrupted": ("test, corrupted", RED),
}


def make_figures(run_dir: str | Path) -> list[Path]:
    """Makes every figure that the files of a run allow.

    Args:
      run_dir: folder with metrics.jsonl, summary.json and, unless the run never
        predicted, predictions.npz.

    Returns:
      Paths of the PNG files written, of curves, reliability, masks and snr.

    Raises:
      InputError: if a file is missing or damaged.
    """
    run = Path(run_dir)
    events, summary = run_files.read_events(run), run_files.read_summary(run)
    figures = {
        "curves": curves(events),
        "reliability": reliability(run_files.read_predictions(run)),
        "masks": masks(events, summary),
        "snr": snr(summary),
    }
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    return [
        save(figure, folder / f"{name}.png")
        for name, figure in figures.items()
        if figure is not None
    ]


def curves(events: Sequence[Mapping]) -> Figure | None:
    """Accuracy, NLL and KL over epochs; None where nothing was recorded.

    Args:
      events: the lines of metrics.jsonl.
    """
    names = [name for name in ("accuracy", "nll", "kl") if _has_curve(events, name)]
    if not names:
        return None
    figure, axes = panels(len(names), width=4.6, height=3.7, sharex=True)
    draw = {"accuracy": _accuracy_panel, "nll": _nll_panel, "kl": _kl_panel}
    for ax, name in zip(axes, names, strict=True):
        draw[name](ax, events)
    whole_epochs(axes[0])
    handles, labels = axes[0].get_legend_handles_labels()
    # One legend below for all panels: inside it would sooner or later cover a curve.
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10
    )
    return figure


def reliability(predictions: Mapping[str, np.ndarray]) -> Figure | None:
    """Accuracy against confidence of the sampled and the mean network, side by side.

    Args:
      predictions: "mc_probs" and "mean_probs" ``[n, C]`` (either may lack), "labels".
    """
    names = {"mc_probs": "posterior samples", "mean_probs": "mean network"}
    found = [name for name in names if name in predictions]
    if not found:
        return None
    figure = Figure(figsize=(5.4 * len(found), 5.6), layout="constrained")
    parts = np.ravel(figure.subfigures(1, len(found), squeeze=False, wspace=0.03))
    for part, name in zip(parts, found, strict=True):
        title = names[name] if len(found) > 1 else "test set"
        _reliability_panel(part, predictions[name], predictions["labels"], title)
    return figure


def masks(events: Sequence[Mapping], summary: Mapping) -> Figure | None:
    """Density of every layer, and how far the masks have moved.

    Args:
      events: the lines of metrics.jsonl.
      summary: what summary.json holds; "layers" is needed.
    """
    layers = summary.get("layers")
    if not layers:
        return None
    churn = {name: series(events, name) for name in ("iou_first", "iou_previous")}
    moves = summary.get("sparsity", 0) > 0 and any(len(x) for x, _ in churn.values())
    height = max(3.7, 0.8 + 0.27 * len(layers))
    figure, axes = panels(2 if moves else 1, width=6.2, height=height)
    _density_panel(axes[0], layers)
    if moves:
        _churn_panel(axes[1], churn)
    return figure


def snr(summary: Mapping) -> Figure | None:
    """Histogram of abs(mean) / sigma of the kept weights; None without a posterior.

    Args:
      summary: what summary.json holds; "snr_histogram" has "edges_log10" and "counts".
    """
    histogram = summary.get("snr_histogram")
    if not histogram or not sum(histogram["counts"]):
        return None
    figure, (ax,) = panels(1, width=6.2, height=3.7)
    edges, counts = map(np.asarray, (histogram["edges_log10"], histogram["counts"]))
    share = counts / counts.sum()
    ax.stairs(share, edges, fill=True, color=SKY)
    ax.stairs(share, edges, color=BLUE)
    middle = _median(edges, share)
    ax.axvline(0, color=GREY, linestyle="--", label="|mean| = sigma")
    ax.axvline(middle, color=RED, label=f"median {10**middle:.2g}")
    filled = np.flatnonzero(counts)
    ax.set_xlim(float(edges[filled[0]]), float(edges[filled[-1] + 1]))
    ax.set_ylim(0, 1.08 * share.max())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"$10^{{{x:g}}}$"))
    percent_ticks(ax.yaxis)
    label_axes(ax, "signal-to-noise ratio |mean| / sigma", "share of kept weights")
    ax.set_title("SNR of the kept weights", loc="left")
    legend_above(ax, "right")
    return figure


def _accuracy_panel(ax: Axes, events: Sequence[Mapping]) -> None:
    _score_lines(ax, events, "accuracy")
    percent_ticks(ax.yaxis)
    label_axes(ax, "epoch", "accuracy")
    ax.set_title("Accuracy", loc="left")


def _nll_panel(ax: Axes, events: Sequence[Mapping]) -> None:
    _score_lines(ax, events, "nll")
    label_axes(ax, "epoch", "NLL (nats per example)")
    ax.set_title("Negative log-likelihood", loc="left")


def _kl_panel(ax: Axes, events: Sequence[Mapping]) -> None:
    x, y = series(events, "kl")
    scale, unit = nats_unit(np.abs(y).max())
    ax.plot(x, y / scale, color=BLUE)
    label_axes(ax, "epoch", f"KL, all weights ({unit})")
    ax.set_title("KL to the prior", loc="left")


def _score_lines(ax: Axes, events: Sequence[Mapping], name: str) -> None:
    """One score of the training batches and of the held-out splits over epochs."""
    x, y = series(events, name)
    if len(x):
        ax.plot(x, y, color=BLUE, linewidth=1.2, label="training batches")
    for split, (label, colour) in _SPLITS.items():
        x, y = series(events, name, split)
        if len(x):
            ax.plot(x, y, "o-", color=colour, markersize=marker_size(x), label=label)


def _reliability_panel(
    part: SubFigure, probs: np.ndarray, labels: np.ndarray, title: str
) -> None:
    top, bottom = part.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = metrics.reliability(probs, labels)
    edges = np.linspace(0, 1, len(bins.count) + 1)
    _gap_bars(top, bins, edges)
    _confidence_bars(bottom, bins, edges)
    score = metrics.ece(probs, labels)
    part.suptitle(f"{title}: ECE {score:.4f}", fontsize=12)


def _gap_bars(ax: Axes, bins: metrics.Reliability, edges: np.ndarray) -> None:
    """Accuracy as bars; hatched, from there, the gap to the mean confidence."""
    filled = bins.count > 0
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    left = edges[:-1][filled]
    where = {"align": "edge", "width": np.diff(edges)[filled]}
    sure = bins.count[filled] >= _FEW
    colours = np.where(sure, SKY, "#E3F0F9").tolist()
    ax.bar(left, accuracy, color=colours, edgecolor=BLUE, linewidth=0.8, **where)
    hatched = {"facecolor": "none", "edgecolor": RED, "hatch": "////", "linewidth": 0.8}
    ax.bar(left, confidence - accuracy, bottom=accuracy, **hatched, **where)
    (ideal,) = ax.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    ax.set(xlim=(0, 1), ylim=(0, 1.01))
    label_axes(ax, "", "accuracy")
    handles = [Patch(facecolor=SKY, edgecolor=BLUE), Patch(**hatched), ideal]
    names = [f"accuracy (pale: n < {_FEW})", "gap to confidence", "calibrated"]
    legend_above(ax, "left", handles, names)


def _confidence_bars(ax: Axes, bins: metrics.Reliability, edges: np.ndarray) -> None:
    share = bins.count / bins.count.sum()
    ax.stairs(share, edges, fill=True, color="#BBBBBB")
    marks = {
        "mean confidence": (bins.confidence, RED),
        "accuracy": (bins.accuracy, BLUE),
    }
    for name, (values, colour) in marks.items():
        mean = np.nansum(values * share)
        ax.axvline(mean, color=colour, label=f"{name} {mean:.1%}")
    ax.set_ylim(0, 1.05 * share.max())
    percent_ticks(ax.yaxis)
    label_axes(ax, "confidence", f"of {bins.count.sum():,} examples")
    legend_above(ax, "left")


def _density_panel(ax: Axes, layers: Sequence[Mapping]) -> None:
    names = [layer["path"].removesuffix("/kernel") for layer in layers]
    density = np.array([layer["density"] for layer in layers])
    rows = np.arange(len(layers))
    ax.barh(rows, density, color=BLUE, height=0.72)
    for row, layer in zip(rows, layers, strict=True):
        text = f"{layer['density']:.1%} of {_short(layer['size'])}"
        inside = layer["density"] > 0.7
        ax.annotate(
            text,
            (layer["density"], row),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=8,
            color="white" if inside else "black",
        )
    ax.set_yticks(rows, names, fontsize=8)
    ax.set(xlim=(0, 1), ylim=(len(layers) - 0.4, -0.6))
    percent_ticks(ax.xaxis)
    label_axes(ax, "density (share of weights kept)", "")
    ax.grid(visible=False, axis="y")
    kept, size = (sum(layer[name] for layer in layers) for name in ("kept", "size"))
    share = f"{kept:,} of {size:,} weights kept ({kept / size:.2%})"
    text = f"Not sparse: all {size:,} weights are kept" if kept == size else share
    ax.set_title(text, loc="left")


def _churn_panel(ax: Axes, churn: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    looks = {
        "iou_previous": ("previous mask", ORANGE),
        "iou_first": ("first mask", BLUE),
    }
    for name, (label, colour) in looks.items():
        x, y = churn[name]
        ax.plot(x, y, "o-", color=colour, markersize=marker_size(x), label=label)
    ax.set_ylim(0, 1.02)
    whole_epochs(ax)
    label_axes(ax, "epoch", "intersection over union (IoU)")
    ax.set_title("Overlap of the masks with", loc="left")
    legend_above(ax, "right")


def _short(count: float) -> str:
    """A count in at most five characters: 432, 36.9k, 2.36M."""
    for unit in ("", "k", "M"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}G"


def _median(edges: np.ndarray, share: np.ndarray) -> float:
    """Median of a histogram, linear inside its bin."""
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    return float(np.interp(0.5, cumulative, edges))


def series(
    events: Sequence[Mapping], name: str, split: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values where a phase, or a split of an epoch, has the value.

    Args:
      events: the lines of metrics.jsonl.
      name: a value of a phase, or a score: "kl", "accuracy", "nll".
      split: None for phases, else "val", "test" or "test_corrupted".

    Returns:
      float64 ``[n]`` twice.
    """
    kind = "phase" if split is None else "epoch"
    lines = [event for event in events if event.get("event") == kind]
    values = [(line if split is None else line.get(split) or {}) for line in lines]
    pairs = [
        (line["epoch"], value[name])
        for line, value in zip(lines, values, strict=True)
        if value.get(name) is not None
    ]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return x, y


def _has_curve(events: Sequence[Mapping], name: str) -> bool:
    return any(len(series(events, name, split)[0]) for split in (None, *_SPLITS))

"""Accuracy, KL and test loss over epochs: clean against corrupted training.

Drawn from the folders of finished runs and nothing else. Each run has its own colour.
A solid line is the score on test images of the run's own domain (corrupted like its
training images), a dashed one on the clean test images of a run trained on corrupted
ones. Scores are the mean network's, as training logs them.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation import figure_style as style
from ssvi_jax.evaluation.run.figures import series
from ssvi_jax.evaluation.run_style import drawable, readable
from ssvi_jax.io import run_files

COLOURS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.PINK, "#000000")
"""One a run; more runs in one figure could not be told apart."""
COLUMNS = ("run", "trained_on", "quantity", "tested_on", "epoch", "value")
"""Columns of curves.csv; accuracy is a fraction, the others are in nats."""


class Curve(NamedTuple):
    """One line of a figure.

    Attributes:
      quantity: "accuracy" (fraction), "nll" (nats an image) or "kl" (nats).
      tested_on: "clean" or "fog/3"; "" for the KL.
      own: whether those images are like the training images.
      epochs: float ``[n]``.
      values: float ``[n]``.
    """

    quantity: str
    tested_on: str
    own: bool
    epochs: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """The curves of one run.

    Attributes:
      folder: where it lies.
      label: what sets it apart, for the legend.
      trained_on: "clean" or "fog/3".
      curves: what it logged.
    """

    folder: Path
    label: str
    trained_on: str
    curves: list[Curve]


def read(folders: Sequence[Path]) -> list[Run]:
    """Reads the curves of finished runs.

    Args:
      folders: run folders, one to `len(COLOURS)`, all on the same data set.

    Raises:
      InputError: none or too many, a folder without a finished run or without test
        curves, or runs on different data sets.
    """
    if not 1 <= len(folders) <= len(COLOURS):
        raise InputError(
            f"--run: got {len(folders)} folders, allowed: 1 to {len(COLOURS)}."
        )
    summaries = [run_files.read_summary(folder) for folder in folders]
    datasets = sorted({str(summary.get("dataset")) for summary in summaries})
    if len(datasets) > 1:
        raise InputError(
            f"--run: got runs on {', '.join(datasets)}, allowed: one data set; draw "
            "them apart."
        )
    domains = [_domain(summary) for summary in summaries]
    labels = _labels(folders, summaries, domains)
    return [
        Run(folder, label, domain, _curves(folder, domain))
        for folder, label, domain in zip(folders, labels, domains, strict=True)
    ]


def write(runs: Sequence[Run], out: Path) -> list[Path]:
    """Writes the figures as PNG and their numbers as CSV.

    Args:
      runs: what `read` returned.
      out: folder, created if need be.

    Returns:
      Paths of accuracy.png, kl.png (unless no run has a posterior), test_loss.png,
      side_by_side.png and curves.csv.

    Raises:
      InputError: the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out: cannot create {out} ({error.strerror}); choose another folder."
        ) from error
    names = {"accuracy": "accuracy", "kl": "kl", "nll": "test_loss"}
    found = {curve.quantity for run in runs for curve in run.curves}
    quantities = [quantity for quantity in names if quantity in found]
    figures = {names[q]: figure(runs, [q]) for q in quantities}
    figures["side_by_side"] = figure(runs, quantities)
    paths = [style.save(drawn, out / f"{name}.png") for name, drawn in figures.items()]
    return [*paths, _write_csv(runs, out / "curves.csv")]


def figure(runs: Sequence[Run], quantities: Sequence[str]) -> Figure:
    """One panel a quantity, with one legend below all of them.

    Args:
      runs: what `read` returned.
      quantities: any of "accuracy", "kl", "nll".
    """
    count = len(quantities)
    width = 4.6 if count > 1 else 6.4
    handles = _legend(runs, quantities)
    columns = _columns([str(h.get_label()) for h in handles], count * width)
    height = 3.7 + 0.22 * math.ceil(len(handles) / columns)
    drawn, axes = style.panels(count, width=width, height=height, sharex=True)
    for ax, quantity in zip(axes, quantities, strict=True):
        _panel(ax, runs, quantity)
    axes[0].set_xlim(left=0)
    drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
    )
    return drawn


def _legend(runs: Sequence[Run], quantities: Sequence[str]) -> list[Line2D]:
    """The runs' colours, and what the kinds of lines mean if there are two."""
    handles, own = [], {True}
    for run, colour in zip(runs, COLOURS, strict=False):
        shown = [curve for curve in run.curves if curve.quantity in quantities]
        if shown:
            handles.append(Line2D([], [], color=colour, linewidth=3, label=run.label))
        own |= {curve.own for curve in shown}
    if False in own:
        kinds: dict[Literal["-", "--"], str] = {
            "-": "tested on the same domain",
            "--": "tested on clean images",
        }
        handles += [
            Line2D([], [], color=style.GREY, linestyle=line, label=text)
            for line, text in kinds.items()
        ]
    return handles


def _columns(texts: Sequence[str], width: float) -> int:
    """Most columns of legend entries that fit into a figure, by rough sizes in inches.

    Matplotlib would let a wide legend run out of the figure.
    """
    for columns in range(len(texts), 1, -1):
        longest = [max(map(len, part)) for part in np.array_split(texts, columns)]
        if sum(0.7 + 0.075 * length for length in longest) <= width:
            return columns
    return 1


def _panel(ax: Axes, runs: Sequence[Run], quantity: str) -> None:
    texts = {
        "accuracy": ("Test accuracy", "accuracy"),
        "kl": ("KL to the prior", "KL, all weights"),
        "nll": ("Test loss", "NLL (nats per example)"),
    }
    lines = [
        (curve, colour)
        for run, colour in zip(runs, COLOURS, strict=False)
        for curve in run.curves
        if curve.quantity == quantity
    ]
    title, label = texts[quantity]
    scale = 1.0
    if quantity == "kl":
        scale, unit = style.nats_unit(max(curve.values.max() for curve, _ in lines))
        label += f" ({unit})"
    for curve, colour in lines:
        ax.plot(
            curve.epochs,
            curve.values / scale,
            "o-" if curve.own else "o--",
            color=colour,
            markersize=0.0 if quantity == "kl" else style.marker_size(curve.epochs),
        )
    if quantity == "accuracy":
        style.percent_ticks(ax.yaxis)
    style.label_axes(ax, "epoch", label)
    style.whole_epochs(ax)
    ax.set_title(title, loc="left")


def _domain(summary: dict[str, Any]) -> str:
    if "train_corruption" not in summary:
        return "clean"
    return f"{summary['train_corruption']}/{summary['train_severity']}"


def _labels(
    folders: Sequence[Path], summaries: Sequence[dict], domains: Sequence[str]
) -> list[str]:
    """What the runs were trained on, and whatever else is needed to tell them apart."""
    texts = [
        "trained on " + ("clean images" if d == "clean" else readable(d))
        for d in domains
    ]
    kinds = [_kind(summary) for summary in summaries]
    if len(set(kinds)) > 1:
        texts = [f"{text}: {kind}" for text, kind in zip(texts, kinds, strict=True)]
    if len(set(texts)) < len(texts):
        names = [drawable(folder.resolve().name) for folder in folders]
        texts = [f"{t} ({name})" for t, name in zip(texts, names, strict=True)]
    return texts


def _kind(summary: dict[str, Any]) -> str:
    sparsity = summary.get("sparsity", 0.0)
    share = f"{100 * sparsity:.4g} % sparse" if sparsity else "dense"
    return f"{summary.get('method')} {summary.get('model')}, {share}"


def _curves(folder: Path, domain: str) -> list[Curve]:
    """The KL of every phase, and scores on one or two sets of test images."""
    events = run_files.read_events(folder)
    shifted = domain != "clean"
    own = "test_corrupted" if shifted else "test"
    curves = []
    for quantity in ("accuracy", "nll"):
        for split in dict.fromkeys((own, "test")):
            epochs, values = series(events, quantity, split)
            if not len(epochs):
                raise InputError(
                    f"--run: {folder} has no test curves; train with --test-every 1."
                )
            tested_on = "clean" if split == "test" else domain
            curves.append(Curve(quantity, tested_on, split == own, epochs, values))
    epochs, values = series(events, "kl")
    if values.any():  # a deterministic run logs zeros
        curves.append(Curve("kl", "", True, epochs, values))
    return curves


def _write_csv(runs: Sequence[Run], path: Path) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for run in runs:
            name = run.folder.resolve().name
            for curve in run.curves:
                about = name, run.trained_on, curve.quantity, curve.tested_on
                for epoch, value in zip(curve.epochs, curve.values, strict=True):
                    rows.writerow((*about, f"{epoch:.6g}", float(value)))
    return path

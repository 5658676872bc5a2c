"""Figures of scores and uncertainty over corruptions and severities.

Every function takes a report and gives a figure, or None where it has no such data.
Scores are those of each run's headline network.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from ssvi_jax.evaluation.figure_style import label_axes
from ssvi_jax.evaluation.run_style import WIDTH, colour, legend, line_look, title
from ssvi_jax.evaluation.shift.report.data import Report, headline

_SIDE_BY_SIDE = 3  # more runs need the whole width for their boxes
_SCORES = {
    "accuracy": "accuracy",
    "nll": "NLL (nats per image)",
    "ece": "ECE (15 bins)",
}
_UNCERTAINTIES = {
    "predictive_entropy": "Predictive entropy (total)",
    "expected_entropy": "Expected entropy (of the data)",
    "mutual_information": "Mutual information (of the model)",
    "logit_disagreement": "Logit disagreement (of the model)",
}
_ABREAST = 3  # panels that have room for their titles


def severity(report: Report) -> Figure | None:
    """Box plots of accuracy, NLL and ECE over the corruptions, by severity."""
    if not report.benchmark:
        return None
    beside = len(report.runs) <= _SIDE_BY_SIDE
    rows, columns = (1, 3) if beside else (3, 1)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(WIDTH, 3.9 if beside else 9.5), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, (score, text) in zip(axes.flat, _SCORES.items(), strict=True):
        _boxes(ax, report, score)
        label_axes(ax, "severity", text)
        ax.set_ylim(bottom=0)
    axes.flat[0].set_ylim(top=1.02)
    axes.flat[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    num = len(report.benchmark)
    title(figure, f"Scores by severity, spread over {_count(num, 'corruption')}")
    legend(figure, report.labels, thick=True)
    return figure


def uncertainty(report: Report) -> Figure | None:
    """Entropies, mutual information and logit disagreement against severity.

    Severity 0 are the clean images.
    """
    found = [
        name
        for name in _UNCERTAINTIES
        if any(report.has(headline(run), name) for run in report.runs)
    ]
    if not found or not report.benchmark:
        return None
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    columns = len(found) if len(found) <= _ABREAST else 2
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 3.4 * rows), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, name in zip(axes.flat, found, strict=True):
        unit = _lines(ax, report, name)
        label_axes(ax, "severity", f"{unit} per image")
        ax.set_title(_UNCERTAINTIES[name], loc="left", fontsize=11)
        ax.set_ylim(bottom=0)
    title(figure, "Uncertainty by severity, mean and quartiles over the corruptions")
    legend(figure, report.labels, marker=True)
    return figure


def _boxes(ax: Axes, report: Report, score: str) -> None:
    """Clean scores as diamonds, then a group of boxes for every severity."""
    width = 0.8 / len(report.runs)
    for index, run in enumerate(report.runs):
        offset = (index - (len(report.runs) - 1) / 2) * width
        network, look = headline(run), colour(index)
        cells = report.cells(network, score)
        ax.plot(offset, network["clean"][score], "D", color=look, markersize=5)
        box = ax.boxplot(
            list(cells.T),
            positions=np.arange(1, len(report.severities) + 1) + offset,
            widths=0.85 * width,
            whis=(0, 100),
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.4},
            boxprops={"facecolor": look, "edgecolor": look, "alpha": 0.75},
            whiskerprops={"color": look},
            capprops={"color": look},
        )
        for median in box["medians"]:
            median.set_solid_capstyle("butt")
    _severity_ticks(ax, report.severities)


def _lines(ax: Axes, report: Report, name: str) -> str:
    """The mean over corruptions; a band of quartiles while there are few runs.

    Returns:
      The unit that the axis has: information between samples can be tiny.
    """
    x = np.arange(len(report.severities) + 1)
    networks = {i: headline(run) for i, run in enumerate(report.runs)}
    networks = {i: n for i, n in networks.items() if report.has(n, name)}
    largest = max(report.cells(n, name).max() for n in networks.values())
    scale, unit = _unit(largest)
    for index, network in networks.items():
        cells, clean = report.cells(network, name) / scale, network["clean"][name]
        clean /= scale
        ax.plot(x, [clean, *cells.mean(axis=0)], **line_look(index, marker=True))
        if len(report.runs) <= _SIDE_BY_SIDE:
            low, high = np.percentile(cells, (25, 75), axis=0)
            band = {"color": colour(index), "alpha": 0.15, "linewidth": 0}
            ax.fill_between(x, [clean, *low], [clean, *high], **band)
    _severity_ticks(ax, report.severities)
    return unit


def _unit(largest: float) -> tuple[float, str]:
    """A power of ten to divide by, and how it reads; 1 for values of ordinary size."""
    if largest >= 0.01 or largest <= 0:
        return 1.0, "nats"
    power = int(np.floor(np.log10(largest)))
    return 10.0**power, f"$10^{{{power}}}$ nats"


def _severity_ticks(ax: Axes, severities: Sequence[int]) -> None:
    ax.set_xticks(range(len(severities) + 1), ["clean", *map(str, severities)])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""All figures of a corruption evaluation, from its results.json and examples.npz.

What an evaluation does not have (out-of-distribution sets, several runs, examples) is
left out. A run has the same colour in every figure.
"""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ssvi_jax.evaluation import figure_style
from ssvi_jax.evaluation.shift.report import (
    curves,
    example_plots,
    heat_maps,
    severity_plots,
)
from ssvi_jax.evaluation.shift.report.data import Report, read

FIGURES: dict[str, Callable[[Report], Figure | None]] = {
    "accuracy": heat_maps.accuracy,
    "difference": heat_maps.difference,
    "severity": severity_plots.severity,
    "reliability": curves.reliability,
    "uncertainty": severity_plots.uncertainty,
    "roc": curves.roc,
    "selective": curves.selective,
    "examples": example_plots.examples,
}
"""Name of the file → what draws it, in the order of a report."""


def make_figures(folder: str | Path) -> list[Path]:
    """Draws every figure that an evaluation allows.

    Args:
      folder: what an evaluation left: results.json and, for examples, examples.npz.

    Returns:
      Paths of the PNG files written to ``figures/``, of `FIGURES` in that order. Files
      of an earlier call that are no longer drawn are removed.

    Raises:
      InputError: a file is missing or damaged.
    """
    report = read(folder)
    figures = Path(folder) / "figures"
    figures.mkdir(exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        path, figure = figures / f"{name}.png", draw(report)
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            written.append(figure_style.save(figure, path))
    return written

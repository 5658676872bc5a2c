"""Scores under corruption, summed up over corruptions and severities.

A *cell* is one corruption at one severity, with the metrics of the model there. Only
the benchmark's corruptions enter a summary (Hendrycks and Dietterich, 2019); further
ones may be in `cells` and are left out. Errors and the mean corruption error are
fractions, NLL is in nats.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from ssvi_jax.core.errors import InputError, check_fraction

SCORES = ("accuracy", "nll", "brier", "ece", "ece_if_calibrated")
"""The metrics that a summary has, of clean and of corrupted data."""

CellScores = Mapping[str, Sequence[Mapping[str, float]]]
"""Corruption → the metrics at each of its severities, in order."""


def summarize(
    clean: Mapping[str, float], cells: CellScores, benchmark: Sequence[str]
) -> dict[str, float]:
    """Clean scores, and their means under corruption.

    Args:
      clean: metrics on the clean data, with all of `SCORES`.
      cells: metrics of every cell; further metrics and corruptions are ignored.
      benchmark: names of the corruptions that count; those without cells are left out.

    Returns:
      `SCORES` as in `clean`. The same after ``corrupted_``: the plain
      mean over the benchmark's cells. corruption_error: the mean over corruptions of
      the mean error over severities, error = 1 - accuracy; it differs from
      1 - corrupted_accuracy only where corruptions have unequal numbers of severities.
      Without any cell of the benchmark all keys but those of `clean` are missing.

    Raises:
      InputError: a metric is missing or not finite, an accuracy is outside [0, 1], or a
        corruption has no severities.
    """
    result = {score: _score(clean, score, "clean") for score in SCORES}
    names = [name for name in benchmark if name in cells]
    if not names:
        return result
    errors = [_errors("cells", cells, name) for name in names]
    for score in SCORES:
        result[f"corrupted_{score}"] = fmean(
            _score(cell, score, f"cells[{name!r}]")
            for name in names
            for cell in cells[name]
        )
    return result | {"corruption_error": fmean(map(fmean, errors))}


def mce(
    cells: CellScores, baseline_cells: CellScores, benchmark: Sequence[str]
) -> float:
    """Mean corruption error relative to a baseline, a fraction: 1 is as good as it.

    The mean over corruptions of Σ_s error / Σ_s baseline's error, s over severities
    (Hendrycks and Dietterich, 2019, section 3.2, who give it in percent).

    Args:
      cells: metrics of every cell, with accuracy.
      baseline_cells: the baseline's on the same data.
      benchmark: names of the corruptions that count, at least one.

    Raises:
      InputError: a name is missing on a side, severities differ in number, an accuracy
        is missing or outside [0, 1], or the baseline makes no error on a corruption:
        then the ratio is not defined, and the result has no such number.
    """
    if not benchmark:
        raise InputError("benchmark: got no names, allowed: at least one corruption.")
    for argument, side in (("cells", cells), ("baseline_cells", baseline_cells)):
        missing = [name for name in benchmark if name not in side]
        if missing:
            raise InputError(
                f"{argument}: got no cells of {', '.join(missing)}. Evaluate model and "
                "baseline on the same corruptions."
            )
    return fmean(_relative_error(cells, baseline_cells, name) for name in benchmark)


def _relative_error(cells: CellScores, baseline_cells: CellScores, name: str) -> float:
    """Σ_s error / Σ_s baseline's error of one corruption."""
    errors = _errors("cells", cells, name)
    baseline = _errors("baseline_cells", baseline_cells, name)
    if len(errors) != len(baseline):
        raise InputError(
            f"cells[{name!r}]: got {len(errors)} severities, the baseline has "
            f"{len(baseline)}; allowed: the same ones. Evaluate both alike."
        )
    if not any(baseline):
        raise InputError(
            f"baseline_cells[{name!r}]: the baseline makes no error, so that an error "
            "relative to it is not defined. Use more images or another baseline."
        )
    return math.fsum(errors) / math.fsum(baseline)


def _errors(argument: str, cells: CellScores, name: str) -> list[float]:
    """Error at each severity of one corruption."""
    where = f"{argument}[{name!r}]"
    if not cells[name]:
        raise InputError(f"{where}: got no severities, allowed: at least one.")
    accuracies = [_score(cell, "accuracy", where) for cell in cells[name]]
    return [1.0 - accuracy for accuracy in accuracies]


def _score(scores: Mapping[str, float], name: str, where: str) -> float:
    if name not in scores:
        raise InputError(
            f"{where}: got {', '.join(scores) or 'nothing'}, allowed: metrics with "
            f"{name}, as metrics.evaluate gives them."
        )
    value = float(scores[name])
    if name == "accuracy":
        check_fraction(f"{where}: accuracy", value, one_allowed=True)
    elif not math.isfinite(value):
        raise InputError(f"{where}: {name}: got {value}, allowed: a finite number.")
    return value

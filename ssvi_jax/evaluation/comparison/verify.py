"""A comparison against the numbers that it is expected to give."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import summary

TOLERANCES = {
    "accuracy": 0.01,
    "nll": 0.03,
    "ece": 0.01,
    "brier": 0.015,
    "mutual_information": 0.01,
    "mean_nll": 0.03,
    "corrupted_accuracy": 0.015,
    "corrupted_nll": 0.05,
    "corrupted_ece": 0.015,
    "corrupted_ece_if_calibrated": 0.01,
}
"""Least tolerance of a score in a reference; an area under a curve has 0.02."""

_RELATIVE = 0.01  # of counts and costs, which hardly depend on a seed
_STANDARD_ERRORS = 4.0
_TIMES = ("train_seconds", "predict_seconds")  # of the machine, not of the method


class Outside(NamedTuple):
    """A number that is not as expected.

    Attributes:
      method: of which method.
      metric: of which metric.
      value: what the comparison has; None: nothing.
      expected: what the reference has.
      tolerance: how far from it a value may be.
    """

    method: str
    metric: str
    value: float | None
    expected: float
    tolerance: float


def reference(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Reference numbers from a comparison: method → metric → value and tolerance.

    A score may be off by four standard errors of a difference of two such means, and at
    least by `TOLERANCES`; counts and costs by 1 %. Times are left out. The standard
    deviation of a seed is pooled over the methods that have several, because three
    seeds alone tell little of it, and one tells nothing.

    Args:
      comparison: what comparison.json holds.
    """
    methods = {
        method: {
            name: {
                "value": value["mean"],
                "tolerance": _tolerance(name, value, _spread(comparison, name)),
            }
            for name, value in found["metrics"].items()
            if name not in _TIMES
        }
        for method, found in comparison["methods"].items()
    }
    return {"about": comparison["about"], "methods": methods}


def _tolerance(name: str, value: Mapping[str, Any], spread: float) -> float:
    least = 0.02 if "auroc_" in name else TOLERANCES.get(name)
    if least is None:
        return _RELATIVE * abs(value["mean"])
    of_difference = spread * math.sqrt(2 / len(value["values"]))
    return max(least, _STANDARD_ERRORS * of_difference)


def _spread(comparison: Mapping[str, Any], name: str) -> float:
    """Standard deviation of a metric over seeds, pooled; 0 where all have one seed."""
    metrics = [found["metrics"] for found in comparison["methods"].values()]
    samples = [found[name]["values"] for found in metrics if name in found]
    squares = [(len(v) - 1) * statistics.variance(v) for v in samples if len(v) > 1]
    degrees = sum(len(v) - 1 for v in samples)
    return math.sqrt(sum(squares) / degrees) if squares else 0.0


def read_reference(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Method → metric → value and tolerance.

    Raises:
      InputError: the file is missing, damaged, or has no numbers.
    """
    advice = "give --reference, or make one with --write-reference"
    methods = summary.read_methods(path, advice)["methods"]
    try:
        found = {
            method: {
                name: (float(entry["value"]), float(entry["tolerance"]))
                for name, entry in metrics.items()
            }
            for method, metrics in methods.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: every metric needs a value and a tolerance ({error!r}); {advice}."
        ) from error
    if not any(found.values()):
        raise InputError(f"{path}: there is no number in it; {advice}.")
    return found


def check(
    comparison: Mapping[str, Any],
    expected: Mapping[str, Mapping[str, tuple[float, float]]],
) -> list[Outside]:
    """What is missing or further from the reference than its tolerance.

    Args:
      comparison: what comparison.json holds; what only it has is not looked at.
      expected: what `read_reference` returned.
    """
    outside = []
    for method, metrics in expected.items():
        found = comparison["methods"].get(method, {}).get("metrics", {})
        for name, (value, tolerance) in metrics.items():
            got = found[name]["mean"] if name in found else None
            # Not "> tolerance": NaN is outside too.
            if got is None or not abs(got - value) <= tolerance:
                outside.append(Outside(method, name, got, value, tolerance))
    return outside


def table(outside: Sequence[Outside], num_checked: int) -> str:
    """What is outside as text of at most 80 columns.

    Args:
      outside: what `check` returned.
      num_checked: how many numbers there were.
    """
    if not outside:
        return f"all {num_checked} numbers are within their tolerances"
    rule = "-" * 80
    head = f"{'method':<16}{'metric':<20}{'here':>14}{'reference':>15}{'±':>15}"
    lines = [f"{len(outside)} of {num_checked} numbers are outside", rule, head, rule]
    for row in outside:
        value = "missing" if row.value is None else f"{row.value:.6g}"
        lines.append(
            f"{row.method:<16}{row.metric:<20}{value:>14}{row.expected:>15.6g}"
            f"{row.tolerance:>15.2g}"
        )
    return "\n".join([*lines, rule])


def write(path: Path, numbers: Mapping[str, Any]) -> Path:
    """Writes a reference file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    return path

"""Differences between two methods of a comparison, seed by seed.

Runs of one seed share the order of their data and what is drawn of it, so the
difference of each pair varies less than the difference of the means.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ssvi_jax.evaluation.comparison import table

SCORES = ("accuracy", "nll", "ece", "corrupted_accuracy", "corrupted_nll")
"""What is compared."""


class Estimate(NamedTuple):
    """A number over seeds.

    Attributes:
      mean: over seeds.
      standard_error: s / √n; None for one seed.
      seeds: which.
    """

    mean: float
    standard_error: float | None
    seeds: list[int]


def over_seeds(
    combine: Callable[..., float], *found: Mapping[str, Any] | None
) -> Estimate | None:
    """A number of each seed that all have, and its mean.

    Args:
      combine: of a mapping from metric to number for each of `found`, the number.
      *found: entries of "methods" in a comparison.json; None: there is none.

    Returns:
      None if one of `found` is, no seed is shared, or a metric is missing.
    """
    if not found or any(each is None for each in found):
        return None
    methods = [each for each in found if each is not None]
    shared = set.intersection(*(set(each["seeds"]) for each in methods))
    seeds = sorted(shared)
    try:
        numbers = [combine(*(_of(each, seed) for each in methods)) for seed in seeds]
    except KeyError:
        return None
    if not numbers:
        return None
    error = None
    if len(numbers) > 1:
        error = statistics.stdev(numbers) / math.sqrt(len(numbers))
    return Estimate(statistics.fmean(numbers), error, seeds)


def _of(found: Mapping[str, Any], seed: int) -> dict[str, float]:
    place = found["seeds"].index(seed)
    return {name: each["values"][place] for name, each in found["metrics"].items()}


def differences(
    comparison: Mapping[str, Any], against: str
) -> dict[str, dict[str, Estimate]]:
    """Method → score → its difference to another method, paired over seeds.

    Args:
      comparison: what comparison.json holds.
      against: the other method; without it there are no differences.
    """
    methods = comparison["methods"]
    other = methods.get(against)
    found: dict[str, dict[str, Estimate]] = {}
    for name, own in methods.items():
        if name == against:
            continue
        pairs = {
            score: over_seeds(lambda a, b, s=score: a[s] - b[s], own, other)
            for score in SCORES
        }
        shown = {score: pair for score, pair in pairs.items() if pair is not None}
        if shown:
            found[name] = shown
    return found


def markdown(comparison: Mapping[str, Any], against: Sequence[str]) -> str:
    """The differences to some methods as Markdown tables, in the columns' units."""
    lines: list[str] = []
    for other in against:
        found = differences(comparison, other)
        if not found:
            continue
        heads = [table.metric(score).text for score in SCORES]
        lines += [f"Difference to `{other}`, paired over seeds:", ""]
        lines += [_row(["method", *heads, "seeds"]), _row(["---"] * (2 + len(heads)))]
        for name, pairs in found.items():
            cells = [_cell(pairs.get(score), score) for score in SCORES]
            seeds = len(next(iter(pairs.values())).seeds)
            lines.append(_row([f"`{name}`", *cells, str(seeds)]))
        lines.append("")
    return "\n".join(lines)


def _cell(pair: Estimate | None, score: str) -> str:
    if pair is None:
        return "-"
    column = table.metric(score)
    shown = f"{pair.mean * column.scale:+.{column.decimals}f}"
    if pair.standard_error is None:
        return shown
    return f"{shown} ± {pair.standard_error * column.scale:.{column.decimals}f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

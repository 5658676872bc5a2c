"""What the study says of a sparse posterior in a few numbers.

A number is a mean over the seeds that its runs share, with its standard error; where a
run is missing, or a metric, there is none.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from ssvi_jax.evaluation.comparison.pairs import over_seeds

OURS = "ssvi_ivon"

Metrics = Mapping[str, float]
"""Of one run."""


def _of(metric: str) -> Callable[[Metrics], float]:
    return lambda own: own[metric]


def _gain_of_samples(own: Metrics) -> float:
    return 1 - own["nll"] / own["mean_nll"]


def _corrupted_ratio(own: Metrics, other: Metrics) -> float:
    return own["corrupted_nll"] / other["corrupted_nll"]


def _auroc_difference(own: Metrics, other: Metrics) -> float:
    return _best_auroc(own) - _best_auroc(other)


def _best_auroc(own: Metrics) -> float:
    """Of the better score, the mean over sets of foreign images.

    Raises:
      KeyError: there are none, as of any metric that is missing.
    """
    sets = [name for name in own if name.startswith("auroc_")]
    if not sets:
        raise KeyError("auroc_*")
    best = [max(own[name], own.get(f"disagreement_{name}", 0.0)) for name in sets]
    return statistics.fmean(best)


NUMBERS: dict[str, tuple[str, str | None, Callable[..., float]]] = {
    "accuracy_30": ("thirty", None, _of("accuracy")),
    "accuracy_60": ("sixty", None, _of("accuracy")),
    "mutual_information": ("thirty", None, _of("mutual_information")),
    "nll_gain_of_samples": ("thirty", None, _gain_of_samples),
    "corrupted_nll_vs_rigl": ("thirty", "rigl", _corrupted_ratio),
    "corrupted_nll_vs_dense": ("thirty", "deterministic", _corrupted_ratio),
    "ece": ("thirty", None, _of("ece")),
    "corrupted_ece": ("thirty", None, _of("corrupted_ece")),
    "auroc_vs_rigl": ("thirty", "rigl", _auroc_difference),
    "auroc_vs_ensemble": ("five", "ensemble", _auroc_difference),
}
"""Name → part of the study, the method that ours is compared with, and how.

Accuracies (fractions), mutual information (nats) and calibration errors are of averaged
samples on test images. ``nll_gain_of_samples`` is the fraction by which their NLL is
below that of the mean network, ``corrupted_nll_vs_*`` a ratio of NLLs on corrupted
images, ``auroc_vs_*`` the difference of areas under the ROC curve on foreign images,
each method with its better score.
"""


def numbers(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every name of `NUMBERS` → mean, standard error, seeds, part and methods.

    Args:
      parts: part of the study → its comparison (what comparison.json holds).
    """
    found: dict[str, Any] = {}
    for name, (part, other, combine) in NUMBERS.items():
        methods = [OURS, other] if other else [OURS]
        there = parts.get(part, {}).get("methods", {})
        estimate = over_seeds(combine, *(there.get(method) for method in methods))
        if estimate is not None:
            found[name] = {**estimate._asdict(), "part": part, "methods": methods}
    return found

"""The numbers of a corruption evaluation, computed from kept predictions.

What `build` returns is results.json: see docs/results.md. Everything is a function of
the stored probabilities and labels, so new scores need no new predictions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssvi_jax import metrics
from ssvi_jax.evaluation.shift.kept_predictions import Predicted, Predictions
from ssvi_jax.evaluation.shift.subjects import Subject
from ssvi_jax.metrics import corruption_error, detection, selective, temperature


def build(
    predictions: Predictions,
    subjects: Sequence[Subject],
    *,
    benchmark: Sequence[str],
    extra: Sequence[str],
    severities: Sequence[int],
    ood: Sequence[str],
    baseline: str | None,
) -> list[dict[str, Any]]:
    """One entry a model: its description and the numbers of its networks.

    Args:
      predictions: of every model on every set.
      subjects: the models.
      benchmark: corruptions that averages are over.
      extra: corruptions that are reported but not averaged.
      severities: severities of every corruption, ascending.
      ood: names of the out-of-distribution sets.
      baseline: name of the model that corruption errors are relative to; where it
        makes no error on some corruption, there is no mCE.
    """
    runs = []
    for subject in subjects:
        read = _Reader(predictions, subject.name, benchmark, severities)
        networks = {
            network: _network(read, network, [*benchmark, *extra], ood)
            for network in read("clean").probs
        }
        runs.append(
            {
                "name": subject.name,
                "label": subject.label,
                **{k: v for k, v in subject.about.items() if v is not None},
                "headline": "mc" if "mc" in networks else "mean",
                "networks": networks,
            }
        )
    _unique_labels(runs)
    if baseline is not None and benchmark:
        _add_mce(runs, baseline, benchmark)
    return runs


class _Reader:
    """Predictions of one model by the name of a set."""

    def __init__(
        self,
        predictions: Predictions,
        subject: str,
        benchmark: Sequence[str],
        severities: Sequence[int],
    ):
        self._predictions, self._subject = predictions, subject
        self.benchmark, self.severities = benchmark, severities

    def __call__(self, name: str) -> Predicted:
        return self._predictions.read(self._subject, name)

    def at_severity(self, severity: int) -> Predicted:
        """All corruptions of the benchmark at one severity."""
        names = [f"{corruption}/{severity}" for corruption in self.benchmark]
        return self._predictions.pooled(self._subject, names)

    def shifted(self) -> Predicted:
        """The whole benchmark."""
        names = [f"{c}/{s}" for c in self.benchmark for s in self.severities]
        return self._predictions.pooled(self._subject, names)


def scores(found: Predicted, network: str, scale: float = 1.0) -> dict[str, float]:
    """`metrics.evaluate` of one network, its probabilities tempered by `scale`."""
    probs = found.probs[network]
    if scale == 1.0:
        return metrics.evaluate(probs, found.labels, *_each(found, network))
    return metrics.evaluate(temperature.apply(probs, scale), found.labels)


def _each(found: Predicted, network: str) -> tuple[np.ndarray | None, ...]:
    return found.entropies(network), found.log_odds(network)


def _network(
    read: _Reader, network: str, corruptions: Sequence[str], ood: Sequence[str]
) -> dict[str, Any]:
    clean, val = read("clean"), read("val")
    scale = temperature.fit(val.probs[network], val.labels)
    cells, tempered = {}, {}
    for name in corruptions:
        found = [read(f"{name}/{severity}") for severity in read.severities]
        cells[name] = [scores(f, network) for f in found]
        tempered[name] = [scores(f, network, scale) for f in found]
    before, after = scores(clean, network), scores(clean, network, scale)
    selected = {
        name: _selective(found, network)
        for name, found in (("clean", clean), ("shifted", read.shifted()))
    }
    outside = {name: read(f"ood/{name}") for name in ood}
    return {
        "clean": before,
        "val": scores(val, network),
        "cells": cells,
        "summary": corruption_error.summarize(before, cells, read.benchmark),
        "temperature": {
            "value": scale,
            "val_before": scores(val, network),
            "val_after": scores(val, network, scale),
            "clean": after,
            "summary": corruption_error.summarize(after, tempered, read.benchmark),
        },
        "ood": {n: _detections(clean, out, network) for n, out in outside.items()},
        "selective": {name: answers for name, (answers, _) in selected.items()},
        "curves": {
            "reliability": _reliabilities(read, network),
            "roc": {n: _rocs(clean, out, network) for n, out in outside.items()},
            "selective": {name: curve for name, (_, curve) in selected.items()},
        },
    }


def _ood_scores(found: Predicted, network: str) -> dict[str, np.ndarray]:
    return detection.scores(found.probs[network], *_each(found, network))


def _both(
    clean: Predicted, out: Predicted, network: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores inside and outside; those that both sets were kept with."""
    inside, outside = (_ood_scores(f, network) for f in (clean, out))
    return {k: (inside[k], outside[k]) for k in inside if k in outside}


def _detections(clean: Predicted, out: Predicted, network: str) -> dict[str, Any]:
    both = _both(clean, out, network)
    return {name: detection.detect(*pair)._asdict() for name, pair in both.items()}


def _rocs(clean: Predicted, out: Predicted, network: str) -> dict[str, Any]:
    curves = {}
    for name, pair in _both(clean, out, network).items():
        fpr, tpr = detection.roc_curve(*pair)
        curves[name] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    return curves


def _selective(
    found: Predicted, network: str
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Numbers, and the curve, of answering only the most confident predictions."""
    probs = found.probs[network]
    correct = probs.argmax(axis=1) == found.labels
    result = selective.evaluate(probs.max(axis=1), correct)
    coverage, accuracy = result.coverage.tolist(), result.accuracy.tolist()
    return {
        "aurc": result.aurc,
        "excess_aurc": result.excess_aurc,
        "accuracy_at": result.accuracy_at,
    }, {"coverage": coverage, "accuracy": accuracy}


def _reliabilities(read: _Reader, network: str) -> dict[str, Any]:
    sets = {"clean": read("clean")}
    sets |= {f"severity_{s}": read.at_severity(s) for s in read.severities}
    return {
        name: _bins(metrics.reliability(found.probs[network], found.labels))
        for name, found in sets.items()
    }


def _bins(bins: metrics.Reliability) -> dict[str, list]:
    filled = bins.count > 0
    return {
        "confidence": _or_null(bins.confidence, filled),
        "accuracy": _or_null(bins.accuracy, filled),
        "count": bins.count.tolist(),
    }


def _or_null(values: np.ndarray, present: np.ndarray) -> list[float | None]:
    return [float(v) if p else None for v, p in zip(values, present, strict=True)]


def _unique_labels(runs: list[dict[str, Any]]) -> None:
    labels = [run["label"] for run in runs]
    for run in runs:
        if labels.count(run["label"]) > 1:
            run["label"] = f"{run['label']} ({run['name']})"


def _add_mce(
    runs: Sequence[Mapping[str, Any]], baseline: str, benchmark: Sequence[str]
) -> None:
    (base,) = (run for run in runs if run["name"] == baseline)
    reference = base["networks"][base["headline"]]["cells"]
    if not all(any(s["accuracy"] < 1 for s in reference[name]) for name in benchmark):
        return  # relative to a baseline without errors there is no ratio
    for run in runs:
        for network in run["networks"].values():
            network["summary"]["mce"] = corruption_error.mce(
                network["cells"], reference, benchmark
            )

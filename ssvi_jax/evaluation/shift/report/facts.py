"""The numbers that the sentences of the HTML report are made of.

The words are in the page's templates. With many runs they speak of the best and the
worst one; the tables have all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssvi_jax.evaluation.shift.report.data import Report, headline
from ssvi_jax.metrics.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE

Facts = dict[str, Any]

_ALL_SPOKEN_OF = 3  # so many runs get a sentence each
_BENCHMARK_SIZE = 15  # corruptions of Hendrycks and Dietterich (2019)
_ALIKE = 0.01  # mutual information as a fraction of the predictive entropy
_MANY = 1000  # images of a cell whose ECE is hardly biased
_UNCERTAINTIES = ("predictive_entropy", "mutual_information", "logit_disagreement")
_SETS = {"clean": "clean", "shifted": "corrupted"}


def gather(report: Report) -> Facts:
    """Everything that the templates of the page name, but for tables and figures."""
    robustness = [_robustness(run) for run in report.runs]
    best, worst = int(np.argmax(robustness)), int(np.argmin(robustness))
    spoken = list(range(len(report.runs)))
    if len(spoken) > _ALL_SPOKEN_OF:
        spoken = list(dict.fromkeys([best, worst]))
    return {
        "report": report,
        "results": report.results,
        "about": report.results.get("about", {}),
        "dataset": report.results.get("dataset", {}),
        "labels": report.labels,
        "robustness": robustness,
        "best": best,
        "worst": worst,
        "close": _close(report, robustness[best], robustness[worst]),
        "smallest": _smallest(report),
        "relative": _relative(report, spoken),
        "spoken": [_of_run(report, index) for index in spoken],
        "detections": _detections(report),
        **_limits(report),
    }


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy over so many independent images: sqrt(p (1 - p) / n)."""
    return float(np.sqrt(accuracy * (1 - accuracy) / images))


def _robustness(run: Mapping[str, Any]) -> float:
    """Accuracy under corruption, else on clean images."""
    summary = headline(run)["summary"]
    return summary.get("corrupted_accuracy", summary["accuracy"])


def _close(report: Report, best: float, worst: float) -> Facts | None:
    """A difference within the standard error of a cell."""
    images = report.results["corruptions"].get("images_per_cell")
    if not images or not report.benchmark:
        return None
    difference, error = best - worst, standard_error(best, images)
    return {"difference": difference, "error": error} if difference < error else None


def _smallest(report: Report) -> list[tuple[str, str, int, float]]:
    """Name, unit, run and value of the least of every score that all runs have."""
    found = []
    summaries = [headline(run)["summary"] for run in report.runs]
    for score, name, unit in (("nll", "NLL", " nats"), ("ece", "ECE", "")):
        key = f"corrupted_{score}" if report.benchmark else score
        if all(key in summary for summary in summaries):
            scores = [summary[key] for summary in summaries]
            least = int(np.argmin(scores))
            found.append((name, unit, least, scores[least]))
    return found


def _relative(report: Report, spoken: list[int]) -> list[tuple[int, float]]:
    """Runs and their mean corruption errors relative to the baseline."""
    errors = {i: headline(report.runs[i])["summary"].get("mce") for i in spoken}
    errors.pop(report.baseline, None)
    return [(index, error) for index, error in errors.items() if error is not None]


def _of_run(report: Report, index: int) -> Facts:
    network = headline(report.runs[index])
    return {
        "index": index,
        "clean": network["clean"],
        "summary": network["summary"],
        "shifted": _shifted(report, network),
        "temperature": network.get("temperature"),
        "trends": _trends(report, network),
        "selection": _selection(network),
    }


def _shifted(report: Report, network: Mapping[str, Any]) -> Facts | None:
    """Accuracy over the benchmark: its mean, ends and extremes."""
    if not report.benchmark:
        return None
    cells = report.cells(network, "accuracy")
    kinds, levels = cells.mean(axis=1), cells.mean(axis=0)
    hardest, mildest = (
        {"name": report.benchmark[i], "accuracy": kinds[i]}
        for i in (kinds.argmin(), kinds.argmax())
    )
    return {
        "mean": cells.mean(),
        "fall": network["clean"]["accuracy"] - cells.mean(),
        "first": levels[0],
        "last": levels[-1],
        "hardest": hardest,
        "mildest": mildest,
    }


def _trends(report: Report, network: Mapping[str, Any]) -> list[Facts]:
    """Means over corruptions, clean first, and whether they grow at every step."""
    found = []
    for key in _UNCERTAINTIES:
        if report.benchmark and report.has(network, key):
            means = report.cells(network, key).mean(axis=0)
            levels = np.array([network["clean"][key], *means])
            grows = bool((np.diff(levels) > 0).all())
            found.append({"name": key, "levels": levels, "always": grows})
    return found


def _selection(network: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Set, and its accuracy over all images and over the most confident 80 %."""
    found = []
    for key, name in _SETS.items():
        at = network.get("selective", {}).get(key, {}).get("accuracy_at", {})
        if "0.8" in at and "1.0" in at:
            found.append((name, at["1.0"], at["0.8"]))
    return found


def _detections(report: Report) -> list[Facts]:
    """For every foreign set: the run and the score that detect it best."""
    best = []
    for name in report.ood:
        found = [
            {"name": name, "run": index, "score": score, **areas}
            for index, run in enumerate(report.runs)
            for score, areas in headline(run).get("ood", {}).get(name, {}).items()
        ]
        if found:
            best.append(max(found, key=lambda f: (f["auroc"], -f["run"], f["score"])))
    return best


def _limits(report: Report) -> Facts:
    """What the caveats speak of."""
    corruptions, runs = report.results["corruptions"], report.runs
    images = corruptions.get("images_per_cell")
    return {
        "images": images,
        "clean_images": report.results.get("dataset", {}).get("test_images"),
        "cells": len(report.benchmark) * len(report.severities),
        "cell": _cell(report, images),
        "biased": images and images < _MANY and report.benchmark,
        "kind": corruptions.get("kind"),
        "benchmark_size": _BENCHMARK_SIZE,
        "seeds": len({run.get("seed") for run in runs}),
        "at_border": _at_border(report),
        "alike": _alike(report),
        "sampled": any(run["headline"] == "mc" for run in runs),
    }


def _cell(report: Report, images: int | None) -> Facts | None:
    """The largest standard error of a cell: what is said of it holds for every run."""
    if not images or not report.benchmark:
        return None
    accuracies = [headline(run)["summary"]["corrupted_accuracy"] for run in report.runs]
    accuracy = min(accuracies, key=lambda value: abs(value - 0.5))
    return {"accuracy": accuracy, "error": standard_error(accuracy, images)}


def _at_border(report: Report) -> list[tuple[int, float]]:
    """Runs whose temperature ended at the border of the range that is searched."""
    found = enumerate(headline(run).get("temperature") for run in report.runs)
    scales = [(index, fitted["value"]) for index, fitted in found if fitted]
    return [each for each in scales if each[1] in (MIN_TEMPERATURE, MAX_TEMPERATURE)]


def _alike(report: Report) -> list[tuple[int, float]]:
    """Runs whose posterior samples predict nearly the same, and what they differ by."""
    found = []
    for index, run in enumerate(report.runs):
        clean = headline(run)["clean"]
        if clean.get("mutual_information") is not None:
            total = max(clean["predictive_entropy"], 1e-12)
            found.append((index, clean["mutual_information"] / total))
    return [each for each in found if each[1] < _ALIKE]

"""Tables of a corruption evaluation: one row an observation, numbers as they are.

The same rows become CSV files and the tables of the HTML report.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssvi_jax.evaluation.shift.report.data import Report, read
from ssvi_jax.metrics import corruption_error

Row = dict[str, Any]

_CLEAN = corruption_error.SCORES
_MORE = ("adaptive_ece", "classwise_ece", "predictive_entropy")
_SAMPLED = ("expected_entropy", "mutual_information", "logit_disagreement")
_SUMMARY = (
    *_CLEAN,
    *(f"corrupted_{score}" for score in _CLEAN),
    *("corruption_error", "mce"),
)
_ABOUT = (
    *("label", "method", "model", "seed", "sparsity"),
    *("weights_kept", "weights_total", "sigma_factor"),
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "cells": (
        *("run", "network", "corruption", "severity", "benchmark"),
        *(*_CLEAN, *_MORE, *_SAMPLED),
    ),
    "summary": ("run", *_ABOUT, "network", *_SUMMARY),
    "ood": ("run", "network", "ood_set", "score", "auroc", "aupr", "fpr95"),
    "selective": (
        *("run", "network", "set", "aurc", "excess_aurc", "coverage", "accuracy"),
    ),
    "temperature": ("run", "network", "temperature", "set", "scaled", *_CLEAN),
}
"""Table → its columns. Accuracy, errors and areas are fractions, NLL and entropies are
in nats; `scaled` and `benchmark` are True or False."""


def cells(report: Report) -> Iterator[Row]:
    """Metrics of every run, network, corruption and severity; clean is severity 0."""
    for run, kind, network in _networks(report):
        about = {"run": run["name"], "network": kind}
        clean = {"corruption": "clean", "severity": 0, "benchmark": False}
        yield {**about, **clean, **network["clean"]}
        for name in [*report.benchmark, *report.extra]:
            inside = name in report.benchmark
            for severity, cell in zip(
                report.severities, network["cells"][name], strict=True
            ):
                which = {"corruption": name, "severity": severity, "benchmark": inside}
                yield {**about, **which, **cell}


def summary(report: Report) -> Iterator[Row]:
    """What every run is, and the summary of every network of it."""
    for run, kind, network in _networks(report):
        about = {name: run.get(name) for name in _ABOUT}
        yield {"run": run["name"], **about, "network": kind, **network["summary"]}


def ood(report: Report) -> Iterator[Row]:
    """How well every score of every network detects every foreign set."""
    for run, kind, network in _networks(report):
        for name, scores in network.get("ood", {}).items():
            for score, found in scores.items():
                about = {"run": run["name"], "network": kind}
                yield {**about, "ood_set": name, "score": score, **found}


def selective(report: Report) -> Iterator[Row]:
    """Accuracy at every coverage, clean and shifted; areas repeat in every row."""
    for run, kind, network in _networks(report):
        for name, found in network.get("selective", {}).items():
            about = {"run": run["name"], "network": kind, "set": name}
            areas = {key: found[key] for key in ("aurc", "excess_aurc")}
            for coverage, accuracy in found["accuracy_at"].items():
                at = {"coverage": float(coverage), "accuracy": accuracy}
                yield {**about, **areas, **at}


def temperature(report: Report) -> Iterator[Row]:
    """Scores before and after temperature scaling on three sets."""
    for run, kind, network in _networks(report):
        if "temperature" not in network:
            continue
        found = network["temperature"]
        sets = {
            ("val", False): found["val_before"],
            ("val", True): found["val_after"],
            ("clean", False): network["clean"],
            ("clean", True): found["clean"],
            ("corrupted", False): _corrupted(network["summary"]),
            ("corrupted", True): _corrupted(found["summary"]),
        }
        for (name, scaled), scores in sets.items():
            if scores:
                about = {"run": run["name"], "network": kind}
                what = {"temperature": found["value"], "set": name, "scaled": scaled}
                yield {**about, **what, **scores}


TABLES: dict[str, Callable[[Report], Iterator[Row]]] = {
    "cells": cells,
    "summary": summary,
    "ood": ood,
    "selective": selective,
    "temperature": temperature,
}
"""Table → what gives its rows; a row may lack columns and may have more."""


def write_tables(folder: str | Path) -> list[Path]:
    """Writes every table of `TABLES` as CSV beside results.json.

    Args:
      folder: what an evaluation left.

    Returns:
      The files: UTF-8, a header line, columns of `COLUMNS`, numbers with all digits,
      empty fields where a network has no such score. A table without rows is a header.

    Raises:
      InputError: results.json is missing or damaged.
    """
    report = read(folder)
    written = []
    for name, rows in TABLES.items():
        path = Path(folder) / f"{name}.csv"
        with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
            writer = csv.DictWriter(
                file, COLUMNS[name], extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows(report))
        written.append(path)
    return written


def _networks(report: Report) -> Iterator[tuple[Mapping, str, Mapping]]:
    for run in report.runs:
        for kind, network in run["networks"].items():
            yield run, kind, network


def _corrupted(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores after ``corrupted_``, under their plain names."""
    prefix = "corrupted_"
    return {
        name.removeprefix(prefix): value
        for name, value in scores.items()
        if name.startswith(prefix)
    }

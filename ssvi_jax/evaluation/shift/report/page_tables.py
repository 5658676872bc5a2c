"""The tables of the HTML report: which columns, in which words, marked how."""

from collections.abc import Iterator
from typing import Any

from ssvi_jax.evaluation.run_style import readable
from ssvi_jax.evaluation.shift.report.columns import Column, Table, table
from ssvi_jax.evaluation.shift.report.csv_tables import TABLES
from ssvi_jax.evaluation.shift.report.data import Report, network_label

_RUN = Column("index", "model", "run")
_NETWORK = Column("network", "network")
_SETS = {"clean": "clean", "shifted": "corrupted"}
_COVERAGES = ("0.5", "0.8", "0.9", "0.95", "1.0")


def _scores(prefix: str = "", group: str = "") -> list[Column]:
    return [
        Column(f"{prefix}accuracy", "accuracy (%)", "percent", "high", group),
        Column(f"{prefix}nll", "NLL (nats)", "score", "low", group),
        Column(f"{prefix}brier", "Brier score", "score", "low", group),
        Column(f"{prefix}ece", "ECE", "score", "low", group),
        Column(f"{prefix}ece_if_calibrated", "ECE if calibrated", "score", group=group),
    ]


def tables(report: Report) -> dict[str, Table | None]:
    """All tables of the page by the name that its template has for them."""
    made = (models, summary, cells, temperature, ood, selective)
    return {make.__name__: make(report) for make in made}


def models(report: Report) -> Table | None:
    """What was evaluated."""
    columns = [
        _RUN,
        Column("name", "name"),
        Column("method", "method"),
        Column("model", "architecture"),
        Column("sparsity", "sparsity (%)", "percent"),
        Column("weights_kept", "weights kept", "count"),
        Column("weights_total", "of", "count"),
        Column("sigma_factor", "factor on σ", "score"),
        Column("seed", "training seed", "count"),
        Column("path", "file", "path"),
    ]
    rows = [{**run, "index": index} for index, run in enumerate(report.runs)]
    return table("The models", columns, rows, report.labels)


def summary(report: Report) -> Table | None:
    """Clean and corrupted scores of every network; the best in bold."""
    corrupted = "under corruption, mean over cells"
    columns = [
        *(_RUN, _NETWORK, *_scores(group="clean")),
        *_scores("corrupted_", corrupted),
        Column("corruption_error", "error (%)", "percent", "low", corrupted),
        Column("mce", "mCE (%)", "percent", "low", corrupted),
    ]
    rows = _indexed(report, "summary")
    return table("Scores of every network, best in bold", columns, rows, report.labels)


def cells(report: Report) -> Table | None:
    """Every corruption and severity, of each run's headline network."""
    columns = [
        _RUN,
        Column("corruption", "corruption"),
        Column("severity", "severity", "count"),
        *(column._replace(better="") for column in _scores()),
        Column("predictive_entropy", "entropy (nats)", "score"),
        Column("mutual_information", "mutual information (nats)", "score"),
        Column("logit_disagreement", "logit disagreement (nats)", "score"),
    ]
    heads = [run["headline"] for run in report.runs]
    rows = [
        {**row, "corruption": readable(row["corruption"])}
        for row in _indexed(report, "cells")
        if row["kind"] == heads[row["index"]]
    ]
    caption = "Every corruption and severity; 0 is clean. cells.csv has all networks"
    return table(caption, columns, rows, report.labels)


def temperature(report: Report) -> Table | None:
    """Scores as they are and with the fitted temperature."""
    names = {"val": "validation", "clean": "clean", "corrupted": "under corruption"}
    columns = [_RUN, _NETWORK, Column("temperature", "T", "score")]
    for score, head in (("ece", "ECE"), ("nll", "NLL (nats)")):
        for key, name in names.items():
            group = f"{head}, {name}"
            columns += [
                Column(f"{key} {score} {False}", "as it is", "score", "", group),
                Column(f"{key} {score} {True}", "with T", "score", "", group),
            ]
    wide: dict[tuple, dict[str, Any]] = {}
    for row in _indexed(report, "temperature"):
        into = wide.setdefault((row["index"], row["network"]), dict(row))
        into |= {f"{row['set']} {s} {row['scaled']}": row[s] for s in ("ece", "nll")}
    caption = "Temperature scaling, fitted on the clean validation images"
    return table(caption, columns, wide.values(), report.labels)


def ood(report: Report) -> Table | None:
    """Detection by every score; the best of each set in bold."""
    columns = [
        *(_RUN, _NETWORK, Column("ood_set", "foreign set"), Column("score", "score")),
        Column("auroc", "AUROC", "score", "high"),
        Column("aupr", "AUPR", "score", "high"),
        Column("fpr95", "FPR95 (%)", "percent", "low"),
    ]
    rows = [{**row, "score": readable(row["score"])} for row in _indexed(report, "ood")]
    caption = "Out-of-distribution detection, best of each set in bold"
    return table(caption, columns, rows, report.labels, by="ood_set")


def selective(report: Report) -> Table | None:
    """Areas and accuracies at fixed coverages; the best of each set in bold."""
    group = "accuracy (%) of the most confident"
    columns = [
        *(_RUN, _NETWORK, Column("set", "images")),
        Column("aurc", "AURC", "score", "low"),
        Column("excess_aurc", "excess AURC", "score", "low"),
        *(
            Column(c, f"{100 * float(c):g} %", "percent", "high", group)
            for c in _COVERAGES
        ),
    ]
    wide: dict[tuple, dict[str, Any]] = {}
    for row in _indexed(report, "selective"):
        key = (row["index"], row["network"], row["set"])
        name = _SETS.get(row["set"], row["set"])
        into = wide.setdefault(key, {**row, "set": name})
        into[str(row["coverage"])] = row["accuracy"]
    caption = "Selective prediction by the largest probability"
    return table(caption, columns, wide.values(), report.labels, by="set")


def _indexed(report: Report, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a table with the run's index, and its network in words."""
    index_of = {run["name"]: i for i, run in enumerate(report.runs)}
    for row in TABLES[name](report):
        index, kind = index_of[row["run"]], row["network"]
        label = network_label(report.runs[index], kind)
        yield {**row, "index": index, "kind": kind, "network": label}

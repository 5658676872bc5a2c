"""The table of a comparison: as text, Markdown and CSV."""

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_LABEL, _COLUMN, _WIDTH = 16, 16, 80


class Metric(NamedTuple):
    """A column of the table.

    Attributes:
      head: its name in the table.
      text: its name in full, with the unit.
      scale: what to multiply a number by for that unit.
      decimals: digits after the point; None: three significant digits.
    """

    head: str
    text: str
    scale: float = 1.0
    decimals: int | None = None


METRICS = {
    "accuracy": Metric("accuracy %", "accuracy (%)", 100, 2),
    "nll": Metric("NLL", "NLL (nats)", 1, 4),
    "ece": Metric("ECE", "ECE (15 bins)", 1, 4),
    "brier": Metric("Brier", "Brier score (sum over classes)", 1, 4),
    "mutual_information": Metric(
        "MI", "mutual information of the samples (nats)", 1, 4
    ),
    "mean_nll": Metric("mean NLL", "NLL of the mean network (nats)", 1, 4),
    "corrupted_accuracy": Metric("cA %", "accuracy on corrupted images (%)", 100, 2),
    "corrupted_nll": Metric("cNLL", "NLL on corrupted images (nats)", 1, 4),
    "corrupted_ece": Metric("cECE", "ECE on corrupted images", 1, 4),
    "corrupted_ece_if_calibrated": Metric(
        "cECE calibrated",
        "ECE that as many corrupted images would give exact confidences",
        1,
        4,
    ),
    "weights_total": Metric("parameters", "kernel weights", 1, 0),
    "weights_kept": Metric("non-zeros", "kernel weights kept", 1, 0),
    "state_bytes": Metric("state MB", "training state (MB)", 1e-6),
    "model_bytes": Metric("model file kB", "model file (kB)", 1e-3),
    "train_flops": Metric("train TFLOPs", "FLOPs of the training (10¹²)", 1e-12),
    "predict_flops": Metric("predict MFLOPs", "FLOPs of one prediction (10⁶)", 1e-6),
    "train_seconds": Metric("train min", "training time (minutes)", 1 / 60),
    "predict_seconds": Metric("predict µs", "prediction of one image (µs)", 1e6),
}
"""Name in comparison.json (fractions, nats, bytes, operations, seconds) → its column.
Every out-of-distribution set adds ``auroc_SET`` and, of a posterior,
``disagreement_auroc_SET``."""

CORRUPTED = (
    *("corrupted_accuracy", "corrupted_nll"),
    *("corrupted_ece", "corrupted_ece_if_calibrated"),
)
"""The metrics of corrupted images."""

_FOREIGN = {
    "auroc_": "predictive entropy",
    "disagreement_auroc_": "logit disagreement",
}

_GROUPS = {
    "test images": ("accuracy", "nll", "ece", "brier"),
    "test images, of posteriors": ("mutual_information", "mean_nll"),
    "corrupted test images": CORRUPTED,
    **{
        f"AUROC of the {score}, out-of-distribution images": start
        for start, score in _FOREIGN.items()
    },
    "size": ("weights_total", "weights_kept", "state_bytes", "model_bytes"),
    "cost": ("train_flops", "predict_flops", "train_seconds", "predict_seconds"),
}


def metric(name: str) -> Metric:
    """The column of a metric, out-of-distribution sets included."""
    for start, score in _FOREIGN.items():
        if name.startswith(start):
            where = name.removeprefix(start)
            return Metric(where, f"AUROC of the {score}, {where}", 1, 4)
    return METRICS[name]


def text(comparison: Mapping[str, Any]) -> str:
    """The table as text of at most 80 columns without a newline at its end.

    Args:
      comparison: what comparison.json holds.
    """
    methods = comparison["methods"]
    label = max([_LABEL, *(len(method) + 1 for method in methods)])
    per_block = (_WIDTH - label) // _COLUMN
    rule = "-" * (label + per_block * _COLUMN)
    lines = []
    for title, names in _groups(comparison):
        for start in range(0, len(names), per_block):
            part = names[start : start + per_block]
            heads = [metric(name).head for name in part]
            lines += [rule, title, _line("", heads, label), rule]
            lines += [
                _line(method, [cell(found["metrics"], name) for name in part], label)
                for method, found in methods.items()
            ]
    lines.append(rule)
    for note in _notes(comparison):
        lines += textwrap.wrap(note, _WIDTH)
    return "\n".join(lines)


def markdown(comparison: Mapping[str, Any]) -> str:
    """The same as Markdown: a table for every group of columns.

    Args:
      comparison: what comparison.json holds.
    """
    lines = []
    for title, names in _groups(comparison):
        heads = [metric(name).text for name in names]
        lines += [f"{title[0].upper()}{title[1:]}:", ""]
        lines += [_row(["method", *heads]), _row(["---"] * (1 + len(heads)))]
        lines += [
            _row([f"`{method}`", *(cell(found["metrics"], name) for name in names)])
            for method, found in comparison["methods"].items()
        ]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in _notes(comparison))]) + "\n"


def as_csv(comparison: Mapping[str, Any]) -> str:
    """One row a method: mean and standard error of every metric, in plain units.

    Args:
      comparison: what comparison.json holds.
    """
    names = [name for _, group in _groups(comparison) for name in group]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{end}" for name in names for end in ("", "_standard_error")]
    writer.writerow(["method", "seeds", *columns])
    for method, found in comparison["methods"].items():
        row: list[object] = [method, len(found["seeds"])]
        for name in names:
            value = found["metrics"].get(name, {})
            row += [value.get("mean"), value.get("standard_error")]
        writer.writerow(row)
    return file.getvalue()


def cell(metrics: Mapping[str, Any], name: str) -> str:
    """Mean ± standard error of a metric in its column's unit; "-" where it has none.

    An error of exactly 0 (sizes that no seed changes) is left out.

    Args:
      metrics: of one method in comparison.json.
      name: the metric's name.
    """
    if name not in metrics:
        return "-"
    column, value = metric(name), metrics[name]
    mean, error = value["mean"] * column.scale, value["standard_error"]
    shown = _number(mean, column.decimals)
    if not error:
        return shown
    digits = len(shown.partition(".")[2]) if "e" not in shown else None
    return f"{shown} ± {_number(error * column.scale, digits)}"


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _groups(comparison: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Title and metrics of every group that some method has."""
    methods = comparison["methods"].values()
    there = dict.fromkeys(name for found in methods for name in found["metrics"])
    for title, names in _GROUPS.items():
        if isinstance(names, str):
            names = [name for name in there if name.startswith(names)]
        shown = [name for name in names if name in there]
        if shown:
            yield title, shown


def _notes(comparison: Mapping[str, Any]) -> Iterator[str]:
    methods = comparison["methods"]
    counts = {method: len(found["seeds"]) for method, found in methods.items()}
    if set(counts.values()) == {1}:
        yield "one seed: no standard errors"
    elif counts:
        yield "mean ± standard error over " + _seeds(counts)
    for run, why in comparison["failures"].items():
        yield f"{run} failed: {why}"


def _seeds(counts: Mapping[str, int]) -> str:
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} seeds"
    each = ", ".join(f"{method} {count}" for method, count in counts.items())
    return f"seeds ({each}; of one seed there is none)"


def _line(label: str, cells: list[str], width: int) -> str:
    return f"{label:<{width}}" + "".join(f" {text:>{_COLUMN - 1}}" for text in cells)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "/") for text in cells) + " |"

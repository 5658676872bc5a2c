"""The table that a corruption evaluation prints at its end; plain text."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = (
    ("acc", "accuracy", 100.0, "5.1f"),
    ("NLL", "nll", 1.0, "6.3f"),
    ("ECE", "ece", 1.0, "6.3f"),
    ("cA", "corrupted_accuracy", 100.0, "5.1f"),
    ("cNLL", "corrupted_nll", 1.0, "6.3f"),
    ("cECE", "corrupted_ece", 1.0, "6.3f"),
)
_LABEL = 32


def shift_table(results: Mapping[str, Any]) -> str:
    """Clean and corrupted scores of every model and network, and its best AUROC.

    Args:
      results: what results.json holds.

    Returns:
      Lines of at most 80 columns without a newline at the end; accuracies in percent,
      NLL in nats.
    """
    rule = "-" * 80
    heads = "".join(f"{head:>7}" for head, *_ in _COLUMNS)
    lines = [rule, f"{'':<{_LABEL}}{heads}", rule]
    for run in results["runs"]:
        for kind, network in run["networks"].items():
            lines.append(_line(run, kind, network, results["samples"]))
    lines += [rule, *_ood_lines(results), rule] if results["ood"] else [rule]
    return "\n".join(lines)


def _line(run: Mapping, kind: str, network: Mapping, samples: int) -> str:
    what = f"{samples} samples" if kind == "mc" else "mean network"
    name = run["label"] if run["headline"] == "mean" else f"{run['label']}, {what}"
    if len(name) >= _LABEL:
        name = name[: _LABEL - 2] + "…"
    cells = "".join(
        f"{scale * network['summary'][key]:>7{form[1:]}}"
        for _, key, scale, form in _COLUMNS
    )
    return f"{name:<{_LABEL}}{cells}"


def _ood_lines(results: Mapping[str, Any]) -> list[str]:
    """AUROC by the score that detects best, named."""
    lines = ["AUROC of out-of-distribution images, by the best score of each model:"]
    for found in results["ood"]:
        for run in results["runs"]:
            scores = run["networks"][run["headline"]]["ood"][found["name"]]
            best = max(scores, key=lambda name: scores[name]["auroc"])
            text = f"{scores[best]['auroc']:.3f} by {best.replace('_', ' ')}"
            lines.append(f"  {found['name']:<15} {run['label']:<30} {text}")
    return lines

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
      Lines of at most 80 columns, but where the label of a model alone is longer,
      without a newline at the end; accuracies in percent, NLL in nats.
    """
    rule = "-" * 80
    heads = "".join(f"{head:>7}" for head, *_ in _COLUMNS)
    lines = [rule, f"{'':<{_LABEL}}{heads}", rule]
    for run in results["runs"]:
        lines += _lines(run, results["samples"])
    lines += [rule, *_chance_lines(results)]
    lines += [rule, *_ood_lines(results), rule] if results["ood"] else [rule]
    return "\n".join(lines)


def _lines(run: Mapping, samples: int) -> list[str]:
    """A line for each network; the label alone before them where one does not fit.

    Labels are never cut: what tells two models apart may be at their end.
    """
    kinds = {"mc": f"{samples} samples", "mean": "mean network"}
    networks = run["networks"]
    names = {kind: f"{run['label']}, {kinds[kind]}" for kind in networks}
    if run["headline"] == "mean":
        names = {kind: str(run["label"]) for kind in networks}
    head = []
    if any(len(name) >= _LABEL for name in names.values()):
        head = [run["label"]]
        names = {kind: f"  {kinds[kind]}" for kind in networks}
    return head + [_line(names[kind], found) for kind, found in networks.items()]


def _line(name: str, network: Mapping) -> str:
    cells = "".join(
        f"{scale * network['summary'][key]:>7{form[1:]}}"
        for _, key, scale, form in _COLUMNS
    )
    return f"{name:<{_LABEL}}{cells}"


def _chance_lines(results: Mapping[str, Any]) -> list[str]:
    """What of the ECE is due to the number of images."""
    lines = ["ECE to expect on as many images, by chance, if confidences were exact:"]
    for run in results["runs"]:
        summary = run["networks"][run["headline"]]["summary"]
        clean, corrupted = (
            summary[f"{where}ece_if_calibrated"] for where in ("", "corrupted_")
        )
        lines.append(f"  {run['label']:<46} {clean:.3f}, corrupted {corrupted:.3f}")
    return lines


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

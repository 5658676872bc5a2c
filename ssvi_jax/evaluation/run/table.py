"""The table that a run prints at its end, from its summary; plain text, 80 columns."""

import textwrap
from collections.abc import Mapping

_SCORES = (
    ("accuracy", "accuracy", lambda value: f"{100 * value:.2f} %"),
    ("NLL (nats)", "nll", lambda value: f"{value:.4f}"),
    ("Brier score", "brier", lambda value: f"{value:.4f}"),
    ("ECE (15 bins)", "ece", lambda value: f"{value:.4f}"),
)
_TWO_CLASSES = (
    ("AUROC", "auroc", lambda value: f"{value:.4f}"),
    ("AUPRC", "auprc", lambda value: f"{value:.4f}"),
)
_LABEL, _COLUMN = 28, 16


def summary_table(summary: Mapping) -> str:
    """The end-of-run table as text without a newline at its end.

    Args:
      summary: what a run writes to ``summary.json``. Whatever it lacks (a
        deterministic run has no sampled network, for example) is left out.

    Returns:
      Lines of at most 80 columns: what ran, scores on the test set for the sampled and
      the mean network (twice after training on corrupted images: on the clean and on
      the corrupted test images), cost beside dense VI, size.
    """
    sections = [
        [_title(summary)],
        _score_rows(summary, "test"),
        _score_rows(summary, "test_corrupted"),
        _cost_rows(summary),
        _size_rows(summary),
    ]
    rule = "-" * 80
    body = f"\n{rule}\n".join("\n".join(rows) for rows in sections if rows)
    return f"{rule}\n{body}\n{rule}"


def format_bytes(num_bytes: float) -> str:
    """Decimal units: 1 MB is 10⁶ bytes."""
    return _scaled(num_bytes, ("B", "kB", "MB", "GB", "TB"))


def format_flops(flops: float) -> str:
    """Decimal units: 1 MFLOPs is 10⁶ operations."""
    return _scaled(flops, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"))


def format_ratio(larger: float, smaller: float) -> str:
    """How many times `smaller` fits into `larger`, for example "18.3×"."""
    if smaller == 0:
        return "-"
    ratio = larger / smaller
    return f"{ratio:,.0f}×" if ratio >= 99.95 else f"{ratio:.1f}×"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        # 999.96 would print as 1000.0: it belongs to the next unit.
        if abs(value) < 999.95:
            digits = 0 if unit == units[0] else 1
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:,.1f} {units[-1]}"


def _row(label: str, *cells: str) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _title(summary: Mapping) -> str:
    names = (summary.get(name) for name in ("method", "model", "dataset", "backend"))
    title = " | ".join(str(name) for name in names if name is not None)
    if "train_corruption" in summary:
        kind, severity = summary["train_corruption"], summary["train_severity"]
        title += f" | trained on {kind}, severity {severity}"
    return textwrap.fill(title, 80)


def _score_rows(summary: Mapping, name: str) -> list[str]:
    test = summary.get(name, {})
    members = summary.get("members")
    mean = "members' means" if members else "mean network"
    heads = {"mc": _passes(summary), "mean": mean if "mc" in test else "network"}
    kinds = [kind for kind in heads if kind in test]
    if not kinds:
        return []
    clean = "test set, clean" if "test_corrupted" in summary else "test set"
    head = clean if name == "test" else "test set, corrupted"
    rows = [_row(head, *(heads[kind] for kind in kinds))]
    two = _TWO_CLASSES if "auroc" in test[kinds[0]] else ()
    for label, score, show in (*_SCORES, *two):
        values = [test[kind].get(score) for kind in kinds]
        cells = ["-" if value is None else show(value) for value in values]
        rows.append(_row(label, *cells))
    return rows


def _passes(summary: Mapping) -> str:
    """What the first column averages over."""
    members, samples = summary.get("members"), summary.get("samples")
    if members and not samples:
        return f"{members} members"
    sampled = {None: "sampled", 1: "1 sample"}.get(samples, f"{samples} samples")
    return f"{members} × {sampled}" if members else sampled


def _cost_rows(summary: Mapping) -> list[str]:
    rows = []
    for label, name, show in (
        ("training state", "state_bytes", format_bytes),
        ("training step", "train_step_flops", format_flops),
        ("prediction of one example", "predict_flops", format_flops),
    ):
        ours, theirs = summary.get(name), summary.get(f"{name}_dense_vi")
        if ours is not None and theirs is not None:
            ratio = format_ratio(theirs, ours)
            rows.append(_row(label, show(ours), show(theirs), ratio))
    head = _row("cost", "this run", "dense VI", "saved")
    return [head, *rows] if rows else []


def _size_rows(summary: Mapping) -> list[str]:
    rows = [
        ("sparsity", _sparsity(summary)),
        ("weights kept", _weights(summary)),
        ("training time", _minutes(summary)),
        ("model file", _model_file(summary)),
    ]
    return [f"{label:<{_LABEL}}{text}" for label, text in rows if text]


def _sparsity(summary: Mapping) -> str:
    if summary.get("sparsity") is None:
        return ""
    text = f"{100 * summary['sparsity']:.2f} % of all weights"
    prunable = summary.get("sparsity_prunable")
    return text if prunable is None else f"{text}, {100 * prunable:.2f} % of prunable"


def _weights(summary: Mapping) -> str:
    kept, total = summary.get("weights_kept"), summary.get("weights_total")
    return "" if kept is None or total is None else f"{kept:,} of {total:,}"


def _minutes(summary: Mapping) -> str:
    minutes = summary.get("train_minutes")
    return "" if minutes is None else f"{minutes:.1f} min"


def _model_file(summary: Mapping) -> str:
    sizes = summary.get("model_file") or {}
    if sizes.get("bytes") is None:
        return ""
    text = format_bytes(sizes["bytes"])
    theirs = sizes.get("bytes_dense_vi")
    if theirs is None:
        return text
    ratio = format_ratio(theirs, sizes["bytes"])
    return f"{text}, {ratio} smaller than dense VI ({format_bytes(theirs)})"

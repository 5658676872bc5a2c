"""The command `ssvi card`: a model card beside a model file, as Hugging Face reads it.

``ssvi card runs/cifar10-ssvi-s95`` writes README.md there: a head in YAML (library,
tags, data set, scores as a model index), then what `ssvi info` says, in Markdown.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ssvi_jax.core.command import program, run
from ssvi_jax.core.errors import InputError

if TYPE_CHECKING:
    from ssvi_jax.evaluation.contents import Contents

NAME = "README.md"
"""What Hugging Face calls a card."""

NETWORKS = {"mc": "samples", "mean": "mean network"}
METRICS = {
    "accuracy": "accuracy",
    "nll": "negative log-likelihood (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error (15 bins)",
}
"""Scores of a card: name in a summary → in words."""

TASKS = {"mimic3": "tabular-classification"}
"""Data set → Hugging Face's word for its task; images are classified else."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Writes a model card, README.md in Hugging Face's layout, beside a model file.

    What it says is read from the file and the run's summary; what the model is for and
    where it fails, only its author knows: the card has a place for it.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """Model file (.ssvi), or folder of a finished run."""
    name: str | None = None
    """Of the model; default: that of its folder."""
    license: str | None = None
    """Of the model, as Hugging Face spells it: apache-2.0, mit, ..."""
    overwrite: bool = False
    """Replace a card that is there."""


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.evaluation.model_card")
    command = tyro.cli(Command, args=list(argv), prog=prog)

    # Only now: the command line above is refused or explained without waiting for JAX.
    from ssvi_jax.evaluation import contents

    found = contents.read(command.path)
    file = Path(found.path)
    if not file.is_file():
        raise InputError(
            f"path: got {command.path}, whose training is not finished, allowed: a "
            "model file, or the folder of a finished run."
        )
    target = file.parent / NAME
    if target.exists() and not command.overwrite:
        raise InputError(
            f"path: {target} is there already; move it, or add --overwrite."
        )
    name = command.name or file.resolve().parent.name
    target.write_text(text(found, name, command.license), encoding="utf-8")
    print(f"wrote {target}")
    return 0


def text(found: "Contents", name: str, license: str | None = None) -> str:
    """The card.

    Args:
      found: what the model file holds.
      name: of the model.
      license: of the model; None: the card names none.
    """
    return f"---\n{_head(found, name, license)}---\n\n{_body(found, name)}"


def _head(found: "Contents", name: str, license: str | None) -> str:
    """YAML; every value is quoted as JSON, which YAML reads too."""
    method, *_ = found.facts.get("method", "unknown").split(",")
    tags = ["bayesian-neural-network", "sparse", "jax", "ssvi_jax", method]
    lines = [] if license is None else [f"license: {json.dumps(license)}"]
    lines += ["library_name: ssvi_jax", f"tags: {json.dumps(tags)}"]
    data = found.facts.get("data")
    scores = _scores(found)
    if data is None or not scores:
        return "\n".join(lines) + "\n"
    task = TASKS.get(data, "image-classification")
    lines += [f"pipeline_tag: {task}", f"datasets: {json.dumps([data])}"]
    lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    lines += [f"  - task: {json.dumps({'type': task})}"]
    lines += [f"    dataset: {json.dumps({'name': data, 'type': data})}"]
    lines += ["    metrics:"]
    lines += [
        "    - " + json.dumps({"type": metric, "value": value, "name": words})
        for metric, words, value in scores
    ]
    return "\n".join(lines) + "\n"


def _scores(found: "Contents") -> list[tuple[str, str, float]]:
    """Metric, in words, value; of the test set."""
    return [
        (metric, f"{METRICS[metric]}, {NETWORKS.get(network, network)}", scores[metric])
        for network, scores in found.scores.get("test", {}).items()
        for metric in METRICS
        if metric in scores
    ]


def _body(found: "Contents", name: str) -> str:
    file = Path(found.path).name
    parts = [
        f"# {name}",
        "A sparse Bayesian neural network, trained and stored by `ssvi_jax`.",
        _table(["", ""], [(name, words) for name, words in found.facts.items()]),
        "## Use",
        _use(found, file),
    ]
    if scores := _scores(found):
        rows = [(words, f"{value:.4g}") for _, words, value in scores]
        parts += ["## Scores on the test set", _table(["", ""], rows)]
    if found.layers:
        rows = [
            (
                f"`{path}`",
                "×".join(map(str, shape)),
                f"{kept:,}",
                f"{kept / max(math.prod(shape), 1):.4f}",
            )
            for path, shape, kept in found.layers
        ]
        parts += ["## Kernels", _table(["kernel", "shape", "kept", "density"], rows)]
    parts += ["## What it is for, and where it fails", "To be written by its author."]
    return "\n\n".join(parts) + "\n"


def _use(found: "Contents", file: str) -> str:
    own = found.facts.get("network", "").startswith("of the user's own")
    argument = ", module" if own else ""
    note = "\n\n`module` is the Flax module that was trained." if own else ""
    return (
        f'```python\nimport ssvi_jax\n\nfit = ssvi_jax.load("{file}"{argument})\n'
        f"found = fit.predict(x, samples=10)\n```{note}"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    run(main)

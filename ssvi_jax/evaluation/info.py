"""The command `ssvi info`: what a file or folder of a training holds.

``ssvi info runs/cifar10-ssvi-s95``, or with all as JSON
``ssvi info digits.ssvi --json``.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ssvi_jax.core import terminal
from ssvi_jax.core.command import program, run

if TYPE_CHECKING:
    from ssvi_jax.evaluation.contents import Contents

NETWORKS = {"mc": "samples", "mean": "mean network"}
"""What a summary calls the networks that it scores → what a person does."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Prints what a model file, a run or a folder of checkpoints holds.

    Method, network, sparsity, layers with their densities, size against a dense
    network, and the scores where a finished run has some. No data are needed.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """Model file (.ssvi), folder of a run, or folder of checkpoints."""
    json: bool = False
    """Print it as JSON."""


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.evaluation.info")
    command = tyro.cli(Command, args=list(argv), prog=prog)

    # Only now: the command line above is refused or explained without waiting for JAX.
    from ssvi_jax.evaluation import contents

    found = contents.read(command.path)
    if command.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print(terminal.fitted("\n".join(_lines(found))))
    return 0


def _lines(found: "Contents") -> Iterator[str]:
    yield f"{found.path}: {found.kind}"
    widest = max(map(len, found.facts))
    for name, text in found.facts.items():
        yield f"{name.ljust(widest)}  {text}"
    for split, networks in found.scores.items():
        for network, scores in networks.items():
            listed = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            which = NETWORKS.get(network, network)
            yield f"{split.replace('_', ' ')}, {which}:  {listed}"
    if found.layers:
        rows = [("kernel", "shape", "kept", "density")]
        for path, shape, kept in found.layers:
            density = f"{kept / max(math.prod(shape), 1):.4f}"
            rows.append((path, "×".join(map(str, shape)), f"{kept:,}", density))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield ""
        for row in rows:
            cells = zip(row, widths, strict=True)
            yield "  ".join(cell.ljust(width) for cell, width in cells).rstrip()


if __name__ == "__main__":
    run(main)

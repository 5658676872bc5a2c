"""The command `ssvi export`: a model file as ONNX or StableHLO, for other programs.

``ssvi export model.ssvi model.onnx``
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ssvi_jax.core.command import check_new, program, run


@dataclasses.dataclass(frozen=True)
class Command:
    """Writes a model file as ONNX or StableHLO, for programs without this package.

    ONNX holds the mean network, StableHLO also draws. What goes in and comes out is in
    docs/deploy.md.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model file (.ssvi). Of a network of your own as ONNX only."""
    out: Annotated[Path, tyro.conf.Positional]
    """File to write, .onnx or .stablehlo."""
    samples: int | None = None
    """Posterior samples of a .stablehlo program. Default: the mean network."""
    batch_size: int | None = None
    """Inputs a call. Default: any number."""
    overwrite: bool = False
    """Replace a file that is there."""


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.evaluation.export_model")
    command = tyro.cli(Command, args=list(argv), prog=prog)
    check_new("out", command.out, overwrite=command.overwrite)
    # Only now: the command line above is refused or explained without waiting for JAX.
    from ssvi_jax.training.export import export

    size = export(
        command.model,
        command.out,
        samples=command.samples,
        batch_size=command.batch_size,
    )
    print(f"wrote {command.out}, {size:,} bytes")
    return 0


if __name__ == "__main__":
    run(main)

"""Draws accuracy, KL and test loss of finished runs over epochs, in the same panels.

python experiments/cifar10.py --test-every 1 --out A
python experiments/cifar10.py --test-every 1 --out B --train-corruption fog
python experiments/curves.py --run A --run B --out FOLDER

The first run gives what a network learns of clean images, the second of foggy ones;
both are tested on clean images, the second on foggy test images as well.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ssvi_jax.core.command import parse_as, run


@dataclasses.dataclass(frozen=True)
class Command:
    """Draws accuracy, KL and test loss of finished runs over epochs.

    Solid lines: test images like the training images; dashed: the clean test images of
    a run that was trained on corrupted ones.
    """

    run: Annotated[
        tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")
    ]
    """Folder of a run trained with --test-every 1; may be given several times."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/curves")
    """Folder for the figures and curves.csv."""


def main(argv: Sequence[str]) -> int:
    """Parse, read, draw; the exit code."""
    command = parse_as(Command, argv)

    # Only now: --help must not wait for Matplotlib.
    from ssvi_jax.evaluation.run import training_curves

    runs = training_curves.read(command.run)
    for path in training_curves.write(runs, command.out):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run(main)

"""Times a training step with and without what `ops.fuse_training` does for it.

    python benchmarks/fusing.py --json results/benchmarks/fusing.json

About 4 minutes on 2 cores. ResNet-18 at batch 128, 95 % sparse, with every instruction
set of the processor; the contestants take turns.
"""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from train_step import DENSITY, Library, measure, summarize

from ssvi_jax.io import run_log
from ssvi_jax.ops import backend, custom_calls, fuse_training

BATCH, STEPS = 128, 12
FUSED, APART = "fused", "apart"


@contextmanager
def _compiling(isa: str, *, fused: bool) -> Iterator[None]:
    """What is compiled meanwhile takes this instruction set."""
    apart = mock.patch.object(fuse_training, "evaluate", lambda fn, *args: fn(*args))
    with mock.patch.dict(os.environ, {"SSVI_JAX_ISA": isa}):
        if fused:
            yield
        else:
            with apart:
                yield


def contestants(isa: str) -> dict[str, Library]:
    """The same training twice, compiled."""
    found = {}
    for name in (FUSED, APART):
        found[name] = Library(BATCH, DENSITY, STEPS, "sparse")
        with _compiling(isa, fused=name == FUSED):
            found[name]()
    return found


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description="A step with fused batch norms")
    parser.add_argument("--turns", type=int, default=7, help="turns that count")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    backend.choose("sparse", DENSITY)  # refuses where there are no compiled kernels
    result: dict[str, object] = run_log.environment()
    for isa in custom_calls.instruction_sets():
        if isa == "generic":
            continue
        title = f"one training step with {isa}"
        seconds = measure(contestants(isa), args.turns)
        result[isa] = summarize(title, BATCH, seconds, FUSED)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

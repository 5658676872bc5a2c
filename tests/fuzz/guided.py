"""One target whose inputs are guided by coverage (libFuzzer, by way of atheris).

    python -m tests.fuzz.guided NAME INPUTS SEED FOLDER

is what `run --guided` calls; the last line that it prints are the counts, as JSON. What
libFuzzer mutates is not the file but the edits that make it of a valid one (see
`mutate`): so checksums stay right where a target keeps them right, and command lines
and JSON values are mutated too.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

atheris: Any = importlib.import_module("atheris")  # not everybody has it

with atheris.instrument_imports(include=["ssvi_jax"]):
    from . import guard, mutate, run

NUM_SEEDS = 100


def main(name: str, inputs: int, seed: int, folder: Path) -> None:
    """Does not return: libFuzzer has no end of its own that Python would see."""
    files, corpus = folder / "files", folder / "corpus"
    for path in (files, corpus):
        path.mkdir(parents=True, exist_ok=True)
    (target,) = (target for target in run.all_targets(files) if target.name == name)
    for number in range(NUM_SEEDS):
        edits = mutate.draw(np.random.default_rng([seed, number]))
        (corpus / str(number)).write_bytes(mutate.to_bytes(edits))
    guard.install(memory_limit=run.MEMORY_LIMIT)
    counts = run.Counts()

    def one(data: bytes) -> None:
        made = target.make(mutate.from_bytes(data))
        counts.add(guard.call(made.read, made.size), data.hex())
        if counts.inputs == inputs:
            print(json.dumps(counts.as_dict()), flush=True)
            os._exit(0)

    # Time and memory are the guard's affair. What libFuzzer leaves goes to the folder.
    flags = [
        f"-artifact_prefix={folder}/",
        "-rss_limit_mb=0",
        f"-seed={seed + 1}",
        f"-max_len={mutate.MOST_BYTES}",
        "-timeout=0",
    ]
    atheris.Setup([sys.argv[0], *flags, "-len_control=0", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

"""The long mode: mutated inputs for every reader, as a table.

    python -m tests.fuzz.run --out results/fuzz

Inputs are functions of (seed, target, number), so a finding can be made again; the file
of the input at which a process died lies in the folder that is printed first.
"""

import dataclasses
import json
import shlex
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssvi_jax import cli, json_text, runlog
from ssvi_jax.errors import InputError

from . import array_targets, guard, model_targets, mutate, setting_targets
from .targets import Target

MEMORY_LIMIT = 6 * 2**30


@dataclasses.dataclass(frozen=True)
class Options:
    """Gives mutated inputs to everything that reads files or command lines."""

    scale: float = 1.0
    """Factor on the number of inputs of each target."""
    seed: int = 0
    """Seed of the mutations."""
    only: str = ""
    """Only targets with this in their name."""
    resume: bool = False
    """Keep the results that are in --out, and do the targets that are not."""
    out: Path = Path("runs/fuzz")
    """Folder of fuzz.json and fuzz.md."""

    def __post_init__(self):
        if not 0 < self.scale < 1000:
            raise InputError(
                f"--scale: got {self.scale}, allowed: above 0, below 1000."
            )


def all_targets(folder: Path) -> list[Target]:
    """Every reader, with its files in one folder."""
    return [
        *array_targets.targets(folder),
        *setting_targets.targets(folder),
        *model_targets.targets(folder),
    ]


def drawn(seed: int, name: str, number: int) -> list[mutate.Edit]:
    """The edits of one input."""
    return mutate.draw(np.random.default_rng([seed, zlib.crc32(name.encode()), number]))


def fuzz(target: Target, seed: int, inputs: int) -> dict[str, Any]:
    """Gives a target so many inputs; counts, worst figures and findings."""
    counts: Counter[str] = Counter()
    findings: dict[str, list[int]] = {}
    seconds = megabytes = 0.0
    begin = time.perf_counter()
    guard.reset_peak()
    for number in range(inputs):
        made = target.make(drawn(seed, target.name, number))
        outcome = guard.call(made.read, made.size)
        counts[outcome.kind] += 1
        seconds = max(seconds, outcome.seconds)
        megabytes = max(megabytes, outcome.megabytes)
        if outcome.kind == "finding":
            findings.setdefault(outcome.text, []).append(number)
    return {
        "inputs": inputs,
        **{kind: counts[kind] for kind in ("refused", "accepted", "finding")},
        "worst_seconds": round(seconds, 3),
        "worst_megabytes": round(megabytes, 1),
        "total_seconds": round(time.perf_counter() - begin, 1),
        "findings": {text: numbers[:5] for text, numbers in findings.items()},
    }


def main(argv: Sequence[str]) -> int:
    """The command; 1 if anything was found."""
    options = cli.parse_as(Options, argv)
    log = runlog.RunLog(options.out)
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=where))  # stays if we die
    print(f"inputs lie in {folder}", flush=True)
    chosen = [t for t in all_targets(folder) if options.only in t.name]
    guard.install(memory_limit=MEMORY_LIMIT)
    before = options.out / "fuzz.json"
    found: dict[str, Any] = {}
    if options.resume and before.exists():
        found = json_text.parse(before.read_bytes())["targets"]
    for target in (target for target in chosen if target.name not in found):
        inputs = max(1, round(options.scale * target.inputs))
        found[target.name] = fuzz(target, options.seed, inputs)
        print(target.name, json.dumps(found[target.name]), flush=True)
        _write(log, options, found)
    shutil.rmtree(folder)
    return int(any(result["finding"] for result in found.values()))


def _write(log: runlog.RunLog, options: Options, found: dict[str, Any]) -> None:
    values = {
        **runlog.environment(),
        "command": shlex.join(["python", "-m", "tests.fuzz.run", *sys.argv[1:]]),
        "seed": options.seed,
        "inputs": sum(result["inputs"] for result in found.values()),
        "limits": {
            "seconds": guard.LIMIT_SECONDS,
            "megabytes": guard.LIMIT_MEGABYTES,
            "times_the_input": guard.LIMIT_TIMES,
            "address_space_bytes": MEMORY_LIMIT,
        },
        "targets": found,
    }
    log.write_json("fuzz.json", values)
    (options.out / "fuzz.md").write_text(table(values), encoding="utf-8")


def table(values: dict[str, Any]) -> str:
    """The table in Markdown."""
    heads = ("target", "inputs", "refused", "accepted, answer right", "findings")
    rows = [_row(*heads, "worst s", "worst MB"), _row(*["---"] * 7)]
    for name, result in values["targets"].items():
        counts = (result[key] for key in ("inputs", "refused", "accepted", "finding"))
        worst = result["worst_seconds"], result["worst_megabytes"]
        rows.append(_row(name, *(f"{count:,}" for count in counts), *worst))
    rows.append(_row("all", f"{values['inputs']:,}", *[""] * 5))
    limits = values["limits"]
    about = (
        f"`{values['command']}`, seed {values['seed']}, on {values['processor']}, "
        f"{values['num_cores']} core(s), Python {values['python']}, "
        + ", ".join(f"{name} {v}" for name, v in values["versions"].items())
        + f", commit {values['git_commit']}. Allowed: {limits['seconds']:g} s and "
        f"{limits['megabytes']:g} MB + {limits['times_the_input']} times the input's "
        "size; a finding is whatever is neither a clear refusal nor a right answer."
    )
    texts = [
        f"- {name}: {text} (inputs {', '.join(map(str, numbers))})"
        for name, result in values["targets"].items()
        for text, numbers in result["findings"].items()
    ]
    return "\n".join(["# Mutated inputs", "", about, "", *rows, "", *texts, ""])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    cli.run(main)

"""The long mode: mutated inputs for every reader, as a table.

    python -m tests.fuzz.run --out results/fuzz
    python -m tests.fuzz.run --guided --out results/fuzz/guided

Inputs of the first are functions of (seed, target, number), so a finding can be made
again; findings of the second are told in hex. The file of the input at which a process
died lies in the folder that is printed first.
"""

import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssvi_jax.core import command
from ssvi_jax.core.errors import InputError
from ssvi_jax.io import json_text, run_log

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
    guided: bool = False
    """Let coverage guide the mutations (needs `pip install atheris`)."""
    resume: bool = False
    """Keep the results that are in --out, and do the targets that are not."""
    out: Path = Path("runs/fuzz")
    """Folder of fuzz.json and fuzz.md."""

    def __post_init__(self):
        if self.guided and importlib.util.find_spec("atheris") is None:
            raise InputError("--guided: atheris is not there; pip install atheris.")
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


class Counts:
    """What became of a target's inputs, and their worst figures."""

    def __init__(self):
        self.inputs = 0
        self._kinds: Counter[str] = Counter()
        self._findings: dict[str, list[int | str]] = {}
        self._seconds = self._megabytes = 0.0
        self._begin = time.perf_counter()
        guard.reset_peak()

    def add(self, outcome: guard.Outcome, name: int | str) -> None:
        """One more input, called so if it is a finding."""
        self.inputs += 1
        self._kinds[outcome.kind] += 1
        self._seconds = max(self._seconds, outcome.seconds)
        self._megabytes = max(self._megabytes, outcome.megabytes)
        if outcome.kind == "finding":
            self._findings.setdefault(outcome.text, []).append(name)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        kinds = ("refused", "accepted", "finding")
        return {
            "inputs": self.inputs,
            **{kind: self._kinds[kind] for kind in kinds},
            "worst_seconds": round(self._seconds, 3),
            "worst_megabytes": round(self._megabytes, 1),
            "total_seconds": round(time.perf_counter() - self._begin, 1),
            "findings": {text: names[:5] for text, names in self._findings.items()},
        }


def drawn(seed: int, name: str, number: int) -> list[mutate.Edit]:
    """The edits of one input."""
    return mutate.draw(np.random.default_rng([seed, zlib.crc32(name.encode()), number]))


def fuzz(target: Target, seed: int, inputs: int) -> dict[str, Any]:
    """Gives a target so many inputs; counts, worst figures and findings."""
    counts = Counts()
    for number in range(inputs):
        made = target.make(drawn(seed, target.name, number))
        counts.add(guard.call(made.read, made.size), number)
    return counts.as_dict()


def fuzz_guided(name: str, seed: int, inputs: int, folder: Path) -> dict[str, Any]:
    """The same with inputs that coverage guides, in a process of its own."""
    arguments = [name, str(inputs), str(seed), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        text = f"the process ended with code {done.returncode}"
        print(done.stderr[-3000:], file=sys.stderr)
        return {**Counts().as_dict(), "finding": 1, "findings": {text: []}}
    covered = list(map(int, re.findall(r"cov: (\d+)", done.stderr)))
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "edges": [covered[0], covered[-1]]}


def main(argv: Sequence[str]) -> int:
    """The command; 1 if anything was found."""
    options = command.parse_as(Options, argv)
    log = run_log.RunLog(options.out)
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=where))  # stays if we die
    print(f"inputs lie in {folder}", flush=True)
    chosen = [t for t in all_targets(folder) if options.only in t.name]
    if not options.guided:
        guard.install(memory_limit=MEMORY_LIMIT)
    before = options.out / "fuzz.json"
    found: dict[str, Any] = {}
    if options.resume and before.exists():
        found = json_text.parse(before.read_bytes())["targets"]
    for target in (target for target in chosen if target.name not in found):
        inputs = max(1, round(options.scale * target.inputs))
        if options.guided:
            own = folder / str(len(found))
            result = fuzz_guided(target.name, options.seed, inputs, own)
        else:
            result = fuzz(target, options.seed, inputs)
        found[target.name] = result
        print(target.name, json.dumps(found[target.name]), flush=True)
        _write(log, options, found)
    shutil.rmtree(folder)
    return int(any(result["finding"] for result in found.values()))


def _write(log: run_log.RunLog, options: Options, found: dict[str, Any]) -> None:
    values = {
        **run_log.environment(),
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
    guided = any("edges" in result for result in values["targets"].values())
    heads += ("worst s", "worst MB", *("edges at first, at last",) * guided)
    rows = [_row(*heads), _row(*["---"] * len(heads))]
    for name, result in values["targets"].items():
        counts = (result[key] for key in ("inputs", "refused", "accepted", "finding"))
        worst = result["worst_seconds"], result["worst_megabytes"]
        edges = (", ".join(map(str, result.get("edges", ()))),) * guided
        rows.append(_row(name, *(f"{count:,}" for count in counts), *worst, *edges))
    rows.append(_row("all", f"{values['inputs']:,}", *[""] * (len(heads) - 2)))
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
    command.run(main)

"""The long mode: many random faults, one at a time, as a table.

    python -m tests.faults.run --faults 200 --out results/faults

About 10 seconds a fault on one core. Kinds that need the right to mount are left out
without it, and the table says so.
"""

import contextlib
import dataclasses
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssvi_jax.core import command
from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.io import run_log

from . import pair, plans, strike


@dataclasses.dataclass(frozen=True)
class Options:
    """Strikes trainings with random faults and resumes them."""

    faults: int = 200
    """How many."""
    seed: int = 0
    """Seed of what happens and when."""
    kinds: tuple[str, ...] = tuple(plans.KINDS)
    """Which, one after the other."""
    minutes: float = 0.0
    """Begin no further fault after so many minutes; 0: no limit."""
    compiled: Path | None = None
    """Folder of compiled programs, kept for the next time."""
    out: Path = Path("runs/faults")
    """Folder of faults.json and faults.md."""

    def __post_init__(self):
        for kind in self.kinds:
            check_choice("--kinds", kind, plans.KINDS)
        if self.faults < 1 or self.minutes < 0:
            raise InputError(
                f"--faults, --minutes: got {self.faults}, {self.minutes}, allowed: at "
                "least 1, and 0 or more."
            )


def main(argv: Sequence[str]) -> int:
    """The command; 1 if a resumed run differed."""
    options = command.parse_as(Options, argv)
    log = run_log.RunLog(options.out)
    environment = run_log.environment()  # before our own results change the tree
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
        worlds = Worlds(Path(name), options.compiled, stack)
        kinds = list(options.kinds)
        if not strike.can_mount(Path(name)):
            kinds = [kind for kind in kinds if kind not in plans.NEED_MOUNT]
        rng = np.random.default_rng(options.seed)
        found: list[dict[str, Any]] = []
        for number in range(options.faults):
            kind = kinds[number % len(kinds)]
            world = worlds.of(kind)
            plan = plans.KINDS[kind](rng, world.extent)
            found.append({"kind": kind, "plan": plan, **strike.strike(world, plan)})
            print(json.dumps(found[-1]), flush=True)
            minutes = (time.perf_counter() - begin) / 60
            _write(log, options, environment, world, found, minutes)
            if options.minutes and minutes > options.minutes:
                break
    return int(any(fault["problems"] for fault in found))


class Worlds:
    """The undisturbed runs, of one process and of two, once a fault needs them."""

    def __init__(
        self, folder: Path, compiled: Path | None, stack: contextlib.ExitStack
    ):
        self._arguments, self._stack = (folder, compiled), stack
        self._found: dict[bool, strike.World] = {}

    def of(self, kind: str) -> strike.World:
        """The one that a kind of fault is compared with."""
        two = kind in plans.NEED_PAIR
        if two not in self._found:
            folder, compiled = self._arguments
            children = (pair.Pair if two else strike.Children)(
                folder / "two" if two else folder, compiled
            )
            self._found[two] = strike.prepare(self._stack.enter_context(children))
            print(f"undisturbed run: {self._found[two].extent}", flush=True)
        return self._found[two]


def _write(
    log: run_log.RunLog,
    options: Options,
    environment: dict[str, Any],
    world: strike.World,
    found: list[dict[str, Any]],
    minutes: float,
) -> None:
    """After every fault, so that a run that is stopped leaves its table."""
    values = {
        **environment,
        "command": shlex.join(["python", "-m", "tests.faults.run", *sys.argv[1:]]),
        "seed": options.seed,
        "faults_asked": options.faults,
        "minutes": minutes,
        "undisturbed": world.extent._asdict(),
        "flags": strike.FLAGS,
        "kinds": {kind: _count(kind, found) for kind in options.kinds},
        "faults": found,
    }
    log.write_json("faults.json", values)
    (options.out / "faults.md").write_text(table(values), encoding="utf-8")


def _count(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    faults = [fault for fault in found if fault["kind"] == kind]
    codes = [fault["code"] for fault in faults]
    return {
        "injected": len(faults),
        "resumed_bit_for_bit": sum(not fault["problems"] for fault in faults),
        "codes": {str(code): codes.count(code) for code in sorted(set(codes))},
        "resumed_at_steps": sorted({fault["resumed_at"] for fault in faults}),
        "problems": sorted({p for fault in faults for p in fault["problems"]}),
    }


def table(values: dict[str, Any]) -> str:
    """The table in Markdown."""
    heads = ("fault", "injected", "resumed bit for bit", "exit codes")
    rows = [_row(*heads, "resumed at step", "notes"), _row(*["---"] * 6)]
    kinds = values["kinds"]
    for kind, count in kinds.items():
        codes = ", ".join(f"{code}: {n}" for code, n in count["codes"].items())
        steps = ", ".join(map(str, count["resumed_at_steps"]))
        notes = "; ".join(count["problems"]) or ("" if codes else "not injected")
        same = count["resumed_bit_for_bit"]
        rows.append(_row(kind, count["injected"], same, codes, steps, notes))
    total = sum(count["injected"] for count in kinds.values())
    same = sum(count["resumed_bit_for_bit"] for count in kinds.values())
    rows.append(_row("all", total, same, "", "", ""))
    extent = values["undisturbed"]
    about = (
        f"`{values['command']}`, seed {values['seed']}, {values['minutes']:.0f} "
        f"minutes on {values['processor']}, {values['num_cores']} core(s), Python "
        f"{values['python']}, "
        + ", ".join(f"{name} {v}" for name, v in values["versions"].items())
        + f", commit {values['git_commit']}. A run has {extent['phases']} phases of "
        f"{extent['phase_steps']} steps with a checkpoint after each, and "
        f"{extent['touches']} file operations. Step 0: before the first checkpoint."
    )
    return "\n".join(["# Faults", "", about, "", *rows, ""])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    command.run(main)

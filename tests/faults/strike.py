"""One fault: strike a training, check what is left, resume it, compare."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from . import checks
from .plans import Extent, Plan

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--dataset", "digits", "--preset", "smoke", "--model", "mlp", "--width", "0.25"),
    *("--epochs", "2", "--samples", "2", "--no-figures"),
]
PHASE_STEPS = 10
DISK_SIZE = "24m"
LIMIT_SECONDS = 600.0
HANGS = 124
"""Code of a process that does not end."""


class Process(NamedTuple):
    """How a process ended: code, standard output, standard error, seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Children:
    """Processes that train, one at a time; see `child`. Use as a context manager.

    Args:
      folder: temporary; gets their output.
      compiled: folder of compiled programs, kept for the next time; default: one
        inside `folder`.
    """

    def __init__(self, folder: Path, compiled: Path | None = None):
        self.folder = folder
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(
                (compiled or folder / "compiled").absolute()
            ),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self._parent = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the parent of all processes."""
        self._parent.communicate()

    def train(self, folder: Path, plan: Plan, *flags: str) -> Process:
        """A training in `folder` to its end, whatever that is."""
        begin = time.perf_counter()
        pid = self.start(folder, plan, *flags)
        code = self.until_struck(folder, plan, pid)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            self.wait(LIMIT_SECONDS)
            code = HANGS
        return Process(code, *self.said(), time.perf_counter() - begin)

    def until_struck(self, folder: Path, plan: Plan, pid: int) -> int | None:
        """Sends a plan's signal; the exit code, or None if the process does not end."""
        code, is_running = None, True
        if "signal" in plan:
            while not (folder / "config.json").exists() and is_running:
                code = self.wait(0.002)
                is_running = code is None
            code = self.wait(plan["seconds"]) if is_running else code
            if code is None:
                os.kill(pid, plan["signal"])
        return self.wait(LIMIT_SECONDS) if code is None else code

    def said(self) -> tuple[str, str]:
        """Standard output and standard error of the last process."""
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return out, err

    def start(self, folder: Path, plan: Plan, *flags: str) -> int:
        """The number of a process that begins a training in `folder`."""
        script = [ROOT / "experiments" / "cifar10.py", *FLAGS, "--out", folder, *flags]
        request = {
            "plan": {"folder": str(folder), **plan},
            "script": list(map(str, script)),
            "out": str(self.folder / "out"),
            "err": str(self.folder / "err"),
        }
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if the process still runs after so long."""
        assert self._parent.stdout is not None
        ready = select.select([self._parent.stdout], [], [], seconds)[0]
        return int(self._parent.stdout.readline()) if ready else None


class Trains(Protocol):
    """`Children` or `pair.Pair`."""

    folder: Path

    def train(self, folder: Path, plan: Plan, *flags: str) -> Process:
        """A training in `folder` to its end, whatever that is."""
        ...


class World(NamedTuple):
    """What all faults share.

    Attributes:
      children: what trains.
      undisturbed: the run folder to compare with.
      whole: step → digest of every checkpoint of it.
      extent: how long it is.
    """

    children: Trains
    undisturbed: Path
    whole: dict[int, str]
    extent: Extent


def prepare(children: Trains) -> World:
    """Two undisturbed runs: of one all checkpoints are kept, the other is compared."""
    folder = children.folder
    kept, undisturbed = folder / "kept", folder / "undisturbed"
    report = folder / "touches"
    done = children.train(kept, {"keep_all": True})
    assert done.code == 0, done.err
    done = children.train(undisturbed, {"report": str(report)})
    assert done.code == 0, done.err
    begin = (undisturbed / "config.json").stat().st_mtime
    seconds = (undisturbed / "summary.json").stat().st_mtime - begin
    phases = [e for e in checks.events(undisturbed) if e["event"] == "phase"]
    assert checks.events(kept) == checks.events(undisturbed)
    extent = Extent(int(report.read_text()), seconds, len(phases), PHASE_STEPS)
    return World(children, undisturbed, checks.checkpoints(kept), extent)


def strike(world: World, plan: Plan) -> dict[str, Any]:
    """Lets one fault happen to a new training, and resumes it.

    Returns:
      ``code`` and ``said`` (a line) of the struck process, or of the one beside it if
      there are two; ``seconds`` of both trainings,
      ``resumed_at`` (step), and ``problems``: a list that is empty if all is well.
    """
    parent = world.children.folder / "struck"
    parent.mkdir()
    plan = dict(plan)
    if plan.get("disk"):
        _mount(parent)
        plan |= {"disk": str(parent), "filler": str(parent / "filler")}
    try:
        return _strike(world, plan, parent / "run")
    finally:
        if plan.get("disk"):
            subprocess.run(["umount", str(parent)], check=True)
        shutil.rmtree(parent)


def _strike(world: World, plan: Plan, folder: Path) -> dict[str, Any]:
    struck = world.children.train(folder, plan)
    if plan.get("disk"):
        subprocess.run(["mount", "-o", "remount,rw", plan["disk"]], check=True)
        Path(plan["filler"]).unlink(missing_ok=True)
    damaged = _damage(folder, plan) if "damage" in plan else []
    problems = _process_problems(struck, plan)
    problems += checks.after_fault(folder, world.whole, PHASE_STEPS, damaged)
    resumed = world.children.train(folder, {}, "--resume")
    if resumed.code:
        last = (resumed.err.strip().splitlines() or [""])[-1]
        problems.append(f"resuming ended with code {resumed.code}: {last}")
    else:
        problems += checks.same(folder, world.undisturbed)
    at = [line for line in resumed.out.splitlines() if "resumed at step" in line]
    return {
        "code": struck.code,
        "said": _why(struck)[:200],
        "resumed_at": int(at[0].split("step ")[1].split()[0]) if at else 0,
        "seconds": round(struck.seconds + resumed.seconds, 2),
        "problems": problems,
    }


def _process_problems(struck: Process, plan: Plan) -> list[str]:
    """What is wrong with how a struck process ended."""
    if "process" in plan:  # it is the other one that is asked about
        allowed = {2, -signal.SIGABRT, 0}
        if struck.code in allowed and _tells_of_the_other(struck):
            return []
        return [f"the other process ended with code {struck.code}: {struck.err[-500:]}"]
    kills = "damage" in plan or "kill" in str(plan.get("strikes"))
    if kills or plan.get("signal") == signal.SIGKILL:
        allowed = {-signal.SIGKILL, 0}
    elif "signal" in plan or "term" in str(plan.get("strikes")):
        allowed = {128 + signal.SIGTERM, -signal.SIGTERM, 0}
    elif "poison" in plan:
        allowed = {2}
    else:  # a fault of the disk may come when nothing is left to write
        allowed = {2, 0}
    problems = []
    if struck.code not in allowed:
        problems.append(f"ended with code {struck.code}, allowed: {sorted(allowed)}")
    if "Traceback" in struck.err:
        problems.append("a traceback")
    return problems


def _why(ended: Process) -> str:
    """The last line of what it said, or the one above JAX's list of addresses."""
    text = ended.err.replace(f"{tempfile.gettempdir()}{os.sep}", "")
    lines = text.strip().splitlines() or [""]
    fatal = [line for line in lines if "Terminating process because" in line]
    return [*lines, *fatal][-1]


def _tells_of_the_other(survivor: Process) -> bool:
    """Whether it says why it stopped, in one line: ours, or JAX's before it aborts."""
    said = {
        0: "",
        2: "error: another process of this training has ended",
        -signal.SIGABRT: "This most likely indicates that another task died",
    }[survivor.code]
    return said in survivor.err and "Traceback" not in survivor.err


def _damage(folder: Path, plan: Plan) -> list[int]:
    """Damages one file of the newest checkpoint; returns its step."""
    steps = sorted(int(p.name) for p in (folder / "checkpoints").glob("[0-9]*[0-9]"))
    if len(steps) < 2:
        return []
    rng = np.random.default_rng(plan["seed"])
    newest = folder / "checkpoints" / str(steps[-1])
    files = [p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size]
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    if plan["damage"] == "truncate":
        del data[place:]
    else:
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return steps[-1:]


def can_mount(folder: Path) -> bool:
    """Whether a file system may be mounted on `folder`."""
    try:
        _mount(folder)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def _mount(folder: Path) -> None:
    options = ["-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)

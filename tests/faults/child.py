"""Training processes that a fault strikes from within, at their n-th file operation.

    python tests/faults/child.py < REQUESTS

imports the libraries once, for they take longer than a small training, and forks a
process for every request: a line of JSON with the ``plan`` (see `plans`), the command
line ``script``, and the files ``out`` and ``err``. It answers with the process's number
and, when that has ended, its exit code. A checkpoint is saved after every phase. None
of this is in the package: the experiment runs as it is, under an audit hook.
"""

import atexit
import dataclasses
import errno
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plan = dict[str, Any]
Strike = Callable[[Plan, str, tuple[Any, ...]], bool]
"""Of a plan, an audit event and its arguments; True once it has struck for good."""

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}


def kill(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Ends the process without warning."""
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def term(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Asks the process to stop."""
    os.kill(os.getpid(), signal.SIGTERM)
    return True


def fill(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Fills the disk up to some bytes."""
    try:
        with open(plan["filler"], "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    size = os.path.getsize(plan["filler"])
    os.truncate(plan["filler"], max(0, size - plan["bytes_left"]))
    return True


def limit(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Lets no file grow beyond some bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (plan["bytes_left"], hard))
    return True


def remount(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Makes the disk read-only; busy as long as a file is open for writing."""
    command = ["mount", "-o", "remount,ro", plan["disk"]]
    return subprocess.run(command, capture_output=True).returncode == 0


def refuse(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Refuses Python's writes from now on, as a read-only disk does."""
    opens = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if opens or event in WRITES:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))
    return False


def set_back(plan: Plan, event: str, args: tuple[Any, ...]) -> bool:
    """Sets the clock back; the monotonic one goes on, as the system's does."""
    now, now_ns, seconds = time.time, time.time_ns, plan["seconds_back"]
    time.time = lambda: now() - seconds
    time.time_ns = lambda: now_ns() - int(seconds * 1e9)
    return True


STRIKES: dict[str, Strike] = {
    "kill": kill,
    "term": term,
    "fill": fill,
    "limit": limit,
    "remount": remount,
    "refuse": refuse,
    "set back": set_back,
}


class Hook:
    """Counts what touches the run folder, and strikes."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.left = [(at, STRIKES[name]) for name, at in plan.get("strikes", [])]
        self.touches = 0
        self.is_striking = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_striking or not args or self.plan["folder"] not in str(args[0]):
            return
        self.touches += 1
        self.is_striking = True
        try:
            self.left = [
                (at, strike)
                for at, strike in self.left
                if at > self.touches or not strike(self.plan, event, args)
            ]
        finally:
            self.is_striking = False


def poison(at: int) -> None:
    """Puts NaN into one image of the first batch of the phase that begins at a step."""
    from jax import numpy as jnp

    from ssvi_jax.training import phases

    one = phases.one

    def poisoned(session, progress, step, callbacks):
        if step == at:
            (images, labels), rows = session.feed.batches(step, 1)
            images = images.astype(jnp.float32).at[int(rows[0, 0])].set(jnp.nan)
            feed = dataclasses.replace(session.feed, data=(images, labels))
            session = dataclasses.replace(session, feed=feed)
        return one(session, progress, step, callbacks)

    phases.one = poisoned


def main(plan: Plan, script: list[str]) -> None:
    """Runs the script as if it had been called, with the plan's faults."""
    from ssvi_jax.io import checkpoint
    from ssvi_jax.training import saving

    saving.CHECKPOINT_SECONDS = 0.0
    if plan.get("keep_all"):
        checkpoint._NUM_LATEST = 1000
    if "poison" in plan:
        poison(plan["poison"])
    hook = Hook(plan)
    if "report" in plan:
        table = Path(plan["report"])
        atexit.register(lambda: table.write_text(str(hook.touches)))
    sys.addaudithook(hook)
    sys.argv = script
    runpy.run_path(script[0], run_name="__main__")


def serve() -> None:
    """Answers requests; returns in the process that fulfils one, and at the end."""
    # Nothing here may start a thread (as a first computation would): it would not be
    # there in the forked process.
    from ssvi_jax import data
    from ssvi_jax.data import digits, shifted
    from ssvi_jax.evaluation.run import figures, results, table
    from ssvi_jax.training import train

    del data, figures, table, results, train, shifted
    digits.read()  # imports scikit-learn
    warnings.filterwarnings("ignore", message="os.fork")
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        for number, path in enumerate((os.devnull, request["out"], request["err"])):
            flags = (
                os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            )
            os.dup2(os.open(path, flags), number)
        main(request["plan"], request["script"])
        return


if __name__ == "__main__":
    serve()

"""What a command prints into a pipe is there as it happens, not at its end."""

import os
import subprocess
import sys

import pytest
import smoke_run

WAITER = """
import runpy, sys
from ssvi_jax.training import phases

one, last = phases.one, int(sys.argv[1])

def waits(session, progress, step, callbacks):
    if step == last:
        sys.stderr.write("waiting\\n")
        sys.stderr.flush()
        sys.stdin.readline()
    return one(session, progress, step, callbacks)

phases.one = waits
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script and stops it before the phase that begins at a step."""

FLAGS = [*smoke_run.TINY, "--epochs", "2", "--no-figures"]


def printed_before(step, script, *flags):
    """Standard output of a script until the phase that begins at a step."""
    path = smoke_run.ROOT / "experiments" / script
    command = [sys.executable, "-c", WAITER, step, path]
    environment = os.environ | {"PYTHONPATH": str(smoke_run.ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)
    with subprocess.Popen(
        list(map(str, [*command, *flags])),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.readline()
        os.set_blocking(process.stdout.fileno(), False)
        found = process.stdout.read() or b""
        process.kill()
        assert said == b"waiting\n", process.stderr.read()
    return found.decode()


@pytest.mark.parametrize(
    ("step", "script", "flags", "lines"),
    [
        (0, "methods.py", ["--methods", "deterministic"], ["data: ", "run 1 of 1: "]),
        (20, "cifar10.py", ["--method", "deterministic"], ["data: ", "epoch   1/2"]),
    ],
)
def test_lines_come_as_they_happen(step, script, flags, lines, tmp_path):
    if script == "methods.py":
        flags = [*flags, "--seeds", "1", "--ood", "none"]
    out = printed_before(step, script, *FLAGS, *flags, "--out", tmp_path / "run")
    for line in lines:
        assert line in out
    assert out.count("epoch ") == step // 20

"""One tiny run of the real command for each method besides SSVI, shared by tests."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import smoke_run


@functools.cache
def run(method):
    """An uninterrupted run by the command: its folder and what it said."""
    parent = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = Path(parent) / "run"
    flags = ["--method", method, "--out", folder]
    flags += ["--no-figures"] * (method != "rigl")
    outcome = smoke_run.command(*smoke_run.TINY, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    return folder, outcome.out


def summary_of(method):
    """Its summary.json."""
    return json.loads((run(method)[0] / "summary.json").read_text())

"""Disks that are full or cannot be written to: told, nothing lost, and no hanging."""

import asyncio
import gc
import signal
import subprocess
import sys
from collections.abc import Coroutine

import orbax.checkpoint as ocp
import pytest
from etils import epath

from ssvi_jax.io.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGXFSZ"), reason="needs file size limits"
)


def said(code: str, *arguments: object) -> list[str]:
    """The lines that a program prints; it must say nothing else."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


FULL_DISK = """
import resource, signal, sys
import numpy as np
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.core.errors import InputError

noise = np.random.default_rng(0).bytes(300_000)
tree = {str(i): np.frombuffer(noise, np.uint8) + np.uint8(i) for i in range(30)}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Checkpoints(sys.argv[1], {}) as saved:
    saved.save(1, {"x": tree["0"][:1000]})
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    saved.save(2, tree)
    try:
        saved.wait()
    except InputError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    saved.save(3, tree)
with Checkpoints(sys.argv[1], {}) as saved:
    print(saved.steps)
"""


def test_a_full_disk_is_an_error_and_keeps_what_was_saved(tmp_path):
    """Of arrays that fail together, those that fail last print nothing."""
    error, steps = said(FULL_DISK, tmp_path)
    assert error.startswith(f"{tmp_path}: a checkpoint could not be written (")
    assert steps == "[1, 3]"


CLOSED = """
import resource, signal, sys
import numpy as np
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.core.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with Checkpoints(sys.argv[1], {}) as saved:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
        saved.save(1, {"x": np.arange(1000)})
        saved.save(2, {"x": np.arange(1000)})
except InputError as error:
    print(error)
"""


def test_closing_after_a_failed_save_repeats_the_advice(tmp_path):
    """Orbax raises a failed save's bare error again when it is closed."""
    (line,) = said(CLOSED, tmp_path)
    assert line.startswith(f"{tmp_path}: a checkpoint could not be written (")
    assert line.endswith("Free space or choose a folder that is writable.")


READ_ONLY = """
import errno, os, sys, threading
import numpy as np
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.core.errors import InputError

def refuse(event, args):
    if event == "os.mkdir" and sys.argv[1] in str(args[0]):
        raise OSError(errno.EROFS, "Read-only file system", str(args[0]))

try:
    with Checkpoints(sys.argv[1], {}) as saved:
        saved.save(1, {"x": np.arange(1000)})
        saved.wait()
        sys.addaudithook(refuse)
        saved.save(2, {"x": np.arange(1000)})
except InputError as error:
    print(error)
print([t.name for t in threading.enumerate() if "Signal" in type(t).__name__])
os._exit(0)
"""


def test_a_folder_that_cannot_be_made_leaves_no_thread_waiting_for_it(tmp_path):
    """Else the process stays for minutes after it has said what is wrong."""
    error, threads = said(READ_ONLY, tmp_path)
    assert "could not be written ([Errno 30] Read-only file system" in error
    assert threads == "[]"


def forget(failing: Coroutine) -> None:
    """Lets a task fail whose error nobody asks for, as Orbax does with all but one."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(failing)
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    del task
    gc.collect()


async def ours() -> None:
    raise OSError("ours")


def test_errors_that_orbax_forgets_print_no_traceback(tmp_path, caplog):
    """Which of several failing tasks it forgets is a matter of microseconds."""
    Checkpoints(tmp_path / "checkpoints", {}).close()
    (tmp_path / "file").touch()
    folder = epath.Path(tmp_path / "file" / "1")
    forget(ocp.path.atomicity.AtomicRenameTemporaryPath.from_final(folder).create())
    assert caplog.text == ""
    forget(ours())
    assert "Task exception was never retrieved" in caplog.text
    assert "OSError: ours" in caplog.text

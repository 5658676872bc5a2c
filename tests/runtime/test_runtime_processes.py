"""The runtime in children of a fork, and where no more threads can begin."""

import subprocess
import sys

import numpy as np
import pytest
import runtime_models
import smoke_run

from ssvi_jax import runtime

pytestmark = [
    pytest.mark.skipif(
        not runtime.library_path().exists(), reason="the runtime was not compiled"
    ),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no fork"),
]

BEGIN = """
import os, resource, sys, threading
import numpy as np
from ssvi_jax import runtime

x, model = np.load(sys.argv[2]), runtime.load(sys.argv[1])
"""

FORK = """
expected = model.predict(x, threads={parent}).probabilities
child = os.fork()
if not child:
    found = model.predict(x, threads={child}).probabilities
    raise SystemExit(not (found == expected).all())
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORK_WHILE_ANOTHER_PREDICTS = """
model.predict(x)  # what Python imports late is imported now
work = dict(x=np.repeat(x, 100, axis=0), samples=300, threads=2)
busy = threading.Thread(target=lambda: model.predict(**work), daemon=True)
busy.start()
busy.join(0.02)
assert busy.is_alive()
child = os.fork()
if not child:
    model.predict(x, threads=2)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

END_WHILE_ANOTHER_PREDICTS = """
work = dict(x=np.repeat(x, 100, axis=0), samples=3000, threads=2)
busy = threading.Thread(target=lambda: model.predict(**work), daemon=True)
busy.start()
busy.join(0.2)
assert busy.is_alive()
"""

FEW_THREADS = """
expected = model.predict(x, threads=1).probabilities
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
limit = held + 300 * 2**20  # of 200 stacks, 8 MiB each as a rule
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for _ in range(2):
    assert (model.predict(x, threads=200).probabilities == expected).all()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model file and inputs of it."""
    folder = tmp_path_factory.mktemp("files")
    module, shape = runtime_models.KINDS["cnn"]
    x = runtime_models.inputs(shape, 3)
    runtime_models.fitted(module, x).save(folder / "model.ssvi")
    np.save(folder / "x.npy", np.asarray(x, np.float32))
    return folder / "model.ssvi", folder / "x.npy"


def run(program: str, files) -> None:
    """In a process of its own, which has a minute."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *map(str, files)],
        cwd=smoke_run.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("parent", "child"), [(2, 1), (2, 3), (2, 2), (1, 2)])
def test_a_model_works_in_a_child(files, parent, child):
    run(FORK.format(parent=parent, child=child), files)


def test_a_child_need_not_wait_for_a_thread_that_it_has_not(files):
    run(FORK_WHILE_ANOTHER_PREDICTS, files)


def test_a_process_may_end_while_a_thread_predicts(files):
    for _ in range(3):
        run(END_WHILE_ANOTHER_PREDICTS, files)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_cannot_begin_are_done_without(files):
    run(FEW_THREADS, files)

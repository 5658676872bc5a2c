"""The page of docs/ about deployment: its C program, and Python without JAX."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runtime_models
import smoke_run

from ssvi_jax import runtime

pytestmark = pytest.mark.skipif(
    not runtime.library_path().exists(), reason="the runtime was not compiled"
)

PAGE = (smoke_run.ROOT / "docs" / "deploy.md").read_text()
COMPILER = shlex.split(
    os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or ""
)

WITHOUT_JAX = """
import sys
for name in ("jax", "jaxlib", "flax", "optax", "scipy", "safetensors", "orbax"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from ssvi_jax import runtime
model = runtime.load("digits.ssvi")
found = model.predict(np.fromfile("digit.f32", np.float32)[None], samples=10, seed=0)
print(int(found.labels[0]), found.probabilities.max(), found.entropy[0])
ours = {name for name in sys.modules if name.startswith("ssvi_jax.")}
assert ours == {
    *("ssvi_jax.core", "ssvi_jax.core.errors", "ssvi_jax.runtime"),
    *("ssvi_jax.runtime.binding", "ssvi_jax.runtime.model"),
}, ours
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page, and what this process predicts for them."""
    folder = tmp_path_factory.mktemp("deploy")
    module, shape = runtime_models.KINDS["mlp"]
    x = runtime_models.inputs(shape, 2)
    runtime_models.fitted(module, x).save(folder / "digits.ssvi")
    x[0].tofile(folder / "digit.f32")
    return folder


def expected(folder):
    x = np.fromfile(folder / "digit.f32", np.float32)[None]
    return runtime.load(folder / "digits.ssvi").predict(x, samples=10, seed=0)


def ran(*command, folder):
    paths = os.pathsep.join([str(smoke_run.ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_python_needs_numpy_alone(folder):
    label, probability, entropy = ran(sys.executable, "-c", WITHOUT_JAX, folder=folder)
    want = expected(folder)
    assert int(label) == want.labels[0]
    assert float(probability) == pytest.approx(want.probabilities.max(), abs=1e-6)
    assert float(entropy) == pytest.approx(want.entropy[0], abs=1e-6)


@pytest.fixture(scope="module")
def classify(folder):
    """The program of the page, compiled as the page says."""
    if not COMPILER:
        pytest.skip("there is no C compiler")
    (program,) = re.findall(r"```c\n(.*?)```", PAGE, re.DOTALL)
    assert len(program.splitlines()) <= 36
    (folder / "classify.c").write_text(program)
    (line,) = re.findall(r"^ +(cc .*)$", PAGE, re.MULTILINE)
    where = str(runtime.library_path().parent)
    arguments = shlex.split(line.replace("$DIR", shlex.quote(where)))
    ran(*COMPILER, "-Wall", "-Wextra", "-Werror", *arguments[1:], folder=folder)
    return folder / "classify"


def test_the_program_in_c(classify, folder):
    (run,) = re.findall(r"^ +(\./classify .*)$", PAGE, re.MULTILINE)
    label, *scores = ran(*shlex.split(run), folder=folder)
    want = expected(folder)
    assert int(label) == want.labels[0]
    found = [want.probabilities.max(), want.entropy[0], want.mutual_information[0]]
    assert list(map(float, scores)) == pytest.approx(found, abs=2e-6)


def test_the_program_in_c_says_what_is_wrong(classify, folder):
    done = subprocess.run(
        [classify, "none.ssvi", "digit.f32"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "there is no such file" in done.stderr

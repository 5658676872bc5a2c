"""An installation without a C++ compiler: all works, slower, and a line says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import smoke_run

pytestmark = [pytest.mark.slow, pytest.mark.system]

PACKED = ("ssvi_jax", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md")


def python(*arguments, folder, **environment):
    """A Python process in a folder that the checkout cannot be imported from."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package, installed by pip where no compiler works."""
    folder = tmp_path_factory.mktemp("install")
    source, target = folder / "source", folder / "target"
    # A copy, for what was compiled or built in the checkout would be installed too.
    source.mkdir()
    for name in (*PACKED, "LICENSE"):
        if (smoke_run.ROOT / name).is_dir():
            without = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(smoke_run.ROOT / name, source / name, ignore=without)
        else:
            shutil.copy(smoke_run.ROOT / name, source)
    done = python(
        *("-m", "pip", "install", "--verbose", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--target", target, source),
        folder=folder,
        CC="false",
        CXX="false",
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    said = [line for line in log.splitlines() if "no compiled sparse kernels" in line]
    assert len(said) == 1, log
    assert "ssvi_jax: no compiled sparse kernels, slower on a CPU" in said[0]
    assert not list(target.rglob("_sparse*"))
    return target


def train(installed, *flags):
    """What `ssvi train` does there, without the scripts of the checkout."""
    return python(
        *(installed / "bin" / "ssvi", "train"),
        *(*smoke_run.TINY, "--no-figures", "--samples", "1"),
        *("--sparsity", "0.95", "--epochs", "1", "--out", "run", *flags),
        folder=installed.parent,
        PYTHONPATH=f"{installed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        JAX_PLATFORMS="cpu",
    )


def test_auto_takes_xla_and_says_why(installed):
    done = train(installed)
    assert done.returncode == 0, done.stderr
    assert "the sparse kernels were not compiled; with a C++17 compiler" in done.stdout
    assert "ssvi | mlp | digits | xla" in done.stdout


def test_sparse_is_refused(installed):
    done = train(installed, "--backend", "sparse")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--backend: got sparse, but the sparse kernels were not" in done.stderr

"""Quick tests with the oldest and the newest packages, on every Python that is here.

    python tests/project/versions.py
    python tests/project/versions.py --only 3.13-oldest
    python tests/project/versions.py --only newest

Environments are made by uv below .versions/ and kept. Oldest are the lower bounds of
pyproject.toml, of compiled packages the first from there on with a wheel for that
Python; newest what the index has.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
SHOWN = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
TESTS = (
    *("tests/ops/test_sparse_ops.py", "tests/ops/test_fuse_training.py"),
    *("tests/ops/test_fuse_prediction.py", "tests/ops/test_lowering.py"),
    *("tests/vi/test_inference.py", "tests/networks/test_adapters.py"),
    "tests/networks/test_tracing.py",
    *("tests/networks/test_evaluation_mode.py", "tests/io/test_artifact.py"),
)
"""What meets JAX and Flax where they move: traces, custom calls, modules, files."""
COMPILED = (
    *("numpy", "scipy", "matplotlib", "scikit-learn"),
    *("pillow", "array-record", "safetensors"),
)
"""What is compiled for one Python, and whose source nobody has to build."""
DEVELOPMENT = ("pytest", "hypothesis", "mpmath", "setuptools")


def interpreters() -> dict[str, str]:
    """Version → a Python of it on this machine: uv's, on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = {}
    for version in PYTHONS:
        asked = [_uv(), "python", "find", "--no-python-downloads", version]
        done = subprocess.run(asked, capture_output=True, text=True)
        others = sorted(pyenv.glob(f"{version}.*/bin/python"))
        if done.returncode == 0:
            found[version] = done.stdout.strip()
        elif others:
            found[version] = str(others[-1])
    return found


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        sys.exit("uv is missing: pip install -r requirements-dev.txt")
    return uv


def install(python: str, resolution: str, folder: Path) -> Path:
    """Makes an environment with the package; its Python."""
    own, done = folder / "bin" / "python", folder / ".installed"
    asked = (ROOT / "pyproject.toml").stat().st_mtime
    if not done.exists() or done.stat().st_mtime < asked:
        subprocess.run(
            [_uv(), "venv", "-q", "--clear", "-p", python, folder], check=True
        )
        pip = [_uv(), "pip", "install", "-q", "-p", own]
        subprocess.run([*pip, *development()], check=True, cwd=ROOT)
        flags = ["--resolution", RESOLUTIONS[resolution]]
        flags += [f"--only-binary={package}" for package in COMPILED]
        subprocess.run([*pip, *flags, "-e", ".[experiments]"], check=True, cwd=ROOT)
        done.touch()
    return own


def development() -> list[str]:
    """What the tests need, as requirements-dev.txt asks for it."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    asked = [line.partition("#")[0].strip() for line in lines]
    return [one for one in asked if re.split(r"\W", one)[0] in DEVELOPMENT]


def versions(python: Path) -> str:
    """What was installed, in a line."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    asked = [python, "-c", code, *SHOWN]
    numbers = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    pairs = zip(SHOWN, numbers.split(), strict=True)
    return ", ".join(f"{name} {number}" for name, number in pairs)


def main() -> int:
    """Tests every pair, or the one asked for; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", help="PYTHON-oldest, PYTHON-newest, or newest: of all"
    )
    only = parser.parse_args().only
    pairs = {
        f"{version}-{resolution}": (python, resolution)
        for version, python in interpreters().items()
        for resolution in RESOLUTIONS
    }
    if only == "newest":
        only = list(pairs)[-1]
    if only and only not in pairs:
        parser.error(f"--only: got {only}, allowed here: {', '.join(pairs)}")
    failed = []
    for name, (python, resolution) in pairs.items():
        if only in (None, name) and not _passes(name, python, resolution):
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all pass")
    return 1 if failed else 0


def _passes(name: str, python: str, resolution: str) -> bool:
    started = time.monotonic()
    own = install(python, resolution, ROOT / ".versions" / name)
    print(f"{name}: {versions(own)}", flush=True)
    # The extension of this checkout is built for one Python; the others have their own.
    flags = ["-q", "-p", "no:cacheprovider", "-m", "not network"]
    flags += ["-n", "2", "--dist", "loadfile"]
    done = subprocess.run([own, "-m", "pytest", *flags, *TESTS], cwd=ROOT)
    print(
        f"{name}: exit {done.returncode}, {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())

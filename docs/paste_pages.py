"""Runs every page's code as someone would paste it who has the wheel and nothing else.

    python docs/paste_pages.py dist/ssvi_jax-0.2.0-cp311-cp311-linux_x86_64.whl
    python docs/paste_pages.py WHEEL --only tutorials/devices.md

Makes an environment, installs the wheel into it with the extra that the pages name, and
runs the cells of each page in order, in an empty folder and a process of its own. Says
what each page took and what it wrote to stderr; the exit code is 1 if one fails.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

DOCS = Path(__file__).parent
EXTRA = "experiments"
"""What the pages say to install besides."""
CELL = re.compile(r"```{code-cell} ipython3\n(?:---\n.*?\n---\n)?(.*?)```", re.DOTALL)


def install(wheel: Path, folder: Path) -> Path:
    """Makes an environment with the wheel; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = [python, "-m", "pip", "install", "-q", f"{wheel.resolve()}[{EXTRA}]"]
    subprocess.run([*asked, "--disable-pip-version-check"], check=True)
    return python


def paste(page: Path, python: Path) -> bool:
    """Runs the cells of a page; whether they all ran."""
    cells = CELL.findall(page.read_text(encoding="utf-8"))
    said = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "pasted.py")
        script.write_text("\n".join(cells), encoding="utf-8")
        done = subprocess.run(
            [python, script],
            cwd=folder,
            env={**said, "MPLBACKEND": "agg"},
            capture_output=True,
            text=True,
        )
    passed = bool(cells) and done.returncode == 0
    name, seconds = page.relative_to(DOCS), time.monotonic() - began
    word = "ran" if passed else "FAILED"
    print(f"{name}: {len(cells)} cells, {seconds:.0f} s, {word}", flush=True)
    for line in done.stderr.splitlines()[-20:]:
        print(f"    {line}")
    return passed


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--only", help="one page, as tutorials/devices.md")
    asked = parser.parse_args()
    pages = [*sorted(DOCS.glob("tutorials/*.md")), *sorted(DOCS.glob("concepts/*.md"))]
    if asked.only:
        pages = [DOCS / asked.only]
    with tempfile.TemporaryDirectory() as folder:
        python = install(asked.wheel, Path(folder))
        ran = [paste(page, python) for page in pages]
    print(f"{sum(ran)} of {len(pages)} pages ran")
    return 0 if all(ran) else 1


if __name__ == "__main__":
    sys.exit(main())

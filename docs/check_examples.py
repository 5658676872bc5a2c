"""Runs the examples that no notebook of the site has: docstrings, and guides.

    python docs/check_examples.py

Docstrings by `doctest`; of every guide its blocks of Python in order, as if pasted.
"""

import doctest
import importlib
import os
import re
import sys
import tempfile
from pathlib import Path

import ssvi_jax

DOCS = Path(__file__).parent
TESTED = ("fit.md",)
"""Guides whose examples the tests run (`tests/project/test_readme.py`)."""
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def docstrings() -> tuple[int, int]:
    """How many examples of docstrings there are, and how many of them fail."""
    attempted = failed = 0
    root = Path(ssvi_jax.__path__[0])
    for path in sorted(root.rglob("*.py")):
        if ">>>" in path.read_text():
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            found = doctest.testmod(importlib.import_module(name))
            attempted, failed = attempted + found.attempted, failed + found.failed
    return attempted, failed


def guides() -> list[str]:
    """The guides that were run; an example that fails raises."""
    run = []
    for path in sorted(DOCS.glob("*.md")):
        blocks = BLOCK.findall(path.read_text())
        if not blocks or path.name in TESTED:
            continue
        scope: dict[str, object] = {}
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"{path.name}, example {number}", "exec"), scope)
        run.append(path.name)
    return run


def main() -> int:
    """The command; returns the exit code."""
    attempted, failed = docstrings()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pages = guides()
        os.chdir(DOCS)
    print(f"{attempted} lines of docstrings, {failed} fail; ran {', '.join(pages)}")
    return 1 if failed or not attempted else 0


if __name__ == "__main__":
    sys.exit(main())

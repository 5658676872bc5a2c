"""What an import costs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter that ran `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def foreign(modules: set[str], own: set[str]) -> set[str]:
    """The modules that are neither the standard library's nor of the packages `own`."""
    known = sys.stdlib_module_names | own
    return {name for name in modules if name.partition(".")[0] not in known}


def test_importing_the_package_loads_nothing_else():
    added = modules_after("import ssvi_jax") - modules_after("pass")
    assert {name for name in added if not name.startswith("ssvi_jax")} == set()


def test_the_core_costs_jax_optax_and_numpy_only():
    base = modules_after("import jax, optax, numpy")
    core = [f"ssvi_jax.vi.{path.stem}" for path in (ROOT / "ssvi_jax/vi").glob("*.py")]
    names = [name.removesuffix(".__init__") for name in core]
    added = modules_after(f"import {', '.join(names)}") - base
    assert set(names) <= added
    assert foreign(added, {"ssvi_jax", "jax", "jaxlib", "optax", "numpy"}) == set()


def test_a_heavy_import_would_be_seen():
    base = modules_after("import jax, optax, numpy")
    added = modules_after("import jax, optax, numpy, flax.struct") - base
    assert "flax.struct" in foreign(added, {"jax", "jaxlib", "optax", "numpy"})

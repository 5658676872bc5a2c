"""The repository's own rules: light imports, no pickle, documented, small, in step."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "ssvi_jax").rglob("*.py"))
SOURCES = [
    path
    for folder in ("ssvi_jax", "experiments", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def per_file(paths: list[Path]):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda path: str(path.relative_to(ROOT))
    )


# What an import costs ----------------------------------------------------------------


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


# What the source must not do ---------------------------------------------------------


def pickle_uses(tree: ast.AST) -> list[str]:
    """Imports of pickling modules and calls with allow_pickle other than False."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [name for name in names if name.partition(".")[0] in PICKLING]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            literal = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if literal else ["allow_pickle"]
    return found


@per_file(SOURCES)
def test_no_pickle(path):
    assert pickle_uses(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "import os, dill.source",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
    ],
)
def test_pickle_would_be_seen(source):
    assert len(pickle_uses(ast.parse(source))) == 1


def test_pickle_refused_by_name_is_allowed():
    assert pickle_uses(ast.parse("np.load(f, allow_pickle=False)")) == []


def loads_that_do_not_refuse(tree: ast.AST) -> list[str]:
    """Calls of NumPy's readers that do not say that they refuse pickles."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("np.load", "numpy.load", "read_array"))
        and "allow_pickle" not in {keyword.arg for keyword in node.keywords}
    ]


@per_file([path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts])
def test_arrays_are_loaded_without_pickles(path):
    assert loads_that_do_not_refuse(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("source", ["np.load(f)", "numpy.load(f, mmap_mode='r')"])
def test_a_load_that_allows_pickles_would_be_seen(source):
    assert len(loads_that_do_not_refuse(ast.parse(source))) == 1
    refusing = source.replace(")", ", allow_pickle=False)")
    assert loads_that_do_not_refuse(ast.parse(refusing)) == []


# What the source must have -----------------------------------------------------------


def public_definitions(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, FunctionNode | ast.ClassDef]]:
    """Public classes and functions of a module, and their public methods."""
    for child in node.body:
        if not isinstance(child, FunctionNode | ast.ClassDef):
            continue
        if child.name.startswith("_") and child.name != "__call__":
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from public_definitions(child, f"{prefix}{child.name}.")


def missing_annotations(function: FunctionNode) -> list[str]:
    """Parameters without annotation, and "return" for a missing return annotation."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    parameters += [extra for extra in (given.vararg, given.kwarg) if extra]
    missing = [
        parameter.arg
        for parameter in parameters
        if parameter.annotation is None and parameter.arg not in ("self", "cls")
    ]
    return missing + ([] if function.returns else ["return"])


def undocumented(tree: ast.Module) -> list[str]:
    """What lacks a docstring or annotations, in words."""
    found = [] if ast.get_docstring(tree) else ["module: docstring"]
    for name, node in public_definitions(tree):
        if not ast.get_docstring(node):
            found.append(f"{name}: docstring")
        if not isinstance(node, ast.ClassDef):
            found += [f"{name}: {what}" for what in missing_annotations(node)]
    return found


@per_file(PACKAGE)
def test_everything_public_is_documented_and_annotated(path):
    assert undocumented(ast.parse(path.read_text())) == []


def test_a_missing_docstring_or_annotation_would_be_seen():
    source = "class A:\n  def f(self, x, *y) -> int: ...\n  def _g(z): ...\n"
    missing = ["A: docstring", "A.f: docstring", "A.f: x", "A.f: y"]
    assert undocumented(ast.parse(source)) == ["module: docstring", *missing]


# Size --------------------------------------------------------------------------------


def function_lengths(tree: ast.Module) -> dict[str, int]:
    """Lines of every function, its docstring and decorators not counted."""
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                docstring = node.body[0]
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
            lengths[f"{node.name} (line {node.lineno})"] = lines
    return lengths


@per_file(SOURCES)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    lengths = function_lengths(ast.parse(text))
    long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert long == {}
    assert len(text.splitlines()) <= MAX_FILE_LINES


def test_the_length_of_a_function_leaves_out_its_docstring():
    source = '@d\ndef f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n'
    assert function_lengths(ast.parse(source)) == {"f (line 2)": 3}


# Requirements ------------------------------------------------------------------------


def parse_requirement(line: str) -> tuple[str, str]:
    """Name with extras, and version bounds, of one requirement."""
    requirement = re.split(r"[;#]", line)[0].replace(" ", "").strip()
    match = re.match(r"[\w.\-\[\]]+", requirement)
    assert match, f"not a requirement: {line!r}"
    return match[0], requirement[match.end() :]


def test_requirements_and_project_agree():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines.pop() == "-e ."  # so that the experiments find the package
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["prepare"]
    required = dict(map(parse_requirement, lines))
    assert required == dict(map(parse_requirement, declared))
    assert all(required.values())  # every one has a lower bound

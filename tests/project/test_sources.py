"""What no linter knows: refused pickles, annotated interfaces, short files."""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def sources(*folders: str) -> dict[str, str]:
    """Path from the root → text of every Python file in these folders."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 5 * len(folders)
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}


def offenders(
    found_in: Callable[[str], list[str]], *folders: str
) -> dict[str, list[str]]:
    """File → what a check found in it, for files in which it found something."""
    found = {path: found_in(text) for path, text in sources(*folders).items()}
    return {path: words for path, words in found.items() if words}


# Pickles: ruff refuses the modules, and here is what it does not know ---------------


def allowed_pickles(source: str) -> list[str]:
    """Calls with allow_pickle other than False."""
    return [
        f"line {node.value.lineno}: allow_pickle"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]


def loads_that_do_not_refuse(source: str) -> list[str]:
    """Calls of NumPy's readers that do not say that they refuse pickles."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("np.load", "numpy.load", "read_array"))
        and "allow_pickle" not in {keyword.arg for keyword in node.keywords}
    ]


def test_no_pickle_is_allowed():
    folders = ("ssvi_jax", "experiments", "benchmarks", "tests")
    assert offenders(allowed_pickles, *folders) == {}


def test_arrays_are_loaded_without_pickles():
    folders = ("ssvi_jax", "experiments", "benchmarks")
    assert offenders(loads_that_do_not_refuse, *folders) == {}


@pytest.mark.parametrize("value", ["True", "flag"])
def test_an_allowed_pickle_would_be_seen(value):
    source = "np.load(f, allow_pickle={})"
    assert len(allowed_pickles(source.format(value))) == 1
    assert allowed_pickles(source.format("False")) == []


@pytest.mark.parametrize("source", ["np.load(f)", "numpy.load(f, mmap_mode='r')"])
def test_a_load_that_does_not_refuse_would_be_seen(source):
    assert len(loads_that_do_not_refuse(source)) == 1
    refusing = source.replace(")", ", allow_pickle=False)")
    assert loads_that_do_not_refuse(refusing) == []


# Annotations: ruff asks for those of private functions too, or for none --------------


def public_functions(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, FunctionNode]]:
    """Public functions of a module, and public methods of its public classes."""
    for child in node.body:
        if not isinstance(child, FunctionNode | ast.ClassDef):
            continue
        if child.name.startswith("_") and child.name != "__call__":
            continue
        if isinstance(child, ast.ClassDef):
            yield from public_functions(child, f"{prefix}{child.name}.")
        else:
            yield prefix + child.name, child


def unannotated(source: str) -> list[str]:
    """Parameters of public functions without annotation, and "return" for that."""
    found = []
    for name, function in public_functions(ast.parse(source)):
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        parameters += [extra for extra in (given.vararg, given.kwarg) if extra]
        found += [
            f"{name}: {parameter.arg}"
            for parameter in parameters
            if parameter.annotation is None and parameter.arg not in ("self", "cls")
        ]
        found += [] if function.returns else [f"{name}: return"]
    return found


def test_everything_public_is_annotated():
    assert offenders(unannotated, "ssvi_jax") == {}


def test_a_missing_annotation_would_be_seen():
    source = (
        "class A:\n  def f(self, x, *y) -> int: ...\n  def _g(z): ...\ndef h(): ..."
    )
    assert unannotated(source) == ["A.f: x", "A.f: y", "h: return"]


# Size --------------------------------------------------------------------------------


def lengths(source: str) -> dict[str, int]:
    """Lines of every function, its docstring and decorators not counted."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FunctionNode):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                docstring = node.body[0]
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
            found[f"{node.name} (line {node.lineno})"] = lines
    return found


def too_long(source: str) -> list[str]:
    """The file and the functions that have too many lines."""
    found = [
        f"{name}: {lines} lines"
        for name, lines in lengths(source).items()
        if lines > MAX_FUNCTION_LINES
    ]
    lines = len(source.splitlines())
    return found + ([f"{lines} lines"] if lines > MAX_FILE_LINES else [])


def test_files_and_functions_are_short():
    folders = ("ssvi_jax", "experiments", "benchmarks", "tests")
    assert offenders(too_long, *folders) == {}


def test_the_length_of_a_function_leaves_out_its_docstring():
    source = '@d\ndef f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n'
    assert lengths(source) == {"f (line 2)": 3}


def test_a_long_file_or_function_would_be_seen():
    function = "def f():" + MAX_FUNCTION_LINES * "\n  x = 1"
    assert too_long(function) == ["f (line 1): 61 lines"]
    assert too_long(function[:-8]) == []
    assert too_long(401 * "x = 1\n") == ["401 lines"]
    assert too_long(400 * "x = 1\n") == []


# What ruff is there for, with the settings of pyproject.toml -------------------------


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "TID251"),
        ("import _pickle", "TID251"),
        ("from joblib import dump", "TID251"),
        ("import os, dill.source", "TID251"),
        ("def f():\n    from cloudpickle import dumps", "TID251"),
        ("import shelve", "TID251"),
        ("from . import masks", "TID252"),
        ("x = 1", "D100"),
        ("class A: ...", "D101"),
        ("class A:\n    def __call__(self): ...", "D102"),
        ("def f(): ...", "D103"),
    ],
)
def test_ruff_would_see(source, rule):
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise"]
    done = subprocess.run(
        [*command, "--stdin-filename=ssvi_jax/vi/new.py", "-"],
        cwd=ROOT,
        input=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f" {rule} " in done.stdout

"""The house: few rooms in an order, no circle, tests in folders of the same names."""

import ast
import graphlib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "ssvi_jax"
TESTS = ROOT / "tests"
MAX_ENTRIES = 12
FLOORS = (
    *("core", "runtime", "ops", "vi", "io", "networks", "metrics", "data"),
    *("methods", "training", "evaluation", "sklearn"),
)
"""The rooms: each imports from those before it only."""

TWICE = {
    # The same things of one run, of a comparison of runs, and of a shift.
    "figures": {"evaluation.run", "evaluation.comparison", "evaluation.shift.report"},
    "inputs": {"evaluation.comparison", "evaluation.shift"},
    "main": {"evaluation.run", "evaluation.comparison", "evaluation.shift"},
    "options": {"evaluation.comparison", "evaluation.shift"},
    "results": {"evaluation.run", "evaluation.shift"},
    "table": {"evaluation.run", "evaluation.comparison", "evaluation.shift"},
}
"""File names that are met more than once, and where."""

BESIDES_ROOMS = {"project", "helpers", "faults", "fuzz", "kernels"}
"""Folders of tests that are not the tests of one room."""


def module_name(path: Path) -> str:
    """The dotted name below ssvi_jax, empty for the package itself."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").removesuffix(".")


PREFIX = "ssvi_jax."
MODULES = {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """The modules of the package that a source imports, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name.removeprefix(PREFIX) in MODULES else node.module)
    return {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}


def room(name: str) -> str:
    return name.partition(".")[0]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module → what it imports; without the face, which waits until it is asked."""
    return {name: imports(path.read_text()) for name, path in MODULES.items() if name}


def upwards(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is imported from a later room."""
    floor = FLOORS.index
    found = {
        name: {to for to in graph[name] if floor(room(to)) > floor(room(name))}
        for name in graph
    }
    return {name: to for name, to in found.items() if to}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in turn, or none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_the_house_has_few_entries():
    names = {path.name for path in HOUSE.iterdir() if path.name[0] not in "_."}
    rooms = names - {"py.typed"}
    assert len(rooms) <= MAX_ENTRIES
    assert {name.removesuffix(".py") for name in rooms} == set(FLOORS)


def test_rooms_import_from_earlier_ones_only(graph):
    assert upwards(graph) == {}


def test_no_modules_import_one_another(graph):
    assert circle(graph) == []


def test_an_import_upwards_or_in_a_circle_would_be_seen():
    ops = "def f():\n  from ssvi_jax.vi import masks, VI\n  import ssvi_jax.core.trees"
    vi = "from ssvi_jax.ops import sparse\nfrom ssvi_jax import ops\nimport jax"
    graph = {"ops.sparse": imports(ops), "vi.masks": imports(vi)}
    assert graph == {
        "ops.sparse": {"vi.masks", "vi", "core.trees"},
        "vi.masks": {"ops.sparse", "ops"},
    }
    assert upwards(graph) == {"ops.sparse": {"vi.masks", "vi"}}
    assert set(circle(graph)) == {"ops.sparse", "vi.masks"}


def test_file_names_say_which_file():
    folders = defaultdict(set)
    for path in MODULES.values():
        folders[path.stem].add(".".join(path.relative_to(HOUSE).parts[:-1]))
    twice = {stem: found for stem, found in folders.items() if len(found) > 1}
    twice = {stem: found for stem, found in twice.items() if stem[:2] != "__"}
    assert twice == TWICE


def test_tests_are_in_folders_of_the_same_names():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()}
    rooms = {name for name in FLOORS if (HOUSE / name).is_dir()}
    assert folders - {"__pycache__"} == rooms | BESIDES_ROOMS
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]


def test_test_files_have_names_of_their_own():
    # pytest imports them by name: of two alike the second is an error.
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_test_file_imports_another():
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    found = {
        path.name: modules & imported_stems(path.read_text())
        for path in TESTS.rglob("*.py")
    }
    assert {name: stems for name, stems in found.items() if stems} == {}


def imported_stems(source: str) -> set[str]:
    """Every dotted part of what is imported, and the names taken from it."""
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dotted |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            dotted.add(node.module or "")
    return {part for name in dotted for part in name.split(".")}


def test_an_import_of_a_test_file_would_be_seen():
    source = "import tests.vi.test_ivon as a\nfrom test_masks import b"
    source += "\nfrom vi import test_points"
    assert {"test_ivon", "test_masks", "test_points"} < imported_stems(source)

"""What the site needs, without building it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?:\.\./)+(results/[\w./-]+\.md)\)")


def measured():
    """Result files of the site → their pages, as its configuration has them."""
    for node in ast.parse((DOCS / "conf.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MEASURED":
            return ast.literal_eval(node.value)
    raise AssertionError("no MEASURED")


def test_every_linked_result_is_a_page():
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    linked = {path for page in pages for path in LINK.findall(page.read_text())}
    assert linked
    assert linked <= set(measured())


def test_every_page_of_results_includes_its_file():
    for path, page in measured().items():
        assert (ROOT / path).exists()
        assert f"../../{path}" in (DOCS / page).read_text()

"""The pages of the methods: each is there, and its numbers are those of the table."""

import json
import re
from pathlib import Path

import pytest

from ssvi_jax.evaluation.comparison import options
from ssvi_jax.evaluation.comparison.table import METRICS, cell

DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "methods.md").read_text()
PAGES = {
    name: (DOCS / page).read_text()
    for names, page in re.findall(
        r"^\| (`.*`) \| .*\]\((methods/\w+\.md)\)", INDEX, re.M
    )
    for name in re.findall(r"`(\w+)`", names)
}
COMPARED = DOCS.parent / "results" / "methods" / "comparison.json"


def test_every_method_has_a_page():
    assert PAGES.keys() == set(options.NAMES)


@pytest.mark.parametrize("name", options.NAMES)
def test_a_page_has_an_equation_a_command_and_when_to_use_it(name):
    page = PAGES[name]
    assert "python experiments/cifar10.py" in page
    assert "=" in page or "γ" in page
    assert re.search(r"\bUse (it|`)", page)


@pytest.mark.parametrize("name", options.NAMES)
def test_the_numbers_to_expect_are_those_of_the_table(name):
    compared = json.loads(COMPARED.read_text())["methods"]
    rows = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGES[name], re.M)[-1:]
    if name not in compared:  # newer than the table
        assert not rows
        return
    metrics, (row,) = compared[name]["metrics"], rows
    shown = ("accuracy", "nll", "ece", "corrupted_accuracy", "weights_kept")
    assert row.split(" | ") == [cell(metrics, metric) for metric in shown]
    assert all(metric in METRICS for metric in shown)

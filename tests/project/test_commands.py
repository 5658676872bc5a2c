"""Every command of the README and of docs/: its flags exist, for its method."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from ssvi_jax.core.command import parse_as
from ssvi_jax.evaluation import entry
from ssvi_jax.evaluation.comparison import options
from ssvi_jax.evaluation.shift.options import ShiftConfig
from ssvi_jax.training import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"python experiments/(\w+)\.py((?: [^\n`#|]*)?)")


def commands(script):
    """Arguments of every command of one script, but those with a value left out (…)."""
    return [
        pytest.param(shlex.split(match[2]), id=f"{page.stem}:{i}")
        for page in PAGES
        for i, match in enumerate(
            COMMAND.finditer(page.read_text().replace("\\\n", " "))
        )
        if match[1] == script and "…" not in match[2]
    ]


@pytest.mark.parametrize("argv", commands("cifar10"))
def test_a_training_is_understood(argv):
    if {"--help", "--help-verbose"} & set(argv):
        with pytest.raises(SystemExit) as end:
            cli.parse(argv)
        assert end.value.code == 0
        return
    cli.parse(argv)


@pytest.mark.parametrize("argv", commands("methods"))
def test_a_comparison_is_understood(argv):
    _, flags = options.parse(argv)
    cli.parse(flags, strict=False)


@pytest.mark.parametrize("argv", commands("corruptions"))
def test_an_evaluation_under_shift_is_understood(argv):
    parse_as(ShiftConfig, argv)


SSVI = re.compile(r"^(?:    )?`?ssvi (\w+) ([^\n`#|]*)", re.MULTILINE)


@pytest.mark.parametrize(
    ("word", "argv"),
    [
        pytest.param(match[1], shlex.split(match[2]), id=f"{page.stem}:{i}")
        for page in PAGES
        for i, match in enumerate(SSVI.finditer(page.read_text()))
    ],
)
def test_a_word_of_ssvi_is_understood(word, argv):
    module, name = entry.COMMANDS[word].options
    options = getattr(importlib.import_module(f"ssvi_jax.{module}"), name)
    parse_as(options, argv)


def test_there_are_some_of_each():
    numbers = {s: len(commands(s)) for s in ("cifar10", "methods", "corruptions")}
    assert min(numbers.values()) > 1, numbers
    assert numbers["cifar10"] > 15
    words = {match[1] for page in PAGES for match in SSVI.finditer(page.read_text())}
    assert {"predict", "info", "card"} <= words

"""The readers of JSON files and command lines."""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ssvi_jax.core.command import parse_as
from ssvi_jax.evaluation.comparison import options as comparison_options
from ssvi_jax.evaluation.comparison import runs
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.evaluation.shift.options import ShiftConfig
from ssvi_jax.evaluation.shift.report import data as report_data
from ssvi_jax.io import run_files, run_log
from ssvi_jax.methods.algorithms.swapping import read_densities
from ssvi_jax.training import cli
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi.densities import layer_counts

from . import mutate
from .mutate import Edit
from .targets import Input, Target, of_file, of_json


def check_finite(values: Any) -> None:
    """No NaN and no infinity anywhere in JSON values."""
    if isinstance(values, dict):
        check_finite(list(values.values()))
    elif isinstance(values, list):
        for value in values:
            check_finite(value)
    elif isinstance(values, float):
        assert math.isfinite(values), "a number that is not finite"


def check_config(config: Any) -> None:
    """Every field of a dataclass, and of groups in it, has its type and is finite."""
    kinds = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_config(value)
        if isinstance(field.type, type) and field.type in kinds:
            assert type(value) in kinds[field.type], f"{field.name}: {value!r}"
        if isinstance(value, float):
            assert math.isfinite(value), f"{field.name}: {value!r}"


def densities(folder: Path) -> Target:
    """Densities by hand."""
    shapes = {"conv1/kernel": (3, 3, 1, 8), "head/kernel": (64, 10)}
    path = folder / "densities.json"

    def read() -> None:
        counts = layer_counts(shapes, None, read_densities(str(path)))
        for name, count in counts.items():
            assert type(count) is int
            assert 1 <= count <= math.prod(shapes[name])

    return of_json(path.name, 12_000, path, dict.fromkeys(shapes, 0.5), read)


def run_folder(run: Path) -> list[Target]:
    """The files of a run folder."""
    (run / "checkpoints").mkdir(parents=True)
    config = Config().with_values(out=run)
    saved = {"config": config.as_dict(), "command": "python", "versions": {"jax": "1"}}
    events = [
        {"event": "phase", "step": 10, "loss": 1.5},
        {"event": "epoch", "step": 20},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events).encode()
    summary = {"method": "ssvi", "test": {"mean": {"nll": 0.5}}, "layers": [1, 2]}

    def read_config() -> None:
        check_config(subjects._config(subjects._from_checkpoints(run)))

    def resume(content: bytes) -> None:
        run_log.RunLog(run).truncate(15)
        assert all(event["step"] <= 15 for event in run_files.read_events(run))

    return [
        of_json("saved config.json", 8000, run / "config.json", saved, read_config),
        of_json(
            *("config.json of a comparison", 8000, run / "config.json", saved),
            lambda: runs.check_same([config]),
        ),
        of_json(
            *("summary.json", 4000, run / "summary.json", summary),
            lambda: check_finite(run_files.read_summary(run)),
        ),
        of_file(
            *("metrics.jsonl", 4000, run / "metrics.jsonl", [lines]),
            lambda content: check_finite(run_files.read_events(run)),
        ),
        of_file(
            *("metrics.jsonl on resume", 4000, run / "metrics.jsonl", [lines]), resume
        ),
    ]


def report(folder: Path) -> Target:
    """A small results.json."""
    cells = {"fog": [{"accuracy": 0.5}, {"accuracy": 0.25}]}
    scores = {"accuracy": 0.75}
    network = {"clean": scores, "summary": scores, "cells": cells}
    run = {"name": "a", "label": "a", "headline": "mean", "networks": {"mean": network}}
    corruptions = {"benchmark": ["fog"], "extra": [], "severities": [1, 5]}
    results = {"runs": [run], "corruptions": corruptions, "baseline": "a"}
    path = folder / "results.json"
    return of_json(
        *("results.json of a report", 4000, path, results),
        lambda: check_finite(report_data.read(folder).results),
    )


def _training(argv: list[str]) -> Config:
    return cli.parse(argv)


def _comparison(argv: list[str]) -> comparison_options.Comparison:
    return comparison_options.parse(argv)[0]


COMMANDS: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "experiments/cifar10.py": (
        _training,
        "--sparsity 0.95 --dataset digits --preset smoke --seed 3 --epochs 2 "
        "--width 0.5 --removal snr --no-figures --learning-rate 0.1 --data-dir data",
    ),
    "experiments/corruptions.py": (
        partial(parse_as, ShiftConfig),
        "--run a --run b --model c --ood photos --ood noise --images 10 --samples 3",
    ),
    "experiments/methods.py": (
        _comparison,
        "--methods ssvi,rigl --seeds 3 --out folder --ood photos --images 20 --verify",
    ),
}


def command(name: str) -> Target:
    """A command line."""
    parse, line = COMMANDS[name]

    def make(edits: Sequence[Edit]) -> Input:
        words = mutate.of_words(line.split(), edits)
        argv = [word.replace("\0", "") for word in words]  # no shell can pass it on
        return Input(lambda: check_config(_quietly(parse, argv)), len(str(argv)))

    return Target(f"command line of {name}", 500, make)


def _quietly(parse: Callable[[list[str]], Any], argv: list[str]) -> Any:
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        return parse(argv)


def targets(folder: Path) -> list[Target]:
    """Readers of JSON files and command lines."""
    return [
        densities(folder),
        *run_folder(folder / "run"),
        report(folder),
        *map(command, COMMANDS),
    ]

"""One small run of the real command, shared by the tests of what runs do and leave."""

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import logging
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from jax.core import Tracer

from ssvi_jax import data
from ssvi_jax.core.command import run as run_command
from ssvi_jax.core.types import Masks, Weights
from ssvi_jax.io import run_log
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.methods.problem import Algorithm, Problem
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.training import budget, phases, presets, train
from ssvi_jax.training.callbacks import Progress
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import subspace

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "cifar10.py"
TINY = ["--dataset", "digits", "--preset", "smoke", "--model", "mlp", "--width", ".25"]
"""Flags of the smallest run: 8 phases of 10 steps, a swap before all but the first."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Smoke:
    """The shared run: its folder, its outcome, and what it did on the way."""

    folder: Path
    outcome: Outcome
    weights: list[Weights]
    masks: list[Masks]
    compiled: list[str]


def main(argv: list[str]) -> int:
    """The main function of experiments/cifar10.py."""
    return runpy.run_path(str(SCRIPT))["main"](argv)


def call(main_fn: Callable[[Any], int | None], *flags: str | Path) -> Outcome:
    """Runs a command in this process as a shell would, through `core.command.run`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["command", *map(str, flags)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        run_command(main_fn)
    code = stop.value.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def command(*flags: str | Path) -> Outcome:
    """experiments/cifar10.py in this process."""
    with mock.patch.object(ImageNetwork, "init", _initial):
        return call(main, *flags)


def refused(*flags: str | Path) -> str:
    """The words with which the command refuses these flags, joined to one line."""
    outcome = command(*flags)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    return re.sub(r"[\s│]+", " ", outcome.err)


@functools.cache
def smoke() -> Smoke:
    """The run that `TINY` describes; look at it, and change only copies of it."""
    parent = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = Path(parent) / "run"
    weights, masks, compiled = [], [], []
    one = phases.one

    def recorded(session, progress, step, callbacks):
        progress, event = one(session, progress, step, callbacks)
        weights.append(jax.device_get(progress.state.weights))
        masks.append(progress.masks)
        return progress, event

    class Compilations(logging.Handler):
        def emit(self, record):
            if name := re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()):
                compiled.append(name[1])

    # It may have served a test of the same shapes in this process before.
    getattr(subspace._move, "clear_cache")()  # noqa: B009 (unknown to pyright)
    logger, handler = logging.getLogger("jax._src.interpreters.pxla"), Compilations()
    with (
        mock.patch.object(phases, "one", recorded),
        mock.patch.object(logger, "handlers", [handler]),
        mock.patch.object(logger, "propagate", False),
        jax.log_compiles(),
    ):
        outcome = command(*TINY, "--out", folder)
    return Smoke(folder, outcome, weights, masks, compiled)


def copy_of(folder: Path, target: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folder, target))


def tiny_config(**changes: Any) -> Config:
    """`TINY` as a configuration, with changes."""
    method = changes.get("method", "ssvi")
    values = {"model": "mlp", "width": 0.25, "figures": False, **changes}
    return presets.defaults("smoke", "digits", method).with_values(**values)


def tiny_problem(dataset: data.Dataset | None = None, **changes: Any) -> Problem:
    """What a method is built on by `tiny_train`, with the length of that training."""
    return problem_of(tiny_config(**changes), dataset)[1]


def problem_of(
    config: Config, dataset: data.Dataset | None = None
) -> tuple[ImageNetwork, Problem]:
    """Of a configuration whose length is in epochs, on the digits (or `dataset`)."""
    with mock.patch.object(ImageNetwork, "init", _initial):
        network, problem = train.build_problem(config, dataset or data.load("digits"))
    asked = train.asked(config)
    per_epoch = problem.num_data // problem.batch_size
    steps = budget.steps_of(asked.steps, asked.epochs, asked.minutes, per_epoch)
    assert steps is not None
    length = budget.whole_phases(steps, asked.inner_steps)
    return network, dataclasses.replace(problem, **length._asdict())


def tiny_algorithm(dataset: data.Dataset | None = None, **changes: Any) -> Algorithm:
    """The method, built on `tiny_problem`."""
    return tiny_config(**changes).method.build(tiny_problem(dataset, **changes))


def tiny_train(
    folder: Path, dataset: data.Dataset | None = None, **changes: Any
) -> train.Trained:
    """Trains on the digits (or `dataset`), without the command around it."""
    log = run_log.RunLog(folder)
    dataset = dataset or data.load("digits")
    with mock.patch.object(ImageNetwork, "init", _initial):
        return train.train(tiny_config(**changes), dataset, log)


_init = ImageNetwork.init
_initials: dict[tuple[NetworkSpec, bytes], Any] = {}


def _initial(network: ImageNetwork, key: jax.Array) -> Any:
    """`ImageNetwork.init`, compiled and run once for every network and key."""
    if isinstance(key, Tracer):
        return _init(network, key)
    name = network.spec, jax.random.key_data(key).tobytes()
    if name not in _initials:
        _initials[name] = jax.device_get(_init(network, key))
    return _initials[name]


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without wall-clock values."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in event.items() if not k.endswith("seconds")}
        for event in map(json.loads, lines)
    ]


def checkpoint_bytes(folder: Path, step: int | None = None) -> np.ndarray:
    """Weights, masks, optimizer, random key and step of one checkpoint (the last)."""
    with Checkpoints(folder / "checkpoints", {}) as saved:
        return saved._read(saved.steps[-1] if step is None else step)[1]


def tiny_trained(masks: Masks) -> train.Trained:
    """A training that stopped before its first step, with these masks."""
    network, problem = problem_of(tiny_config())
    algorithm = tiny_config().method.build(problem)
    key = jax.random.key(0)
    inference = algorithm.inference  # type: ignore[attr-defined]
    state = inference.init(key, problem.params, problem.model_state, masks)
    return train.Trained(network, algorithm, Progress(state, masks, masks), 0, 0, 0)

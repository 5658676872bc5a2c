"""Equal training time: the seconds of a step, measured for all methods side by side.

A step counts with its share of the swap before it and of the validation after its
epoch. The table turns a budget in minutes into epochs, so that the runs of a comparison
can be trained on machines that are busy, one after the other, or on several of them.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import Dataset
from ssvi_jax.evaluation.comparison.options import Comparison
from ssvi_jax.evaluation.comparison.runs import Outcome
from ssvi_jax.io import json_text, run_log
from ssvi_jax.ops import custom_calls
from ssvi_jax.training import budget, phases, train
from ssvi_jax.training.callbacks import Phase, Session
from ssvi_jax.training.run_config import Config
from ssvi_jax.training.validation import Validation

FILE = "step_times.json"

TURNS = 3
"""Phases that are timed of each method, after two that compile."""

DENSE_STEPS = 8
"""Of a phase of a method that has no swaps, where nothing but steps is in it."""


class _Contestant:
    """A training that does one phase when it is asked to."""

    def __init__(self, config: Config, data: Dataset):
        _, problem = train.build_problem(config, data)
        inner = config.training.inner_steps
        if not getattr(config.method, "sparsity", 0.0):
            inner = min(inner, DENSE_STEPS)
        length = budget.Length(inner, 1000 * inner)
        problem = dataclasses.replace(problem, **length._asdict())
        feed = train.feed(config, data, problem)(length)
        per_epoch = problem.num_data // problem.batch_size
        self._session = Session(config.method.build(problem), feed, per_epoch)
        self._validation = Validation((data.val_images, data.val_labels))
        self._progress = phases.start(self._session, jax.random.key(config.run.seed))
        self._step = 0

    def phase(self) -> float:
        """Seconds a step of the next phase, with the swap before it."""
        start = time.perf_counter()
        self._progress, _ = phases.one(self._session, self._progress, self._step, ())
        self._step += self._session.inner_steps
        return (time.perf_counter() - start) / self._session.inner_steps

    def validate(self) -> float:
        """Seconds a step that the validation of an epoch comes to."""
        phase = Phase(self._session, self._step, self._progress, {}, 0.0)
        start = time.perf_counter()
        self._validation.scores(phase)
        return (time.perf_counter() - start) / self._session.steps_per_epoch


def measure(
    configs: Mapping[str, Config],
    data: Dataset,
    *,
    notify: Callable[[str], object] = print,
) -> dict[str, Any]:
    """The seconds of a step of every method; they take turns.

    Args:
      configs: method → configuration of one of its runs.
      data: the data set.
      notify: called with a line on every method.

    Returns:
      What step_times.json holds: "about", and for every method of "methods" its seconds
      a step, those of every turn, and steps an epoch.
    """
    contestants = {}
    for name, config in configs.items():
        notify(f"timing {name}: it compiles")
        contestants[name] = one = _Contestant(config, data)
        for compile_first in (one.phase, one.phase, one.validate):
            compile_first()
    turns = [
        {name: (one.phase(), one.validate()) for name, one in contestants.items()}
        for _ in range(TURNS)
    ]
    methods = {}
    for name, config in configs.items():
        found = [sum(turn[name]) for turn in turns]
        seconds = statistics.median(found)
        notify(f"{name}: {1e3 * seconds:.1f} ms a step")
        methods[name] = {
            "step_seconds": seconds,
            "turns": found,
            "batch_size": config.training.batch_size,
        }
    about = {
        **run_log.environment(),
        "instruction_sets": custom_calls.instruction_sets(),
    }
    return {"about": about, "methods": methods}


def read_or_measure(
    path: Path, configs: Mapping[str, Config], data: Dataset
) -> dict[str, Any]:
    """The times in a file, or new ones, which are written there.

    Raises:
      InputError: the file is damaged, or lacks a method.
    """
    if not path.exists():
        found = measure(configs, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")
        return found
    try:
        found = json_text.parse(path.read_bytes())
        missing = set(configs) - set(found["methods"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete it to measure again."
        ) from error
    if missing:
        raise InputError(
            f"{path}: there is no time of {', '.join(sorted(missing))}; delete it to "
            "measure all of them again, side by side."
        )
    return found


def in_time(
    configs: Sequence[Config],
    options: Comparison,
    data: Dataset,
    *,
    as_long_as: Mapping[str, str] = MappingProxyType({}),
) -> list[Config]:
    """The configurations with as many epochs as fit into the comparison's minutes.

    Args:
      configs: of the runs.
      options: with the minutes, and where the times are.
      data: the data set.
      as_long_as: name → the other whose step takes as long, and is timed for both.

    Raises:
      InputError: see `read_or_measure`.
    """
    path = options.step_times or options.out / FILE
    first = {_name(config): config for config in reversed(configs)}
    timed = {name: first[name] for name in first if name not in as_long_as}
    times = read_or_measure(path, timed, data)["methods"]
    found = []
    for config in configs:
        size = config.data.train_size or len(data.train_labels)
        per_epoch = max(size // config.training.batch_size, 1)
        name = as_long_as.get(_name(config), _name(config))
        steps = 60 * options.minutes / times[name]["step_seconds"]
        found.append(config.with_values(epochs=round(max(steps, 1) / per_epoch, 4)))
    return found


def as_budgeted(outcome: Outcome, minutes: float) -> Outcome:
    """The runs with the budget for their training time, and no time of a prediction.

    Runs of a budget may be stopped, and share machines with others: seconds that went
    by tell nothing of a method. FLOPs and step_times.json do.
    """
    runs = []
    for run in outcome.runs:
        values = {**run.values, "train_seconds": 60 * minutes}
        values.pop("predict_seconds", None)
        runs.append(run._replace(values=values))
    return outcome._replace(runs=runs)


def _name(config: Config) -> str:
    """The method of a run of a comparison, from its folder."""
    assert config.run.out is not None, "a comparison gives every run its folder"
    return config.run.out.name.removesuffix(f"-{config.run.seed}")

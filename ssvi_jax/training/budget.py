"""How long a training is: steps, epochs, or minutes on the machine that it runs on."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import positive
from ssvi_jax.training import phases
from ssvi_jax.training.callbacks import Phase, Session

TIMED_PHASES = 2
"""Phases that are timed for a budget in minutes, after one that compiles."""


class Length(NamedTuple):
    """Steps of a training.

    Attributes:
      inner_steps: M, of a phase.
      total_steps: of all phases.
    """

    inner_steps: int
    total_steps: int


def whole_phases(steps: int, inner_steps: int | None) -> Length:
    """A number of steps, rounded up to whole phases of equal length.

    Args:
      steps: at least 1.
      inner_steps: M, or as many as there are if these are fewer; None: a twentieth of
        the steps, between 10 and 100, or a little less so that phases come out even.
    """
    if inner_steps is None:
        wanted = min(max(steps // 20, 10), 100)
        number = math.ceil(steps / min(wanted, steps))
        inner = math.ceil(steps / number)
        return Length(inner, number * inner)
    inner = min(inner_steps, steps)
    return Length(inner, math.ceil(steps / inner) * inner)


def steps_of(
    steps: int | None, epochs: float | None, minutes: float | None, per_epoch: int
) -> int | None:
    """Steps asked for; None: what fits into the minutes.

    Raises:
      InputError: none or several of them are given, or one is not above 0.
    """
    given = {"steps": steps, "epochs": epochs, "minutes": minutes}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise InputError(
            f"steps, epochs, minutes: got {', '.join(named) or 'none of them'}, "
            "needed: exactly one, the length of the training."
        )
    for name, value in named.items():
        positive(name, value)
    if steps is not None:
        return steps
    return None if epochs is None else math.ceil(epochs * per_epoch)


def steps_in(
    minutes: float,
    session: Session,
    key: jax.Array,
    validate: Callable[[Phase], object] | None = None,
) -> int:
    """Steps that fit into a time, by timing the first phases on a copy of the start.

    Swaps and validation are timed with them. What the timing itself takes is part of
    the budget, and so is compiling the training anew for its length.

    Args:
      minutes: the budget, from now on.
      session: a training of the same phases, whatever its length.
      key: random key of the training.
      validate: called with a phase as at the end of every epoch; None: nothing is.

    Returns:
      A whole number of phases, at least one.
    """
    began = time.perf_counter()
    progress = phases.start(session, key)
    seconds, step = [], 0
    for _ in range(1 + TIMED_PHASES):
        start = time.perf_counter()
        progress, _ = phases.one(session, progress, step, ())
        step += session.inner_steps
        seconds.append(time.perf_counter() - start)
    compiling = max(seconds[0] - min(seconds[1:]), 0.0)
    each = sum(seconds[1:]) / TIMED_PHASES
    if validate is not None:
        phase = Phase(session, step, progress, {}, 0.0)
        for _ in range(2):  # the first compiles
            start = time.perf_counter()
            validate(phase)
            checked = time.perf_counter() - start
        each += checked * session.inner_steps / session.steps_per_epoch
    left = 60 * minutes - (time.perf_counter() - began) - compiling
    return max(int(left / each), 1) * session.inner_steps

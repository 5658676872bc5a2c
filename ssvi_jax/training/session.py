"""One training, whoever asks for it: how long it is, and its phases from first to last.

`fit` and the experiments' `train` both end here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import jax

from ssvi_jax.core.errors import InputError
from ssvi_jax.methods.base import Method
from ssvi_jax.methods.problem import Problem
from ssvi_jax.training import budget, phases, processes
from ssvi_jax.training.callbacks import Callback, Progress, Session
from ssvi_jax.training.feeds import Feed
from ssvi_jax.training.validation import Validation

FeedMaker = Callable[[budget.Length], Feed]
"""Makes the feed of a training, once its length is known."""


class Asked(NamedTuple):
    """The length of a training as it was asked for; one of the first three is given.

    Attributes:
      steps: of the optimizer.
      epochs: passes over the training data.
      minutes: on this machine.
      inner_steps: M, steps of a phase; None: see `budget.whole_phases`.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    inner_steps: int | None = None


class Trained(NamedTuple):
    """What a training came to.

    Attributes:
      session: the training.
      progress: the last state and masks.
      seconds: that it took, over all continuations, evaluation included.
    """

    session: Session
    progress: Progress
    seconds: float


def train(
    method: Method,
    problem: Problem,
    feed: FeedMaker,
    asked: Asked,
    key: jax.Array,
    callbacks: Sequence[Callback],
) -> Trained:
    """Trains until the end, or until a callback stops it.

    Args:
      method: what to train.
      problem: what on; its `total_steps` and `inner_steps` are found here.
      feed: makes what examples come from; it is closed at the end.
      asked: how long.
      key: random key of everything on the device.
      callbacks: called in order, and closed at the end, the last one first.

    Raises:
      InputError: see `phases.run`, and what a method refuses.
    """
    with ExitStack() as stack:
        for callback in callbacks:
            stack.callback(callback.close)
        per_epoch = problem.num_data // problem.batch_size
        if not per_epoch:
            raise InputError(
                f"batch_size: got {problem.batch_size}, allowed: 1 to "
                f"{problem.num_data}, the number of training examples."
            )
        length = _length(method, problem, feed, asked, per_epoch, key, callbacks)
        problem = dataclasses.replace(problem, **length._asdict())
        of_all = stack.enter_context(closing(feed(length)))
        session = Session(method.build(problem), of_all, per_epoch)
        start = phases.start(session, key)
        progress, seconds = phases.run(session, start, callbacks)
    return Trained(session, progress, seconds)


def _length(
    method: Method,
    problem: Problem,
    feed: FeedMaker,
    asked: Asked,
    per_epoch: int,
    key: jax.Array,
    callbacks: Sequence[Callback],
) -> budget.Length:
    wanted = (asked.steps, asked.epochs, asked.minutes)
    steps = budget.steps_of(*wanted, per_epoch=per_epoch)
    if steps is None:
        planned = [callback.planned_steps() for callback in callbacks]
        steps = next((steps for steps in planned if steps is not None), None)
    if steps is not None:
        return budget.whole_phases(steps, asked.inner_steps)
    assert asked.minutes is not None
    inner_steps = asked.inner_steps or 100
    timed = budget.Length(inner_steps, 1000 * inner_steps)
    validation = next((c for c in callbacks if isinstance(c, Validation)), None)
    with closing(feed(timed)) as of_few:
        problem = dataclasses.replace(problem, **timed._asdict())
        session = Session(method.build(problem), of_few, per_epoch)
        scores = validation.scores if validation else None
        steps = budget.steps_in(asked.minutes, session, key, scores)
    # Others of several processes may be faster or slower.
    return budget.Length(inner_steps, int(processes.agreed(str(steps))))

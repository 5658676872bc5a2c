"""The loop of every training: a swap if it is due, M steps, callbacks, and so on.

A phase is one jitted call of M steps. Between phases, on the host: metrics are checked,
masks change, and callbacks do the rest. Everything random is a function of (seed,
step), so a run that is continued repeats an uninterrupted one bit for bit.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.methods.algorithms.sgd import Sgd
from ssvi_jax.training import feeds
from ssvi_jax.training.callbacks import Callback, Phase, Progress, Session
from ssvi_jax.vi import State
from ssvi_jax.vi import masks as masks_lib

_HOST_STREAM = 1  # separates the host's random numbers from the order of the data


def host_rng(seed: int, step: int) -> np.random.Generator:
    """Random numbers for what is decided on the host before a step."""
    return np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(_HOST_STREAM, step))
    )


def start(session: Session, key: jax.Array) -> Progress:
    """The progress at step 0."""
    algorithm = session.algorithm
    state, masks = algorithm.init(key, host_rng(algorithm.problem.seed, 0))
    return Progress(state, masks, masks)


def run(
    session: Session, progress: Progress, callbacks: Sequence[Callback]
) -> tuple[Progress, float]:
    """Phases until the last step, or until a callback stops them.

    Args:
      session: the training.
      progress: at step 0; a callback may have one to go on from.
      callbacks: called in order.

    Returns:
      The last progress, and the seconds that the training took, over all
      continuations.

    Raises:
      InputError: a loss or a weight that is not finite, or what a callback raises.
    """
    seconds = 0.0
    for callback in callbacks:
        found = callback.begin(session, progress)
        if found is not None:
            progress, seconds = found
    began = time.perf_counter() - seconds
    step = int(progress.state.step)
    # All of them, as each may log it.
    stop = any([callback.stopped(session) for callback in callbacks])
    phase = Phase(session, step, progress, {}, seconds)
    while step < session.total_steps and not stop:
        progress, metrics = one(session, progress, step, callbacks)
        step += session.inner_steps
        seconds = time.perf_counter() - began
        phase = Phase(session, step, progress, metrics, seconds)
        # All of them, also after one that wants to stop.
        stop = any([bool(callback(phase)) for callback in callbacks])
        phase.seconds = time.perf_counter() - began
    for callback in callbacks:
        callback.end(phase)
    return progress, phase.seconds


def one(
    session: Session, progress: Progress, step: int, callbacks: Sequence[Callback]
) -> tuple[Progress, dict[str, Any]]:
    """One phase, after the swap before it if that is due; and what to log of it."""
    begin = time.perf_counter()
    for callback in callbacks:
        callback.before_phase(step, session.inner_steps)

    def tick() -> None:
        for callback in callbacks:
            callback.tick()

    progress, swap = swapped(session, progress, step)
    swap_seconds = time.perf_counter() - begin
    state, traces = feeds.advance(
        session.algorithm,
        progress.state,
        progress.masks,
        session.feed,
        step,
        session.inner_steps,
        tick,
    )
    _check_finite(traces, state, step, callbacks)
    end = step + session.inner_steps
    metrics = {
        "epoch": end / session.steps_per_epoch,
        **{name: float(np.mean(values)) for name, values in traces.items()},
        **_learning_rate(session, end - 1),
        **swap,
        "swap_seconds": swap_seconds,
        "seconds": time.perf_counter() - begin,
    }
    return progress._replace(state=state), metrics


def swapped(
    session: Session, progress: Progress, step: int
) -> tuple[Progress, dict[str, float]]:
    """The swap before a phase, if one is due; before the first there is none."""
    algorithm, seed = session.algorithm, session.algorithm.problem.seed
    num_batches = algorithm.num_growth_batches(step) if step else 0
    state, masks, event = progress.state, progress.masks, {}
    if num_batches:
        data, rows = session.feed.batches(step, num_batches)
        rng = host_rng(seed, step)
        state, masks, event = algorithm.swap(state, masks, data, rows, rng)
        event["iou_previous"] = masks_lib.overlap(masks, progress.masks)
        event["iou_first"] = masks_lib.overlap(masks, progress.first_masks)
    elif step and masks:
        event = {"iou_previous": 1.0}
        event["iou_first"] = masks_lib.overlap(masks, progress.first_masks)
    return progress._replace(state=state, masks=masks), event


def _learning_rate(session: Session, step: int) -> dict[str, float]:
    """The rate of a step, where the optimizer is ours and says it."""
    problem = session.algorithm.problem
    if not isinstance(problem.optimizer, Sgd):
        return {}
    rate = problem.optimizer.rate(problem.total_steps)
    return {"learning_rate": float(np.asarray(rate(step)))}


def _check_finite(
    traces: dict[str, np.ndarray],
    state: State,
    step: int,
    callbacks: Sequence[Callback],
) -> None:
    bad = ~np.isfinite(traces["loss"])
    where = f"the loss is not finite at step {step + int(np.argmax(bad)) + 1}"
    if not bad.any():
        place = _not_finite(state)
        if place is None:
            return
        where = f"{place} is not finite after step {step + len(bad)}"
    kept = " ".join(filter(None, (callback.kept() for callback in callbacks)))
    raise InputError(
        f"{where}{f'; {kept}' if kept else ''}. Lower the learning rate, or look for "
        "NaN or huge values in the data."
    )


def _not_finite(state: State) -> str | None:
    """The name of an array that holds a value that is not finite."""
    named = {
        f"the {name} of {path}": leaf
        for path, packed in state.posterior.items()
        for name, leaf in packed._asdict().items()
    }
    named |= trees.flatten(state.params) | trees.flatten(state.model_state)
    for name, leaf in named.items():
        if not np.isfinite(leaf).all():
            return name
    return None

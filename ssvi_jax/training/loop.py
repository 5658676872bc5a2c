"""The training loop of every method: phases, swaps, validation, checkpoints.

A phase is one jitted call of M steps. Between phases, on the host: metrics are checked
and logged, masks change, and at the end of an epoch the validation split is evaluated.
Everything random is a function of (seed, step), so a run that is continued from a
checkpoint repeats an uninterrupted one bit for bit.
"""

import dataclasses
import math
import time
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks
from ssvi_jax.data import Dataset
from ssvi_jax.data.augment import for_inputs
from ssvi_jax.data.batches import steps_per_epoch
from ssvi_jax.data.shifted import check_corruption
from ssvi_jax.io.checkpoint import Checkpoints, Restored
from ssvi_jax.io.run_log import RunLog
from ssvi_jax.methods import base, optimizers, rank1
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.ops import backend
from ssvi_jax.training import feeds, parallel, processes
from ssvi_jax.training.display import Display
from ssvi_jax.training.interrupt import Interrupt
from ssvi_jax.training.presets import ENSEMBLES
from ssvi_jax.training.run_config import NOT_COMPARED, Config
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import predictive, schedules
from ssvi_jax.vi.state import State, is_packed

CHECKPOINT_SECONDS = 60.0
"""Checkpoints are written at epoch ends, and when the last is older than this."""

_HOST_STREAM = 1  # separates the host's random numbers from the order of the data


class Progress(NamedTuple):
    """Everything that a checkpoint holds.

    Attributes:
      state: the training state.
      masks: the current selection.
      first_masks: the selection at step 0, for the churn.
    """

    state: State
    masks: Masks
    first_masks: Masks


class Trained(NamedTuple):
    """A finished (or interrupted) training.

    Attributes:
      network: the network's function.
      problem: what the method was built on.
      progress: the last state, or the best by validation NLL once finished.
      step: the step that `progress` is of.
      signal: number of the signal that stopped it; 0: it is finished.
      seconds: training time, summed over continuations; evaluation included.
    """

    network: ImageNetwork
    problem: base.Problem
    progress: Progress
    step: int
    signal: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a training divides into steps, phases and epochs."""

    steps_per_epoch: int
    inner_steps: int
    total_steps: int
    prune_step: int = 0

    @classmethod
    def of(cls, config: Config, num_data: int) -> "Plan":
        """Whole phases: the steps of all epochs, rounded up.

        Raises:
          InputError: a batch is larger than the training set.
        """
        if config.batch_size > num_data:
            raise InputError(
                f"--batch-size: got {config.batch_size}, allowed: 1 to {num_data}, the "
                "number of training images."
            )
        per_epoch = steps_per_epoch(num_data, config.batch_size)
        phases = math.ceil(config.epochs * per_epoch / config.inner_steps)
        total = phases * config.inner_steps
        prune_step = schedules.prune_step(config.prune_at, total, config.inner_steps)
        return cls(per_epoch, config.inner_steps, total, prune_step)

    def epochs_done(self, step: int) -> int:
        """Whole epochs completed at a step."""
        return step // self.steps_per_epoch


def build_problem(
    config: Config, data: Dataset
) -> tuple[ImageNetwork, base.Problem, Plan]:
    """Network, problem and plan of a configuration on a data set.

    Raises:
      InputError: the training images are not corrupted as the configuration says, or
        they are fewer than a batch.
    """
    check_corruption(data, config.train_corruption, config.train_severity)
    spec = NetworkSpec(
        model=config.model,
        width=config.width,
        num_classes=data.num_classes,
        input_shape=data.train_images.shape[1:],
        mean=tuple(map(float, data.mean)),
        std=tuple(map(float, data.std)),
        rank1=rank1.spec(config),
        copies=config.members if config.method in ENSEMBLES else None,
        dropout=config.dropout_rate if config.method == "mc_dropout" else 0.0,
        pixels=data.pixels,
    )
    network = ImageNetwork(spec, training_precision=config.precision)
    params, model_state = network.init(jax.random.key(config.seed))
    num_data = min(config.train_size or len(data.train_labels), len(data.train_labels))
    plan = Plan.of(config, num_data)
    problem = base.Problem(
        apply_fn=network,
        params=params,
        model_state=model_state,
        layers=network.layers(params, model_state),
        num_data=num_data,
        total_steps=plan.total_steps,
        augment=for_inputs(pad=data.pad, flip=data.flip),
    )
    return network, problem, plan


def train(config: Config, data: Dataset, log: RunLog) -> Trained:
    """Trains, or continues with `config.resume`, until done or interrupted.

    Args:
      config: a resolved configuration.
      data: the data set; only its training and validation parts are read, unless
        `config.test_every` asks for test curves.
      log: the run folder; of several processes (see `processes`) the first writes.

    Raises:
      InputError: settings that do not fit together, a folder with another run in it,
        or a loss that is not finite (the last good checkpoint stays); or processes that
        do not train the same network.
    """
    network, problem, plan = build_problem(config, data)
    feed = feeds.of(config, data, problem.num_data, plan.total_steps)
    method = base.build(config.method, config, problem)
    method = parallel.spread(method, config, streamed=data.is_streamed)
    first = processes.is_first()
    why = backend.slower_because(config.training_backend, 1.0 - config.sparsity)
    if why and first:
        print(f"slower on this CPU than it could be: {why}")
    state, masks = method.init(jax.random.key(config.seed), _host_rng(config.seed, 0))
    progress = Progress(state, masks, masks)
    with (
        closing(feed),
        Display(plan.total_steps, config.epochs, silent=not first) as display,
        Interrupt(display.say) as interrupt,
        Checkpoints(
            log.folder / "checkpoints",
            config.as_dict(),
            ignore=NOT_COMPARED,
            any_size=is_packed,
            notify=display.say,
        )
        if first
        else nullcontext() as checkpoints,
    ):
        loop = Loop(config, data, feed, method, plan, log, checkpoints, display)
        progress, seconds = loop.restore(progress)
        progress, seconds = loop.run(progress, seconds, interrupt)
        step = int(progress.state.step)
        if checkpoints is not None and not interrupt.requested:
            best = checkpoints.restore(progress, best=True)
            if best is not None:
                step, progress = best.step, best.tree
    return Trained(network, problem, progress, step, interrupt.requested, seconds)


@dataclasses.dataclass(eq=False)
class Loop:
    """The parts of one training; only the first process has checkpoints."""

    config: Config
    data: Dataset
    feed: feeds.Feed
    method: base.Method
    plan: Plan
    log: RunLog
    checkpoints: Checkpoints | None
    display: Display

    def __post_init__(self):
        self._rate = optimizers.rate(
            self.config, self.config.learning_rate, self.plan.total_steps
        )

    def restore(self, start: Progress) -> tuple[Progress, float]:
        """The newest checkpoint with `resume`, else the start; and its seconds."""
        found = processes.from_first(partial(self._find, start), start, is_packed)
        if found is None:
            self.log.start(self.config, self.data.source)
            return start, 0.0
        self.log.truncate(found.step, notify=self.display.say)
        self.display.say(f"resumed at step {found.step} of {self.plan.total_steps}")
        return found.tree, float(found.extra["seconds"])

    def _find(self, start: Progress) -> Restored | None:
        assert self.checkpoints is not None
        resume, steps = self.config.resume, self.checkpoints.steps
        if self.log.has_summary and not steps:
            raise InputError(
                f"--out: {self.log.folder} holds the results of a run but none of its "
                "checkpoints; choose another folder."
            )
        if not resume and (steps or self.log.has_run):
            raise InputError(
                f"--out: {self.log.folder} already holds a run (checkpoints at steps "
                f"{steps}); add --resume to continue it, or choose another folder."
            )
        found = self.checkpoints.restore(start) if resume else None
        if resume and found is None:
            self.display.say("--resume: no checkpoint there yet, starting anew")
        return found

    def run(
        self, progress: Progress, seconds: float, interrupt: Interrupt
    ) -> tuple[Progress, float]:
        """Phases until the last step or an interrupt; saves what it leaves with."""
        start, saved_at = time.perf_counter() - seconds, time.perf_counter()
        step = int(progress.state.step)
        while step < self.plan.total_steps and not interrupt.requested:
            progress, phase = self.phase(progress, step)
            interrupt.requested = self._agree(progress.masks, interrupt.requested)
            before, step = step, step + self.plan.inner_steps
            seconds = time.perf_counter() - start
            ends_epoch = self.plan.epochs_done(step) > self.plan.epochs_done(before)
            last = step >= self.plan.total_steps
            score = None
            if ends_epoch or last:
                score = -self.validate(progress, step, phase, seconds)
                if step <= self.plan.prune_step:
                    score = None  # what is yet to be pruned is not the best network
            seconds = time.perf_counter() - start
            stale = time.perf_counter() - saved_at > CHECKPOINT_SECONDS
            if ends_epoch or last or stale or interrupt.requested:
                self.save(progress, step, seconds, score)
                saved_at = time.perf_counter()
        return progress, seconds

    def phase(self, progress: Progress, step: int) -> tuple[Progress, dict[str, Any]]:
        """One swap, if it is due, and M steps; logged and checked."""
        begin = time.perf_counter()
        self.display.start_phase(step, self.plan.inner_steps)
        progress, swap = self.swap(progress, step)
        swap_seconds = time.perf_counter() - begin
        state, traces = feeds.advance(
            self.method,
            progress.state,
            progress.masks,
            self.feed,
            step,
            self.plan.inner_steps,
            self.display.tick,
        )
        self._check_finite(traces, state, step)
        end = step + self.plan.inner_steps
        event = {
            "event": "phase",
            "step": end,
            "epoch": end / self.plan.steps_per_epoch,
            **{name: float(np.mean(values)) for name, values in traces.items()},
            "learning_rate": float(np.asarray(self._rate(end - 1))),
            **swap,
            "swap_seconds": swap_seconds,
            "seconds": time.perf_counter() - begin,
        }
        self.log.append(event)
        self.display.end_phase(event)
        return progress._replace(state=state), event

    def swap(self, progress: Progress, step: int) -> tuple[Progress, dict[str, float]]:
        """Removal and addition before a phase, except before the first."""
        num_batches = self.method.num_growth_batches(step) if step else 0
        state, masks, event = progress.state, progress.masks, {}
        if num_batches:
            state, masks, event = self.method.swap(
                state,
                masks,
                *self.feed.batches(step, num_batches),
                _host_rng(self.config.seed, step),
            )
            event["iou_previous"] = masks_lib.overlap(masks, progress.masks)
            event["iou_first"] = masks_lib.overlap(masks, progress.first_masks)
        elif step and masks:
            event = {"iou_previous": 1.0}
            event["iou_first"] = masks_lib.overlap(masks, progress.first_masks)
        return progress._replace(state=state, masks=masks), event

    def validate(
        self, progress: Progress, step: int, phase: dict[str, Any], seconds: float
    ) -> float:
        """Evaluates the mean network on the validation split; returns its NLL."""
        data, config = self.data, self.config
        event: dict[str, Any] = {
            "event": "epoch",
            "step": step,
            "epoch": self.plan.epochs_done(step),
            "val": self._scores(progress, data.val_images, data.val_labels),
        }
        if config.test_every and event["epoch"] % config.test_every == 0:
            event["test"] = self._scores(progress, data.test_images, data.test_labels)
            if data.corruption:
                event["test_corrupted"] = self._scores(
                    progress, data.corruption.test_images, data.test_labels
                )
        event["elapsed_seconds"] = seconds
        self.log.append(event)
        self.display.epoch(phase, event)
        return event["val"]["nll"]

    def _scores(self, progress: Progress, images, labels) -> dict[str, float]:
        probs = predictive.predict_mean(
            self.method.problem.apply_fn,
            progress.state.weights,
            progress.masks,
            images,
            backend=predictive.backend_for(progress.masks, self.config.backend),
            average=self.config.average,
        )
        return metrics.evaluate(probs, labels)

    def save(
        self, progress: Progress, step: int, seconds: float, score: float | None
    ) -> None:
        """Writes a checkpoint in the background; a failure tells what is kept."""
        if self.checkpoints is not None:
            self.checkpoints.save(step, progress, {"seconds": seconds}, score=score)

    def _agree(self, masks: Masks, signal: int) -> int:
        """The signal to stop for, if any, once all processes are found to be alike."""
        values = {"data": self.data.source, **self.config.as_dict()}
        settings = {k: v for k, v in values.items() if k not in NOT_COMPARED}
        return processes.check_same(settings, masks, signal)

    def _check_finite(
        self, traces: dict[str, np.ndarray], state: State, step: int
    ) -> None:
        bad = ~np.isfinite(traces["loss"])
        where = f"step {step + int(np.argmax(bad)) + 1}"
        if not bad.any():
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.weights)):
                return
            where = f"the weights after step {step + len(bad)}"
        steps = self.checkpoints.steps if self.checkpoints else []
        kept = f"checkpoint {steps[-1]} is kept" if steps else "no checkpoint yet"
        raise InputError(
            f"the loss or a weight is not finite at {where}; {kept}. Lower "
            "--learning-rate or raise --prior-std, and choose another --out."
        )


def _host_rng(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(_HOST_STREAM, step))
    )

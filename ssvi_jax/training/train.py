"""The experiments' training: a configuration and a data set, on the loop of `fit`.

What belongs to a run folder and to a terminal are callbacks: the log, the bar,
validation, checkpoints, and that several processes stay alike.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.rows import num_rows
from ssvi_jax.data import Dataset
from ssvi_jax.data.augment import for_inputs
from ssvi_jax.data.shifted import check_corruption
from ssvi_jax.io.checkpoint import Restored
from ssvi_jax.io.run_log import RunLog
from ssvi_jax.methods.problem import Algorithm, Problem
from ssvi_jax.networks import whitening
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.ops import backend
from ssvi_jax.training import feeds, processes, session
from ssvi_jax.training.callbacks import Callback, Phase, Progress, Session
from ssvi_jax.training.display import Display
from ssvi_jax.training.interrupt import Interrupt
from ssvi_jax.training.run_config import NOT_COMPARED, Config
from ssvi_jax.training.saving import Saving
from ssvi_jax.training.validation import Validation
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import predictive
from ssvi_jax.vi.statistics import gathered

_STATISTICS_STREAM = 0x73746174  # separates what is gathered from what is trained

_BATCH = 500  # inputs of which statistics are gathered at once

WHITENED = 5000
"""Training images that whitening filters are made of, as K. Jordan does."""


class Trained(NamedTuple):
    """A finished (or interrupted) training.

    Attributes:
      network: the network's function.
      algorithm: the method, built on the problem.
      progress: the last state, or the best by validation NLL once finished.
      step: the step that `progress` is of.
      signal: number of the signal that stopped it; 0: it is finished.
      seconds: training time, summed over continuations; evaluation included.
    """

    network: ImageNetwork
    algorithm: Algorithm
    progress: Progress
    step: int
    signal: int
    seconds: float

    @property
    def problem(self) -> Problem:
        """What the method was built on."""
        return self.algorithm.problem


def build_problem(config: Config, data: Dataset) -> tuple[ImageNetwork, Problem]:
    """The network and the problem of a configuration on a data set.

    Raises:
      InputError: the training images are not corrupted as the configuration says.
    """
    check_corruption(data, config.data.train_corruption, config.data.train_severity)
    structure = config.method.structure
    spec = NetworkSpec(
        model=config.training.model,
        width=config.training.width,
        num_classes=data.num_classes,
        input_shape=data.train_images.shape[1:],
        mean=tuple(map(float, data.mean)),
        std=tuple(map(float, data.std)),
        rank1=structure.rank1,
        copies=structure.copies,
        dropout=structure.dropout,
        pixels=data.pixels,
    )
    network = ImageNetwork(spec, training_precision=config.training.precision)
    params, model_state = network.init(jax.random.key(config.run.seed))
    available = len(data.train_labels)
    num_data = min(config.data.train_size or available, available)
    if whitening.FILTERS in model_state:
        seen = data.train_images[: min(WHITENED, num_data)]
        images = network.prepare(jnp.asarray(seen))
        model_state = whitening.whitened(model_state, np.asarray(images))
    problem = Problem(
        apply_fn=network,
        params=params,
        model_state=model_state,
        layers=network.layers(params, model_state),
        num_data=num_data,
        total_steps=1,
        batch_size=config.training.batch_size,
        seed=config.run.seed,
        optimizer=config.training.optimizer(),
        augment=for_inputs(
            pad=data.pad, flip=data.flip, reflect=config.data.shifts == "reflect"
        ),
        execution=config.training.execution(streamed=data.is_streamed),
    )
    return network, problem


def asked(config: Config) -> session.Asked:
    """The length that a configuration asks for."""
    training = config.training
    if training.minutes:
        return session.Asked(minutes=training.minutes, inner_steps=training.inner_steps)
    return session.Asked(epochs=training.epochs, inner_steps=training.inner_steps)


def train(config: Config, data: Dataset, log: RunLog) -> Trained:
    """Trains, or continues with `resume`, until done or interrupted.

    Args:
      config: a resolved configuration.
      data: the data set; only its training and validation parts are read, unless
        `test_every` asks for test curves.
      log: the run folder; of several processes (see `processes`) the first writes.

    Raises:
      InputError: settings that do not fit together, a folder with another run in it,
        or a loss that is not finite (the last good checkpoint stays); or processes that
        do not train the same network.
    """
    network, problem = build_problem(config, data)
    first = processes.is_first()
    density = 1.0 - getattr(config.method, "sparsity", 0.0)
    why = backend.slower_because(config.training.training_backend, density)
    display = Display(silent=not first)
    if why:
        display.say(f"slower on this CPU than it could be: {why}")
    if config.training.minutes and not config.run.resume:
        display.say("timing the first steps, to know how many fit into the minutes")
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt(display.say))
        saving = RunSaving(config, data.source, log, notify=display.say)
        callbacks = [
            Logging(log),
            display,
            Agreement({"data": data.source, **config.as_dict()}, interrupt),
            RunValidation(config, data, log, display),
            saving,
        ]
        maker = feed(config, data, problem)
        key = jax.random.key(config.run.seed)
        trained = session.train(
            config.method, problem, maker, asked(config), key, callbacks
        )
        progress, step = trained.progress, int(trained.progress.state.step)
        if not interrupt.requested:
            step, progress = saving.best or (step, progress)
            progress = predicting(problem, progress, data, key)
    algorithm = trained.session.algorithm
    signal = interrupt.requested
    return Trained(network, algorithm, progress, step, signal, trained.seconds)


def predicting(
    problem: Problem, progress: Progress, data: Dataset, key: jax.Array
) -> Progress:
    """What of a training predicts: `regathered` where the network asks for it.

    Args:
      problem: what was trained, on an `ImageNetwork`.
      progress: the checkpoint that was chosen.
      data: what it was trained on.
      key: random key of the training.
    """
    network: Any = problem.apply_fn
    if not network.fast_statistics:
        return progress
    seen = data.train_images[: problem.num_data]
    return regathered(problem, progress, seen, key)


def regathered(
    problem: Problem, progress: Progress, x: Any, key: jax.Array
) -> Progress:
    """The progress with running statistics of what predicts; see `vi.statistics`.

    Args:
      problem: what was trained.
      progress: its end.
      x: training inputs ``[n, ...]``.
      key: random key of the training.
    """
    network: Any = problem.apply_fn
    state, masks = progress.state, progress.masks
    size = min(_BATCH, num_rows(x))
    options = {
        "key": jax.random.fold_in(key, _STATISTICS_STREAM),
        "augment": problem.augment,
        "backend": problem.execution.backend,
        "batch_size": size - size % network.num_members,  # rank-1 cuts equal blocks
    }
    copies = getattr(getattr(network, "structure", None), "copies", None)
    if copies is None:
        found = gathered(network, state.weights, masks, x, **options)
    else:
        subspace = masks_lib.to_subspace(masks, state.posterior)
        ones = [network.one(state.weights, subspace, k, None) for k in range(copies)]
        each = [gathered(network, w, kept, x, **options) for w, kept in ones]
        found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return progress._replace(state=state._replace(model_state=found))


def feed(config: Config, data: Dataset, problem: Problem) -> session.FeedMaker:
    """What makes the feed of a training, once its length is known."""
    if not data.is_streamed:
        number = problem.num_data
        images, labels = data.train_images[:number], data.train_labels[:number]
        on_device = problem.execution.keep((jnp.asarray(images), jnp.asarray(labels)))
        size, seed = problem.batch_size, problem.seed
        return lambda length: feeds.InMemory(on_device, size, seed)
    execution = problem.execution
    return lambda length: feeds.Streamed(
        data.train_images,  # type: ignore[arg-type]
        devices=execution.devices,
        parts=execution.accumulate,
        batch_size=problem.batch_size,
        inner_steps=length.inner_steps,
        total_steps=length.total_steps,
        num_data=problem.num_data,
        seed=problem.seed,
    )


class Logging(Callback):
    """Writes the metrics of every phase to the run folder."""

    def __init__(self, log: RunLog):
        self._log = log

    def __call__(self, phase: Phase) -> None:
        """Adds a line."""
        self._log.append({"event": "phase", "step": phase.step, **phase.metrics})


class Agreement(Callback):
    """Stops for a signal, in all processes at once, if all are found to be alike.

    Args:
      settings: what must be the same in all of them, JSON values.
      interrupt: which signal this process got.
    """

    def __init__(self, settings: Mapping[str, Any], interrupt: Interrupt):
        self._settings = {k: v for k, v in settings.items() if k not in NOT_COMPARED}
        self._interrupt = interrupt

    def __call__(self, phase: Phase) -> bool:
        """Compares settings and masks; True if any process got a signal."""
        self._interrupt.requested = processes.check_same(
            self._settings, phase.progress.masks, self._interrupt.requested
        )
        return bool(self._interrupt.requested)


class RunValidation(Validation):
    """Validation as a run logs and shows it, with test curves where they are asked for.

    Args:
      config: the run's configuration.
      data: the data set.
      log: the run folder.
      display: where the line of an epoch goes.
    """

    def __init__(self, config: Config, data: Dataset, log: RunLog, display: Display):
        super().__init__((data.val_images, data.val_labels))
        self._config, self._data = config, data
        self._log, self._display = log, display

    def __call__(self, phase: Phase) -> None:
        """Scores at the end of an epoch; checkpoints keep the best network."""
        if not phase.ends_epoch:
            return
        phase.metrics["validation"] = self.scores(phase)
        epoch = phase.session.epochs_done(phase.step)
        event: dict[str, Any] = {
            "event": "epoch",
            "step": phase.step,
            "epoch": epoch,
            "val": phase.metrics["validation"],
        }
        every, data = self._config.run.test_every, self._data
        if every and epoch % every == 0:
            event["test"] = self._score(phase, data.test_images)
            if data.corruption:
                event["test_corrupted"] = self._score(
                    phase, data.corruption.test_images
                )
        event["elapsed_seconds"] = phase.seconds
        self._log.append(event)
        self._display.epoch(phase.metrics, event)

    def scores(self, phase: Phase) -> dict[str, float]:
        """Of the mean network on the validation part."""
        return self._score(phase, self._data.val_images, self._data.val_labels)

    def _score(self, phase: Phase, images: Any, labels: Any = None) -> dict[str, float]:
        state, masks = phase.progress.state, phase.progress.masks
        probs = predictive.predict_mean(
            phase.session.algorithm.problem.apply_fn,
            state.weights,
            masks,
            images,
            backend=self._config.training.backend,
            average=self._config.run.average,
        )
        labels = self._data.test_labels if labels is None else labels
        return metrics.evaluate(probs, labels)


class RunSaving(Saving):
    """Checkpoints of a run folder, which holds one run.

    Args:
      config: the run's configuration.
      source: of its data.
      log: the run folder.
      notify: called with a line for a person.
    """

    def __init__(self, config: Config, source: str, log: RunLog, *, notify: Any):
        self._config, self._source, self._log = config, source, log
        super().__init__(
            log.folder,
            config.as_dict(),
            ignore=NOT_COMPARED,
            resume=config.run.resume,
            notify=notify,
        )

    def begin(self, session: Session, start: Progress) -> tuple[Progress, float] | None:
        """Begins the log, or cuts it off where the newest checkpoint is."""
        found = super().begin(session, start)
        if found is None:
            total = {"total_steps": session.total_steps}
            self._log.start(self._config.as_dict(), self._source, total)
        return found

    def continued(self, step: int, total_steps: int) -> None:
        """Cuts the log off there, and says so."""
        self._log.truncate(step, notify=self._notify)
        self._notify(f"resumed at step {step} of {total_steps}")

    def _find(self, start: Progress) -> Restored | None:
        resume, steps, folder = self._config.run.resume, self.steps, self._log.folder
        if self._log.has_summary and not steps:
            raise InputError(
                f"out: {folder} holds the results of a run but none of its "
                "checkpoints; choose another folder."
            )
        if not resume and (steps or self._log.has_run):
            raise InputError(
                f"out: {folder} already holds a run (checkpoints at steps {steps}); "
                "add --resume to continue it, or choose another folder."
            )
        found = super()._find(start)
        if resume and found is None:
            self._notify("--resume: no checkpoint there yet, starting anew")
        return found

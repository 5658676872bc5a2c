"""Callbacks that send the metrics of every phase to where others look at trainings."""

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssvi_jax.core import optional
from ssvi_jax.core.errors import InputError
from ssvi_jax.training.callbacks import Callback, Phase, Progress, Session


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers among metrics, those of nested ones as ``validation/nll``."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def settings(session: Session) -> dict[str, Any]:
    """What a training is called by, beside its metrics."""
    algorithm = session.algorithm
    problem = algorithm.problem
    return {
        "estimator": algorithm.estimator,
        "total_steps": problem.total_steps,
        "inner_steps": problem.inner_steps,
        "batch_size": problem.batch_size,
        "num_data": problem.num_data,
        "seed": problem.seed,
    }


class TensorBoard(Callback):
    """Writes the metrics of every phase for TensorBoard (by the package tensorboardX).

    Give it after what adds to the metrics, as functions of your own do.

    Args:
      folder: of the event file; one for each training.

    Raises:
      InputError: in training, if tensorboardX is not installed, or the folder cannot be
        written.
    """

    def __init__(self, folder: str | Path):
        self._folder = str(folder)
        self._writer: Any = None

    def begin(self, session: Session, start: Progress) -> None:
        """Opens the event file."""
        del session, start
        library = optional.load("tensorboardX", "TensorBoard", "tensorboard")
        try:
            self._writer = library.SummaryWriter(self._folder)
        except OSError as error:
            raise InputError(
                f"folder: got {self._folder}, which cannot be written ({error}), "
                "allowed: a folder, new or not."
            ) from error

    def __call__(self, phase: Phase) -> None:
        """Adds a point to every curve, at the steps done."""
        for name, value in scalars(phase.metrics).items():
            self._writer.add_scalar(name, value, phase.step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases(Callback):
    """Logs the metrics of every phase to a run of Weights & Biases.

    Args:
      run: what `wandb.init` returned, which stays open; None: one is begun with the
        training and finished with it.
      options: of `wandb.init` then, as ``project="digits"`` or ``mode="offline"``; the
        length, batch size and seed of the training are added to its ``config``.

    Raises:
      InputError: options beside a run; in training, if wandb is not installed.
    """

    def __init__(self, run: Any = None, **options: Any):
        if run is not None and options:
            raise InputError(
                f"run: got one and {', '.join(options)} too, allowed: a run, or "
                "options of wandb.init."
            )
        self._run: Any = run
        self._options, self._is_ours = options, run is None

    def begin(self, session: Session, start: Progress) -> None:
        """Begins a run, unless one was given."""
        del start
        if self._is_ours:
            library = optional.load("wandb", "WeightsAndBiases", "wandb")
            config = {**settings(session), **self._options.get("config", {})}
            self._run = library.init(**{**self._options, "config": config})

    def __call__(self, phase: Phase) -> None:
        """Logs them at the steps done."""
        self._run.log(scalars(phase.metrics), step=phase.step)

    def close(self) -> None:
        """Finishes the run, if it was begun here."""
        if self._is_ours and self._run is not None:
            self._run.finish()
            self._run = None

"""What a person sees while a run trains: a progress bar, and one line an epoch."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ssvi_jax.training.callbacks import Callback, Phase, Session


class Display(Callback):
    """A progress bar over training steps, with the time left.

    Args:
      silent: show nothing, as in a process that is not the first of several.
    """

    def __init__(self, *, silent: bool = False):
        self._epochs = 0
        self._step, self._phase_steps, self._phase_seconds = 0, 0, 0.0
        self._started = 0.0
        self.console = Console(highlight=False, soft_wrap=True, quiet=silent)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("compiling", total=None)

    def begin(self, session: Session, start: Any) -> None:
        """Starts the bar."""
        del start
        self._epochs = session.epochs_done(session.total_steps)
        self._progress.update(self._task, total=session.total_steps)
        self._progress.start()

    def close(self) -> None:
        """Removes the bar."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, markup=False)

    def before_phase(self, step: int, num_steps: int) -> None:
        """A phase of `num_steps` begins at `step`."""
        self._step, self._phase_steps = step, num_steps
        self._started = time.perf_counter()
        self._progress.update(self._task, completed=step)

    def tick(self) -> None:
        """Moves the bar inside a phase, at the speed of the phase before."""
        if self._phase_seconds:
            elapsed = time.perf_counter() - self._started
            done = self._phase_steps * min(elapsed / self._phase_seconds, 1.0)
            self._progress.update(self._task, completed=int(self._step + done))

    def __call__(self, phase: Phase) -> None:
        """Shows the loss and KL of the phase that ended."""
        event = phase.metrics
        self._phase_seconds = time.perf_counter() - self._started
        kl = f"  KL {event['kl']:.3g}" if event["kl"] else ""
        self._progress.update(
            self._task,
            completed=self._step + self._phase_steps,
            description=f"loss {event['loss']:.3f}{kl}",
        )

    def epoch(self, phase: Mapping[str, float], event: Mapping) -> None:
        """Prints the line of an epoch."""
        val = event["val"]
        kl = f"  KL {phase['kl']:.3g} nats" if phase["kl"] else ""
        trained = f"  train acc {phase['accuracy']:.3f}" if "accuracy" in phase else ""
        churn = f"  IoU {phase['iou_first']:.2f}" if "iou_first" in phase else ""
        where = f"epoch {event['epoch']:>3}/{self._epochs}"
        if not self._epochs:
            where = f"step {event['step']}"
        self.say(
            f"{where}  loss {phase['loss']:.3f}{kl}"
            f"{trained}  val acc {val['accuracy']:.3f}"
            f"  NLL {val['nll']:.3f}  ECE {val['ece']:.3f}{churn}"
            f"  {event['elapsed_seconds'] / 60:.1f} min"
        )


class ProgressBar(Display):
    """A progress bar with loss and time left, for `fit`; and a line a validation."""

    def __call__(self, phase: Phase) -> None:
        """Moves the bar; prints validation scores, where there are new ones."""
        super().__call__(phase)
        scores = phase.metrics.get("validation")
        if scores is not None:
            listed = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            epoch = phase.session.epochs_done(phase.step)
            self.say(f"epoch {epoch:>3}/{self._epochs}  {listed}")

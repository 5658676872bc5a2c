"""What a person sees while a run trains: a progress bar, and one line an epoch."""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """A progress bar over training steps; a context manager.

    Args:
      total_steps: length of the bar.
      epochs: for the epoch lines.
      silent: show nothing, as in a process that is not the first of several.
    """

    def __init__(self, total_steps: int, epochs: int, *, silent: bool = False):
        self._epochs = epochs
        self._total = total_steps
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
        self._task = self._progress.add_task("compiling", total=total_steps)

    def __enter__(self) -> Self:
        """Starts the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bar."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, markup=False)

    def start_phase(self, step: int, num_steps: int) -> None:
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

    def end_phase(self, event: Mapping[str, float]) -> None:
        """Shows the loss and KL of the phase that ended."""
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
        train = f"  train acc {phase['accuracy']:.3f}" if "accuracy" in phase else ""
        churn = f"  IoU {phase['iou_first']:.2f}" if "iou_first" in phase else ""
        self.say(
            f"epoch {event['epoch']:>3}/{self._epochs}  loss {phase['loss']:.3f}{kl}"
            f"{train}  val acc {val['accuracy']:.3f}"
            f"  NLL {val['nll']:.3f}  ECE {val['ece']:.3f}{churn}"
            f"  {event['elapsed_seconds'] / 60:.1f} min"
        )

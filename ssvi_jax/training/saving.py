"""Checkpoints of a training, and where to go on from them."""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ssvi_jax.io.checkpoint import Checkpoints, Restored
from ssvi_jax.training import processes
from ssvi_jax.training.callbacks import Callback, Phase, Progress, Session
from ssvi_jax.vi.state import is_packed

LOGGER = logging.getLogger("ssvi_jax")

CHECKPOINT_SECONDS = 60.0
"""Checkpoints are written at epoch ends, and when the last is older than this."""


class Saving(Callback):
    """Writes checkpoints in the background, and begins at the newest there is.

    Of several processes the first one alone reads and writes.

    Args:
      folder: of the training; checkpoints go to ``checkpoints`` in it.
      settings: JSON values that a continuation must share.
      ignore: names in `settings` that may differ.
      resume: go on from what is there.
      notify: called with a line for a person.

    Attributes:
      best: step and progress of the checkpoint with the best validation score, once the
        training is at its end; None: there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        ignore: Collection[str] = (),
        resume: bool = True,
        notify: Callable[[str], None] = LOGGER.info,
    ):
        self.best: tuple[int, Progress] | None = None
        self._folder = Path(folder) / "checkpoints"
        self._resume, self._notify = resume, notify
        self._saved_at, self._saved_step = time.perf_counter(), -1
        self._checkpoints: Checkpoints | None = None
        self._settings, self._ignore = settings, ignore

    def _open(self) -> Checkpoints:
        """Makes the folder, which a training that is refused leaves unmade."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(
                self._folder,
                self._settings,
                ignore=self._ignore,
                any_size=is_packed,
                notify=self._notify,
            )
        return self._checkpoints

    def planned_steps(self) -> int | None:
        """Those of the training that is continued, in all processes."""
        planned = self._planned() if self._resume and processes.is_first() else None
        return json.loads(processes.agreed(json.dumps(planned)))

    def _planned(self) -> int | None:
        extra = self._open().newest_extra() if self._folder.is_dir() else None
        return None if extra is None else int(extra["total_steps"])

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are there."""
        return self._checkpoints.steps if self._checkpoints else []

    def begin(self, session: Session, start: Progress) -> tuple[Progress, float] | None:
        """The newest checkpoint, in all processes."""
        if processes.is_first():
            self._open()
        found = processes.from_first(partial(self._find, start), start, is_packed)
        if found is None:
            return None
        self._saved_step = found.step
        session.notes.update(found.extra.get("notes", {}))
        self.continued(found.step, session.total_steps)
        return found.tree, float(found.extra["seconds"])

    def continued(self, step: int, total_steps: int) -> None:
        """Says that a training was found, and where it is."""
        of = f"the training in {self._folder.parent}"
        if step < total_steps:
            self._notify(f"{of} continues at step {step} of {total_steps}")
        else:
            LOGGER.warning("%s was finished at step %s: nothing was trained", of, step)

    def _find(self, start: Progress) -> Restored | None:
        return self._open().restore(start) if self._resume else None

    def __call__(self, phase: Phase) -> None:
        """Saves at the end of an epoch, or if the last checkpoint is old."""
        stale = time.perf_counter() - self._saved_at > CHECKPOINT_SECONDS
        if phase.ends_epoch or stale:
            self._save(phase)

    def end(self, phase: Phase) -> None:
        """Saves where the training is left, and reads the best checkpoint."""
        if phase.step and phase.step != self._saved_step:
            self._save(phase)
        if self._checkpoints is not None:
            found = self._checkpoints.restore(phase.progress, best=True)
            self.best = None if found is None else (found.step, found.tree)

    def _save(self, phase: Phase) -> None:
        scores = phase.metrics.get("validation")
        pruned = phase.step > phase.session.algorithm.prune_step
        score = -scores["nll"] if scores and pruned else None
        if self._checkpoints is not None:
            extra = {
                "seconds": phase.seconds,
                "total_steps": phase.session.total_steps,
                "notes": dict(phase.session.notes),
            }
            self._checkpoints.save(phase.step, phase.progress, extra, score=score)
        self._saved_at, self._saved_step = time.perf_counter(), phase.step

    def kept(self) -> str:
        """Which checkpoint there is."""
        return f"checkpoint {self.steps[-1]} is kept" if self.steps else ""

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._checkpoints is not None:
            self._checkpoints.close()

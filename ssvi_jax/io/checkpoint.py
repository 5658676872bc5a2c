"""Checkpoints of a run: written in the background, read back before they count.

The last three and the best are kept; the others are deleted once a later one has been
read back, so a save that cannot be read never takes the place of one that can. What
Orbax does not offer is added here: the step back to an older checkpoint when the newest
is damaged, and the refusal to go on with another configuration.
"""

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from ssvi_jax.core.errors import InputError
from ssvi_jax.io.orbax_folder import OrbaxFolder
from ssvi_jax.io.snapshot import differences, on_host, rebuild

LOGGER = logging.getLogger("ssvi_jax")

_FORMAT = 2
_NUM_LATEST = 3


class Restored(NamedTuple):
    """What `Checkpoints.restore` returns.

    Attributes:
      step: the step it was saved under.
      tree: arrays in the structure of the example tree.
      extra: the JSON values that were saved beside them.
    """

    step: int
    tree: Any
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder; use it as a context manager.

    Example::

      with Checkpoints(out / "checkpoints", config, ignore={"out", "resume"}) as saved:
          restored = saved.restore(like=state)
          ...
          saved.save(step, state, {"epoch": 3}, score=val_accuracy)
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        ignore: Collection[str] = (),
        any_size: Callable[[str], bool] = lambda path: False,
        notify: Callable[[str], None] | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens the folder, creates it if need be, and clears interrupted saves.

        Args:
          folder: where the checkpoints lie; nothing else should lie there.
          config: the run's configuration, saved with every checkpoint; nested
            mappings are compared field by field under dotted names.
          ignore: names of fields that may differ at a restart.
          any_size: which leaves, by their path, may be read back with other lengths
            than those of the example tree; see `snapshot.rebuild`.
          notify: is told of damaged checkpoints; by default the logger "ssvi_jax".
          read_only: change nothing on disk, as for a run that may still be training.

        Raises:
          InputError: the folder cannot be created or read.
        """
        self._folder = Path(folder).absolute()
        self._config = _as_json(dict(config))
        self._ignore = frozenset(ignore)
        self._any_size = any_size
        self._notify = notify or LOGGER.warning
        self._read_only = read_only
        self._scores: dict[int, float] = {}
        self._damaged: set[int] = set()
        self._writing: tuple[int, Future[None]] | None = None
        with self._advice():
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._files = OrbaxFolder(self._folder, read_only=read_only)
            steps = self.steps
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._may_save = not (read_only or steps)
        for step in steps:
            self._read_score(step)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the last save and closes."""
        self.close()

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending; one still being written included."""
        writing = [] if self._writing is None else [self._writing[0]]
        return sorted({*self._files.steps, *writing})

    def save(
        self,
        step: int,
        tree: Any,
        extra: Mapping[str, Any] | None = None,
        *,
        score: float | None = None,
    ) -> None:
        """Starts to write a checkpoint; returns once everything is copied.

        The arrays may be donated or overwritten as soon as this returns. Waits for
        the save before it. A step that is saved already is not written again.

        Any Orbax opens the tree, at ``<folder>/<step>/state``: random keys as their raw
        bits, None where an array has no elements.

        Args:
          step: training step, higher than every step saved before.
          tree: pytree of arrays.
          extra: JSON values, for example the position in the data.
          score: validation metric, higher is better; None never is the best.

        Raises:
          InputError: this or the previous save could not be written and read back
            (disk full, no permission); the folder holds checkpoints that were never
            restored; or the score is not finite.
        """
        if score is not None and not math.isfinite(score):
            raise InputError(f"score: got {score}, allowed: a finite number or None.")
        if not self._may_save:
            raise InputError(
                f"{self._folder} holds checkpoints of an earlier run (steps "
                f"{_listed(self.steps)}). Resume that run, or choose another folder."
            )
        self.wait()
        if step in self._damaged:
            with self._advice():
                self._files.delete(step)
            self._damaged.discard(step)
        if step in self.steps:
            return
        meta = _as_json(
            {
                "format": _FORMAT,
                "config": self._config,
                "extra": dict(extra or {}),
                "score": None if score is None else float(score),
            }
        )
        self._writing = (
            step,
            self._worker.submit(self._write, step, on_host(tree), meta),
        )

    def restore(self, like: Any, *, best: bool = False) -> Restored | None:
        """The newest checkpoint that is whole, or None if there is none at all.

        Args:
          like: pytree with the structure, shapes and dtypes to restore. Where a leaf
            is a jax array so is the result, else NumPy.
          best: the one with the highest score instead of the newest.

        Raises:
          InputError: every checkpoint is damaged, or it was saved with another
            configuration or for another model.
        """
        self.wait()
        steps = self._candidates(best)
        for step in steps:
            try:
                meta, arrays = self._files.read(step)
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises whatever its readers raise.
                self._damaged.add(step)
                self._notify(
                    f"The checkpoint {self._folder / str(step)} is damaged "
                    f"({_first_line(error)}); trying the one before it."
                )
                continue
            if meta["format"] != _FORMAT:
                raise InputError(
                    f"{self._folder / str(step)} is of format {meta['format']}, this "
                    f"version reads {_FORMAT}. Use the version that wrote it."
                )
            _check_config(self._folder, meta["config"], self._config, self._ignore)
            tree = rebuild(like, arrays, self._any_size)
            self._may_save = not self._read_only
            if self._may_save and not best:
                self._delete({*self.steps} - self._kept() - self._damaged)
            return Restored(step, tree, meta["extra"])
        if steps:
            raise InputError(
                f"{self._folder}: every checkpoint is damaged (steps {_listed(steps)})."
                " Choose another folder and train from the start."
            )
        return None

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          InputError: the save under way could not be written and read back.
        """
        if self._writing is not None:
            _, written = self._writing
            error = written.exception()
            self._writing = None
            if error is not None:
                with self._advice():
                    raise error

    def close(self) -> None:
        """Waits, then frees Orbax's threads. Raises like `wait`."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._files.close()

    def _write(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Writes one checkpoint and deletes those that it makes surplus."""
        self._files.write(step, tree, meta)
        if meta["score"] is not None:
            self._scores[step] = meta["score"]
        self._delete({*self._files.steps} - self._kept())

    def _kept(self) -> set[int]:
        """The last three whole checkpoints and the best, of equal ones the earliest."""
        whole = [step for step in self._files.steps if step not in self._damaged]
        scored = [step for step in whole if step in self._scores]
        best = sorted(scored, key=lambda step: -self._scores[step])[:1]
        return {*whole[-_NUM_LATEST:], *best}

    def _delete(self, steps: Collection[int]) -> None:
        """Deletes checkpoints, the oldest first."""
        with self._advice():
            for step in sorted(steps):
                self._files.delete(step)

    @contextmanager
    def _advice(self) -> Iterator[None]:
        """Turns whatever Orbax raises into `InputError`."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # a full disk arrives as OSError or ValueError
            raise InputError(_no_write(self._folder, error)) from error

    def newest_extra(self) -> dict[str, Any] | None:
        """`extra` of the newest checkpoint that can be read; None: there is none."""
        for step in self._files.steps[::-1]:
            try:
                return self._files.read_meta(step)["extra"]
            except Exception:  # `restore` will name what is wrong with it
                continue
        return None

    def _read_score(self, step: int) -> None:
        """Notes the score of a checkpoint found on disk; without one if damaged."""
        try:
            score = self._files.read_meta(step)["score"]
        except Exception:  # `restore` will name what is wrong with it
            return
        if isinstance(score, float) and math.isfinite(score):
            self._scores[step] = score

    def _candidates(self, best: bool) -> list[int]:
        """Steps in the order in which `restore` tries them."""
        if not best:
            return self.steps[::-1]
        scored = [step for step in self.steps if step in self._scores]
        return sorted(scored, key=lambda step: -self._scores[step])


def _as_json(values: Any) -> Any:
    """The values as they will be read back; paths and the like become text."""
    return json.loads(json.dumps(values, default=str))


def _check_config(
    folder: Path,
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    ignore: Collection[str],
) -> None:
    """Raises `InputError` that lists the fields in which two configurations differ."""
    if unlike := differences(_flat(saved, ignore), _flat(now, ignore)):
        raise InputError(
            f"{folder}: the checkpoint was saved with another configuration:\n"
            f"{unlike}\nResume with the saved values, or choose another folder."
        )


def _flat(
    config: Mapping[str, Any], ignore: Collection[str], prefix: str = ""
) -> dict[str, str]:
    """Dotted field name → printed value, without the ignored fields."""
    flat: dict[str, str] = {}
    for field, value in config.items():
        name = f"{prefix}{field}"
        if name in ignore:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, ignore, f"{name}.")
        else:
            flat[name] = json.dumps(value)
    return flat


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, sorted(steps)))


def _first_line(error: Exception) -> str:
    """What went wrong, short enough for one line of a terminal."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _no_write(folder: Path, error: Exception) -> str:
    return (
        f"{folder}: a checkpoint could not be written ({_first_line(error)}). Earlier "
        "checkpoints are untouched. Free space or choose a folder that is writable."
    )

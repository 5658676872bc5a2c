"""Checkpoints of a run: written in the background, verified when read.

Orbax writes them asynchronously and commits each by renaming a finished folder, so a
process killed at any moment leaves the earlier ones whole. The last three and the best
are kept; the others are renamed before they are deleted, so that none is ever seen in
part. What Orbax does not offer is added here: a SHA-256 over every byte, the step
back to an older checkpoint when the newest is damaged, and the refusal to go on with
another configuration.
"""

import json
import logging
import math
import shutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssvi_jax.core.errors import InputError
from ssvi_jax.io.preservation import LastAndBest
from ssvi_jax.io.snapshot import differences, digest, from_bytes, to_bytes

_FORMAT = 1
_DELETED = "deleted"
"""Folder of the checkpoints that are about to be deleted."""


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
            than those of the example tree; see `snapshot.from_bytes`.
          notify: is told of damaged checkpoints; prints to standard error by default.
          read_only: change nothing on disk, as for a run that may still be training.

        Raises:
          InputError: the folder cannot be created or read.
        """
        self._folder = Path(folder).absolute()
        self._config = _as_json(dict(config))
        self._ignore = frozenset(ignore)
        self._any_size = any_size
        self._notify = notify or (lambda text: print(text, file=sys.stderr))
        self._policy = LastAndBest()
        self._read_only = read_only
        _quieten_orbax()
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=False,
            lightweight_initialize=True,
            save_root_metadata=False,
            preservation_policy=self._policy,
            todelete_subdir=None if read_only else _DELETED,
            multiprocessing_options=_this_process_alone(),
            # Else threads wait for a folder that cannot be made, and keep the process
            # from ending for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        try:
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._empty()
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise InputError(_no_write(self._folder, error)) from error
        self._may_save = not (read_only or self.steps)
        for step in self.steps:
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
        return sorted(self._manager.all_steps())

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

        Args:
          step: training step, higher than every step saved before.
          tree: pytree of arrays; boolean arrays are stored as packed bits.
          extra: JSON values, for example the position in the data.
          score: validation metric, higher is better; None never is the best.

        Raises:
          InputError: this or the previous save could not be written (disk full, no
            permission); the folder holds checkpoints that were never restored; or the
            score is not finite.
        """
        if score is not None and not math.isfinite(score):
            raise InputError(f"score: got {score}, allowed: a finite number or None.")
        if not self._may_save:
            raise InputError(
                f"{self._folder} holds checkpoints of an earlier run (steps "
                f"{_listed(self.steps)}). Resume that run, or choose another folder."
            )
        self.wait()
        if step in self._policy.damaged:
            self._manager.delete(step)
            self._policy.damaged.discard(step)
        if step in self.steps:
            return
        data, leaves = to_bytes(tree)
        meta = _as_json(
            {
                "format": _FORMAT,
                "config": self._config,
                "extra": dict(extra or {}),
                "score": None if score is None else float(score),
                "leaves": leaves,
            }
        )
        meta["sha256"] = digest(meta, data)
        self._start(step, data, meta)

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
                meta, data = self._read(step)
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises whatever its readers raise.
                self._policy.damaged.add(step)
                self._notify(
                    f"The checkpoint {self._folder / str(step)} is damaged "
                    f"({_first_line(error)}); trying the one before it."
                )
                continue
            _check_config(self._folder, meta["config"], self._config, self._ignore)
            tree = from_bytes(like, data, meta["leaves"], self._any_size)
            self._may_save = not self._read_only
            if self._may_save and not best:
                self._delete_surplus()
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
          InputError: the save under way could not be written.
        """
        with self._advice():
            self._manager.wait_until_finished()
            if not self._read_only:
                self._empty()

    def close(self) -> None:
        """Waits, then frees Orbax's threads. Raises like `wait`."""
        try:
            self.wait()
        finally:
            # Orbax repeats here, without advice, what a failed save has raised.
            with self._advice():
                self._manager.close()

    def _empty(self) -> None:
        """Deletes what Orbax has only renamed."""
        if (self._folder / _DELETED).exists():
            shutil.rmtree(self._folder / _DELETED)

    def _delete_surplus(self) -> None:
        """Deletes what a killed process saved too many; a finished one never saves."""
        surplus = {*self.steps} - self._policy.kept(self.steps) - self._policy.damaged
        with self._advice():
            for step in sorted(surplus):
                self._manager.delete(step)
            self._empty()

    def _start(self, step: int, data: np.ndarray, meta: dict[str, Any]) -> None:
        """Hands one checkpoint to Orbax.

        The state goes as a single array: of many, those still being read when one
        turns out to be damaged would print their own errors later.
        """
        if meta["score"] is not None:
            self._policy.scores[step] = meta["score"]
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave({"bytes": data}), meta=ocp.args.JsonSave(meta)
        )
        with self._advice():
            self._manager.save(step, args=args, force=True)

    @contextmanager
    def _advice(self) -> Iterator[None]:
        """Turns whatever Orbax raises into `InputError`."""
        try:
            yield
        except Exception as error:  # a full disk arrives as OSError or ValueError
            raise InputError(_no_write(self._folder, error)) from error

    def _read(self, step: int) -> tuple[dict[str, Any], np.ndarray]:
        """Reads and verifies one checkpoint; any exception means that it is damaged."""
        args = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(), meta=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=args)
        meta, data = found["meta"], found["state"]["bytes"]
        if meta.pop("sha256") != digest(meta, data):
            raise ValueError("its checksum is wrong")
        return meta, data

    def newest_extra(self) -> dict[str, Any] | None:
        """`extra` of the newest checkpoint that can be read; None: there is none."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        for step in self.steps[::-1]:
            try:
                return self._manager.restore(step, args=args)["meta"]["extra"]
            except Exception:  # `restore` will name what is wrong with it
                continue
        return None

    def _read_score(self, step: int) -> None:
        """Notes the score of a checkpoint found on disk; without one if damaged."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        try:
            score = self._manager.restore(step, args=args)["meta"]["score"]
        except Exception:  # `restore` will name what is wrong with it
            return
        if isinstance(score, float) and math.isfinite(score):
            self._policy.scores[step] = score

    def _candidates(self, best: bool) -> list[int]:
        """Steps in the order in which `restore` tries them."""
        if not best:
            return self.steps[::-1]
        scored = [step for step in self.steps if step in self._policy.scores]
        return sorted(scored, key=lambda step: -self._policy.scores[step])


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


def _this_process_alone() -> ocp.options.MultiprocessingOptions:
    """Without it Orbax waits for other processes, which call nothing here."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=str(index),
    )


def _quieten_orbax() -> None:
    """Drops Orbax's log lines; every failure it logs also reaches us as an error.

    When several of its asyncio tasks fail at once it raises the first error, and
    asyncio prints those that nobody asked for.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _is_not_orbax not in logger.filters:
            logger.addFilter(_is_not_orbax)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    raised = traceback.walk_tb(record.exc_info[2] if record.exc_info else None)
    files = [record.pathname, *(frame.f_code.co_filename for frame, _ in raised)]
    return not any("orbax" in Path(file).parts for file in files)

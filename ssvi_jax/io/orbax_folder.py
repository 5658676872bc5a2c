"""Checkpoints in one folder, in Orbax's format: a subfolder a step, whole or not there.

A checkpoint is written aside, read back and compared, and only then renamed to its
step; deleting begins with a rename. So nothing is ever seen in part, and what is seen
was readable. A step has two items, ``state`` (a tree of arrays, for any Orbax) and
``meta`` (JSON), and ``sha256sums``, which ``sha256sum -c`` reads too: every file is
checked before Orbax reads any. Everything here blocks.
"""

import errno
import hashlib
import logging
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.io.snapshot import Arrays, named, same, table

_APART = "unfinished"
_SUMS = "sha256sums"
_SAFE = re.compile(r"[A-Za-z0-9_./+=,@-]*")


class OrbaxFolder:
    """Reads, writes and deletes the checkpoints of one folder.

    Args:
      path: the folder; its name may hold anything.
      read_only: change nothing there, as in the folder of a run that is still training.
    """

    def __init__(self, path: Path, *, read_only: bool):
        self._path = path
        self._link: tempfile.TemporaryDirectory | None = None
        _quieten_orbax()
        processes = _this_process_alone()
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=processes)
        )
        self._orbax = ocp.Checkpointer(handler, multiprocessing_options=processes)
        if not read_only:
            self._clear()

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending; none in a folder that is not there."""
        if not self._path.exists():
            return []
        return sorted(int(p.name) for p in self._path.iterdir() if p.name.isdecimal())

    def write(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Writes a checkpoint.

        Args:
          step: one that is not there.
          tree: pytree of NumPy arrays; those without elements, which Orbax cannot
            store, become None.
          meta: JSON values; the `table` of the arrays is added as ``leaves``.

        Raises:
          InputError: Orbax would take two arrays of the tree for the same.
          Exception: whatever Orbax raises if it fails, or what it wrote reads back
            differently.
        """
        arrays = named(tree)
        _check_names(arrays)
        self._clear()
        items = {
            "state": ocp.args.PyTreeSave(jax.tree.map(_unless_empty, tree)),
            "meta": ocp.args.JsonSave(meta | {"leaves": table(arrays)}),
        }
        place = f"{self._new_place()}/{step}"
        self._orbax.save(self._safe() / place, args=ocp.args.Composite(**items))
        if not same(self._read(place)[1], arrays):
            raise ValueError("what was written reads back differently")
        written = self._path / place
        (written / _SUMS).write_text(_sums(written))
        written.rename(self._path / str(step))
        self._clear()

    def read(self, step: int) -> tuple[dict[str, Any], Arrays]:
        """The meta and the arrays; any exception means that the checkpoint is damaged.

        Fields of named tuples, and positions, are names in the arrays' paths.
        """
        folder = self._path / str(step)
        if not (folder / _SUMS).exists():
            raise ValueError(f"it is without {_SUMS}, as an earlier version wrote it")
        if _sums(folder) != (folder / _SUMS).read_text():
            raise ValueError("its checksum is wrong")
        return self._read(str(step))

    def read_meta(self, step: int) -> dict[str, Any]:
        """The meta alone, unverified; any exception means that it is damaged."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._orbax.restore(self._safe() / str(step), args=args)["meta"]

    def delete(self, step: int) -> None:
        """Deletes a checkpoint."""
        (self._path / str(step)).rename(self._path / self._new_place() / str(step))
        self._clear()

    def close(self) -> None:
        """Frees what Orbax holds."""
        self._orbax.close()
        if self._link is not None:
            self._link.cleanup()

    def _read(self, place: str) -> tuple[dict[str, Any], Arrays]:
        """What Orbax finds there."""
        args = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(), meta=ocp.args.JsonRestore()
        )
        found = self._orbax.restore(self._safe() / place, args=args)
        empty = {
            path: np.zeros(shape, dtype)
            for path, (dtype, shape) in found["meta"]["leaves"].items()
            if 0 in shape
        }
        return found["meta"], named(found["state"]) | empty

    def _new_place(self) -> str:
        """A new folder aside, by its path from this one."""
        (self._path / _APART).mkdir(exist_ok=True)
        new = tempfile.mkdtemp(dir=self._path / _APART)
        return str(Path(new).relative_to(self._path))

    def _clear(self) -> None:
        """Deletes what is unfinished, or what a killed process left so.

        After a save that failed, Orbax's threads may write on for a while: what they
        add while this deletes stays until the next time.
        """
        try:
            shutil.rmtree(self._path / _APART)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def _safe(self) -> Path:
        """The folder by a path that Orbax takes as it is.

        It searches folders by patterns (etils' glob) into which their paths go
        unescaped, and TensorStore takes a backslash for a slash: with brackets in its
        path a checkpoint is saved without its arrays, and nothing is said.
        """
        if _SAFE.fullmatch(str(self._path)):
            return self._path
        if self._link is None:
            self._link = tempfile.TemporaryDirectory(prefix="ssvi-checkpoints-")
            if not _SAFE.fullmatch(self._link.name):
                raise InputError(
                    f"TMPDIR: got {tempfile.gettempdir()}, allowed here: letters, "
                    "digits and ._/+=,@- in the name of the folder for temporary files."
                )
            Path(self._link.name, "to").symlink_to(self._path)
        return Path(self._link.name, "to")


def _sums(folder: Path) -> str:
    """SHA-256 of every file in a folder, in the format of ``sha256sum``."""
    names = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*")}
    lines = []
    for name in sorted(names.keys() - {_SUMS}):
        if names[name].is_file() and not names[name].name.startswith("."):
            with names[name].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {name}\n")
    return "".join(lines)


def _unless_empty(array: np.ndarray) -> np.ndarray | None:
    return array if array.size else None


def _check_names(arrays: Arrays) -> None:
    """Raises `InputError` where two are one to Orbax, which joins names by a dot."""
    found: dict[str, str] = {}
    for path in arrays:
        other = found.setdefault(".".join(trees.unjoin(path)), path)
        if other != path:
            raise InputError(
                f"tree: {other} and {path} have the same names joined with a dot, so "
                "Orbax cannot tell them apart; rename one."
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
    """Drops what Orbax prints; every failure that it tells also reaches us as an error.

    When several of its asyncio tasks fail at once it raises the first error, and
    asyncio prints those that nobody asked for; those that end later find their event
    loop closed.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _is_not_orbax not in logger.filters:
            logger.addFilter(_is_not_orbax)
    if not isinstance(sys.unraisablehook, _Quieter):
        sys.unraisablehook = _Quieter(sys.unraisablehook)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    raised = traceback.walk_tb(record.exc_info[2] if record.exc_info else None)
    files = [record.pathname, *(frame.f_code.co_filename for frame, _ in raised)]
    return not any("orbax" in Path(file).parts for file in files)


class _Quieter:
    """`sys.unraisablehook` without TensorStore's results of which nobody waits."""

    def __init__(self, otherwise: Callable[[Any], Any]):
        self._otherwise = otherwise

    def __call__(self, unraisable: Any) -> None:
        """Prints what the hook before would; TensorStore's names no object."""
        came_late = str(unraisable.exc_value) == "Event loop is closed"
        if not (came_late and unraisable.object is None):
            self._otherwise(unraisable)

"""The files of a run folder: config.json, metrics.jsonl, summary.json, predictions."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.io import json_text, run_files

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunLog:
    """Writes a run's files; every file but the growing log appears whole or not at all.

    As a context manager it leaves no empty folder behind: one that it made is removed
    at the end if nothing was written into it, because the run was refused.

    Args:
      folder: the run folder, created if need be.
      silent: writes nothing, as in a process that is not the first of several.

    Raises:
      InputError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path, *, silent: bool = False):
        self.folder = folder
        self.metrics_path = folder / "metrics.jsonl"
        self._silent = silent
        self._made: list[Path] = []
        if silent:
            return
        try:
            self._made = [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            self._remove_empty()
            raise InputError(
                f"out: cannot write to {folder} ({error.strerror}); allowed: a "
                "folder on a disk with free space that you may write to."
            ) from error

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the folders that it made, if they are empty."""
        self._remove_empty()

    def _remove_empty(self) -> None:
        for folder in self._made:
            with suppress(OSError):  # it holds something, or never came to be
                folder.rmdir()

    @property
    def has_run(self) -> bool:
        """Whether a run has logged something here."""
        return self.metrics_path.exists() or self.has_summary

    @property
    def has_summary(self) -> bool:
        """Whether a run came to its end here."""
        return run_files.is_finished(self.folder)

    def start(
        self,
        config: Mapping[str, Any],
        data_source: str,
        planned: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins a run at step 0: writes config.json, drops what was logged before.

        Args:
          config: the configuration, JSON values.
          data_source: of the data.
          planned: what was found out of the training besides, as its length.
        """
        if self._silent:
            return
        about = {"data_source": data_source, **(planned or {}), **environment()}
        self.write_json("config.json", {"config": dict(config), **about})
        self.metrics_path.unlink(missing_ok=True)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes `name` in one step; NaN is refused by `json`."""
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        self._replace(name, text.encode())

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        if self._silent:
            return
        path = self.metrics_path
        with _writing(path), path.open("a") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")

    def truncate(
        self, step: int, notify: Callable[[str], object] = lambda text: None
    ) -> None:
        """Drops what was logged after `step`, and whatever follows a damaged line.

        Args:
          step: of the checkpoint that the run goes on from.
          notify: is told if the log does not reach as far as that.
        """
        if self._silent or not self.metrics_path.exists():
            return
        kept, last = [], 0
        for line in self.metrics_path.read_bytes().split(b"\n"):
            try:
                event = json_text.parse(line)
                if event["step"] > step:
                    break
            except (ValueError, TypeError, LookupError):
                break
            kept.append(line + b"\n")
            last = event["step"]
        self._replace(self.metrics_path.name, b"".join(kept))
        if last < step:
            notify(
                f"{self.metrics_path} was damaged: what was logged after step {last} "
                "is lost"
            )

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes an .npz file `name` in one step."""
        path, temporary = self.folder / name, self.folder / f".{name}.tmp"
        with _writing(path):
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            os.replace(temporary, path)

    def _replace(self, name: str, content: bytes) -> None:
        path, temporary = self.folder / name, self.folder / f".{name}.tmp"
        with _writing(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)


def check_writable(folder: Path) -> None:
    """Raises `InputError` unless a run could be written there; changes nothing."""
    with RunLog(folder):
        pass


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns errors of the file system into advice."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"out: cannot write {path} ({error.strerror or error}). Checkpoints are "
            "kept: free space or mend the folder, then continue with --resume."
        ) from error


def environment() -> dict[str, Any]:
    """Command, versions, hardware and git commit, for config.json."""
    devices = jax.devices()
    return {
        "command": _command(),
        "python": platform.python_version(),
        "versions": {
            "ssvi_jax": ssvi_jax.__version__,
            **{p: _version(p) for p in PACKAGES},
        },
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "processor": _processor(),
        "num_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "git_commit": _git_commit(),
    }


def _command() -> str:
    """What a person would type again; "ssvi" is found whatever folder it is in."""
    script, *rest = sys.argv
    start = ["ssvi"] if Path(script).stem == "ssvi" else ["python", script]
    return shlex.join([*start, *rest])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def _git_commit() -> str | None:
    """Commit of the source tree, with "+changes" where files differ from it."""
    root = Path(__file__).parent.parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")

"""Reads back what a run left in its folder; knows the file names and nothing else."""

import json
import zipfile
from pathlib import Path

import numpy as np

from ssvi_jax.errors import InputError


def read_events(run_dir: str | Path) -> list[dict]:
    """The lines of metrics.jsonl, oldest first.

    Raises:
      InputError: if the file is missing or a line is not JSON.
    """
    path = Path(run_dir) / "metrics.jsonl"
    return [
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(_read(path).splitlines(), start=1)
    ]


def read_summary(run_dir: str | Path) -> dict:
    """The content of summary.json.

    Raises:
      InputError: if the file is missing or not JSON.
    """
    path = Path(run_dir) / "summary.json"
    return _parse(_read(path), str(path))


def read_predictions(run_dir: str | Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz; empty where a run did not predict.

    Raises:
      InputError: if the file is damaged.
    """
    path = Path(run_dir) / "predictions.npz"
    return read_arrays(path) if path.exists() else {}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      InputError: if the file is missing or damaged.
    """
    try:
        # NumPy leaves a file that it opened itself open when it cannot read it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged or not an npz file ({error}). Evaluate the run again."
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"run_dir: {path} is missing. Give the folder that a run left (its --out)."
        ) from error


def _parse(text: str, where: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            f"{where}: not JSON ({error}). Resume or repeat the run to write it anew."
        ) from error

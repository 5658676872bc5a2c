"""Reads back what a run left in its folder; knows the file names and nothing else."""

from pathlib import Path

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import json_text
from ssvi_jax.io.npy import read_npz


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


def is_finished(run_dir: str | Path) -> bool:
    """Whether a run has its results; written last."""
    return (Path(run_dir) / "summary.json").exists()


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
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged or not an npz file ({error}). Evaluate the run again."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"run_dir: {path} is missing. Give the folder that a run left (its --out)."
        ) from error


def _parse(text: bytes, where: str) -> dict:
    try:
        values = json_text.parse(text)
        if not isinstance(values, dict):
            raise ValueError("a list or a single value")
        return values
    except ValueError as error:
        raise InputError(
            f"{where}: not JSON ({error}). Resume or repeat the run to write it anew."
        ) from error

"""What must be true of a run folder after a fault, and after the run was resumed."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ssvi_jax.io import container
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.io.snapshot import to_bytes
from ssvi_jax.training.run_config import NOT_COMPARED


def checkpoints(folder: Path) -> dict[int, str]:
    """Step → SHA-256 of what it restores, or what is wrong with it; changes nothing."""
    if not (folder / "checkpoints").is_dir():
        return {}
    found = {}
    with Checkpoints(folder / "checkpoints", {}, read_only=True) as saved:
        for step in saved.steps:
            try:
                meta, arrays = saved._files.read(step)
            except Exception as error:  # whatever Orbax's readers raise
                found[step] = f"damaged: {type(error).__name__}"
                continue
            text = json.dumps([meta["score"], meta["leaves"]]).encode()
            found[step] = hashlib.sha256(text + to_bytes(arrays)).hexdigest()
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without wall-clock values."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the half-written last one
            break
        timed = {name for name in event if name.endswith("seconds")}
        whole.append({name: event[name] for name in event if name not in timed})
    return whole


def after_fault(
    folder: Path, whole: dict[int, str], steps: int, damaged: Collection[int] = ()
) -> list[str]:
    """What is wrong with the checkpoints that a fault left; nothing, if all is well.

    Args:
      folder: the run folder.
      whole: step → digest of every checkpoint of the undisturbed run.
      steps: of a phase, with a checkpoint after each.
      damaged: steps whose checkpoint was damaged on purpose.
    """
    found = checkpoints(folder)
    problems = [
        f"the checkpoint of step {step} is visible but {found[step][:40]}"
        for step in found
        if step not in damaged and found[step] != whole.get(step)
    ]
    logged = max(
        (e["step"] for e in events(folder) if e["event"] == "phase"), default=0
    )
    # Saving a phase's checkpoint waits for the one before it, so when a phase is logged
    # the checkpoint of two phases before is on the disk.
    if max(found, default=0) < logged - 2 * steps:
        problems.append(f"a checkpoint is lost: {sorted(found)} of {logged} steps")
    return problems


def same(folder: Path, other: Path) -> list[str]:
    """In what two finished runs differ, but for wall-clock values; nothing is well."""
    pairs = {
        "metrics.jsonl": events,
        "checkpoints (weights, masks, moments, key)": checkpoints,
        "predictions.npz": _arrays,
        "model.ssvi": lambda path: container.read(path / "model.ssvi"),
        "summary.json": _summary,
        "config.json": _config,
        "the files there are": _names,
    }
    return [
        f"{name} differs" for name, read in pairs.items() if read(folder) != read(other)
    ]


def _arrays(folder: Path) -> dict[str, bytes]:
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        return {name: stored[name].tobytes() for name in stored.files}


def _summary(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: summary[name] for name in summary if name != "train_minutes"}


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())["config"]
    return {name: config[name] for name in config if name not in NOT_COMPARED}


def _names(folder: Path) -> list[str]:
    """Also hidden and temporary ones: a resumed run cleans up behind a killed one."""
    found = [*folder.iterdir(), *(folder / "checkpoints").iterdir()]
    return sorted(str(path.relative_to(folder)) for path in found)

"""One JSON for a finished run, so that a comparison goes on wherever it was copied to.

A run folder has checkpoints and predictions. DIR/METHOD-SEED.json, beside the folder of
the runs, has what the comparison needs of it, and how it came about: small enough to
commit. Where its folder is gone, a run that has one is not trained again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift.inputs import Inputs
from ssvi_jax.io import json_text, run_files
from ssvi_jax.io.run_log import RunLog

LARGE = frozenset({"layers", "snr_histogram"})
"""Parts of a summary that a record leaves out."""


def path_of(run: Path) -> Path:
    """Where the record of a run is, by its folder DIR/runs/METHOD-SEED."""
    return run.parent.parent / f"{run.name}.json"


def evaluated_on(inputs: Inputs) -> dict[str, Any]:
    """What a run's values are values of."""
    return {
        "images": inputs.limit,
        "dataset": inputs.data.source,
        "corruptions": inputs.cells.source,
        "ood": {found.name: found.source for found in inputs.ood},
    }


def configuration(run: Path) -> Mapping[str, Any] | None:
    """The settings of a run, from its folder or else its record; None: it has neither.

    Raises:
      InputError: they are damaged.
    """
    for path, whole in ((run / "config.json", run), (path_of(run), path_of(run))):
        if path.exists():
            advice = f"delete {whole} to train it again"
            return _read(path, ("config",), advice)["config"]
    return None


def write(path: Path, run: Path, values: Mapping[str, float], inputs: Inputs) -> None:
    """Writes the record of a finished and evaluated run.

    Args:
      path: of the record.
      run: the run's folder.
      values: metric (see `table.METRICS`) → number.
      inputs: what they were computed on.
    """
    events = run_files.read_events(run)
    summary = run_files.read_summary(run)
    RunLog(path.parent).write_json(
        path.name,
        {
            **_read(run / "config.json", (), f"delete {run} to train it again"),
            "evaluated_on": evaluated_on(inputs),
            "values": dict(values),
            "curve": [event for event in events if event["event"] == "epoch"],
            "summary": {key: summary[key] for key in summary if key not in LARGE},
        },
    )


def read_values(path: Path, inputs: Inputs) -> dict[str, float]:
    """The values in a record.

    Raises:
      InputError: it is damaged, or its values are of other images.
    """
    advice = "delete it to train its run again"
    found = _read(path, ("evaluated_on", "values"), advice)
    wanted, there = evaluated_on(inputs), found["evaluated_on"]
    for name, now in wanted.items():
        if there.get(name) != now:
            raise InputError(
                f"{path}: scores of other images ({name}: {there.get(name)} there, now "
                f"{now}); give the same, or {advice}."
            )
    return dict(found["values"])


def _read(path: Path, groups: Iterable[str], advice: str) -> dict[str, Any]:
    """A record or a configuration that has these groups."""
    try:
        found = json_text.parse(path.read_bytes())
        for group in groups:
            if not isinstance(found[group], Mapping):
                raise TypeError(f"{group} is no group of values")
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); {advice}.") from error

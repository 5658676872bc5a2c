"""What a comparison says of its methods: means and standard errors over seeds."""

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison.runs import Outcome, Run
from ssvi_jax.evaluation.shift.inputs import Inputs
from ssvi_jax.io import json_text, run_log

FILE = "comparison.json"


def aggregate(runs: Sequence[Run]) -> dict[str, Any]:
    """Method → its seeds and, for every metric, the mean and its standard error.

    The standard error is s / √n, s² = Σ (x - mean)² / (n - 1) over n seeds; one seed
    has none (None). Methods keep the order in which they come.

    Args:
      runs: of all methods and seeds, at least one of each method listed.
    """
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = sorted((r for r in runs if r.method == method), key=lambda r: r.seed)
        metrics = {}
        for name in _shared(own):
            numbers = [run.values[name] for run in own]
            error = None
            if len(numbers) > 1:
                error = statistics.stdev(numbers) / math.sqrt(len(numbers))
            metrics[name] = {
                "mean": statistics.fmean(numbers),
                "standard_error": error,
                "values": numbers,
            }
        methods[method] = {"seeds": [run.seed for run in own], "metrics": metrics}
    return methods


def _shared(runs: Sequence[Run]) -> list[str]:
    """Metrics that all runs have; evaluations of an earlier version have fewer."""
    return [name for name in runs[0].values if all(name in r.values for r in runs)]


def build(
    outcome: Outcome, methods: Sequence[str], flags: Sequence[str], inputs: Inputs
) -> dict[str, Any]:
    """What comparison.json holds.

    Args:
      outcome: the runs.
      methods: names in the order of the table.
      flags: flags of `Config` that all runs got.
      inputs: what was evaluated on.
    """
    runs = sorted(outcome.runs, key=lambda run: methods.index(run.method))
    return {
        "about": {
            **run_log.environment(),
            "date": datetime.date.today().isoformat(),
            "run_flags": list(flags),
        },
        "dataset": inputs.data.source,
        "corruptions": inputs.cells.source,
        "ood": {found.name: found.source for found in inputs.ood},
        "methods": aggregate(runs),
        "failures": outcome.failures,
    }


def read(folder: Path) -> dict[str, Any]:
    """The content of a comparison's comparison.json.

    Raises:
      InputError: it is missing or is none.
    """
    return read_methods(folder / FILE, "run the comparison first, or give its --out")


def read_methods(path: Path, advice: str) -> dict[str, Any]:
    """A JSON file that has "methods".

    Args:
      path: the file.
      advice: what to do where there is none.

    Raises:
      InputError: it is missing, not JSON, or has no methods.
    """
    try:
        content = json_text.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {advice}.") from error
    methods = content.get("methods") if isinstance(content, Mapping) else None
    if not isinstance(methods, Mapping):
        raise InputError(f'{path}: there are no "methods" in it; {advice}.')
    return dict(content)

"""Reads back a corruption evaluation and answers the questions that reports ask of it.

What is optional in results.json (out-of-distribution sets, curves, a baseline, extra
corruptions) may be missing; what every report needs is checked on reading.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import json_text, run_files

_ADVICE = "Write it anew with ssvi evaluate."


class Report(NamedTuple):
    """What an evaluation left.

    Attributes:
      results: content of results.json.
      examples: arrays of examples.npz; empty where there is none.
    """

    results: Mapping[str, Any]
    examples: Mapping[str, np.ndarray]

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The models, in their order."""
        return self.results["runs"]

    @property
    def severities(self) -> list[int]:
        """Severities of every corruption, ascending."""
        return list(self.results["corruptions"]["severities"])

    @property
    def benchmark(self) -> list[str]:
        """Corruptions that averages are over."""
        return list(self.results["corruptions"]["benchmark"])

    @property
    def extra(self) -> list[str]:
        """Corruptions that are reported, but in no average."""
        return list(self.results["corruptions"].get("extra", ()))

    @property
    def ood(self) -> list[str]:
        """Names of the out-of-distribution sets."""
        return [found["name"] for found in self.results.get("ood", ())]

    @property
    def baseline(self) -> int:
        """Index of the run that others are compared with: the first without a name."""
        names = [run["name"] for run in self.runs]
        name = self.results.get("baseline")
        return names.index(name) if name in names else 0

    @property
    def labels(self) -> list[str]:
        """What each run is called."""
        return [str(run.get("label") or run["name"]) for run in self.runs]

    def cells(
        self, network: Mapping[str, Any], score: str, names: Sequence[str] | None = None
    ) -> np.ndarray:
        """One score of every cell of some corruptions, float64 ``[names, severities]``.

        Args:
          network: one of a run's networks.
          score: key of a cell, such as "accuracy".
          names: corruptions; default: the benchmark's.

        Returns:
          NaN where a cell has no such score.
        """
        chosen = self.benchmark if names is None else names
        rows = [
            [cell.get(score, np.nan) for cell in network["cells"][name]]
            for name in chosen
        ]
        return np.array(rows, np.float64).reshape(len(chosen), len(self.severities))

    def has(self, network: Mapping[str, Any], score: str) -> bool:
        """Whether clean images and every cell of the benchmark have a score.

        Predictions that an earlier version kept lack some.
        """
        cells = self.cells(network, score)
        return score in network["clean"] and not np.isnan(cells).any()


def headline(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network that a run is shown by: the posterior's average where it has one."""
    return run["networks"][run["headline"]]


def network_label(run: Mapping[str, Any], network: str) -> str:
    """What a network is called: "mc" → "posterior samples"; alone: "network"."""
    if network == "mc":
        return "posterior samples"
    return "mean network" if "mc" in run["networks"] else "network"


def read(folder: str | Path) -> Report:
    """The content of results.json and, where there is one, examples.npz.

    Args:
      folder: what an evaluation left.

    Raises:
      InputError: results.json is missing or damaged or lacks what every report needs,
        or examples.npz is damaged.
    """
    path = Path(folder) / "results.json"
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"folder: {path} is missing. Give the folder that an evaluation left."
        ) from error
    try:
        results = json_text.parse(text)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}). {_ADVICE}") from error
    _check(results, path)
    examples = Path(folder) / "examples.npz"
    arrays = run_files.read_arrays(examples) if examples.exists() else {}
    if arrays:
        _check_examples(arrays, examples)
    return Report(results, arrays)


def _check(results: Any, path: Path) -> None:
    try:
        corruptions = results["corruptions"]
        names = [*corruptions["benchmark"], *corruptions.get("extra", ())]
        num_severities = len(corruptions["severities"])
        if not results["runs"]:
            raise InputError(f"{path}: runs: got none, allowed: at least one.")
        if len({run["name"] for run in results["runs"]}) < len(results["runs"]):
            raise InputError(
                f"{path}: runs: got a name twice, allowed: once. {_ADVICE}"
            )
        for run in results["runs"]:
            _check_run(run, names, num_severities, path)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: damaged ({what}). {_ADVICE}") from error


def _check_run(
    run: Mapping[str, Any], names: Sequence[str], num_severities: int, path: Path
) -> None:
    where = f"{path}: run {run['name']!r}"
    if run["headline"] not in run["networks"]:
        allowed = ", ".join(run["networks"])[:500] or "no network is there"
        raise InputError(
            f"{where}: headline: got {run['headline']!r}, allowed: {allowed}. {_ADVICE}"
        )
    for network in run["networks"].values():
        for part in (network["clean"], network["summary"]):
            if not isinstance(part["accuracy"], int | float):
                raise TypeError(f"accuracy: {part['accuracy']!r}")
        for name in names:
            if len(network["cells"][name]) != num_severities:
                raise InputError(
                    f"{where}: cells of {name}: got {len(network['cells'][name])}, "
                    f"allowed: {num_severities}, one a severity. {_ADVICE}"
                )


def _check_examples(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    if missing := {"images", "looks", "labels"} - arrays.keys():
        raise InputError(f"{path}: no {', '.join(sorted(missing))}. {_ADVICE}")
    images, looks, labels = (arrays[name] for name in ("images", "looks", "labels"))
    if images.ndim != 5 or images.dtype != np.uint8:
        raise InputError(
            f"{path}: images: got {images.dtype} {images.shape}, allowed: uint8 "
            f"[images, looks, height, width, channels]. {_ADVICE}"
        )
    if looks.shape != images.shape[1:2] or labels.shape != images.shape[:2]:
        raise InputError(
            f"{path}: looks, labels: got {looks.shape}, {labels.shape}, allowed: "
            f"{images.shape[1:2]}, {images.shape[:2]} as of images. {_ADVICE}"
        )

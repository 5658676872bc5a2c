"""A corruption evaluation from models to results.json: predicts, then computes.

Every set is read once, predicted by all models, and dropped before the next is read.
"""

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ssvi_jax.core.errors import InputError
from ssvi_jax.data.corruptions import SEVERITIES
from ssvi_jax.evaluation.shift import results as shift_results
from ssvi_jax.evaluation.shift.examples import examples
from ssvi_jax.evaluation.shift.inputs import Inputs
from ssvi_jax.evaluation.shift.kept_predictions import Predictions
from ssvi_jax.evaluation.shift.options import NOT_COMPARED, ShiftConfig
from ssvi_jax.evaluation.shift.subjects import Source, Subject
from ssvi_jax.io import json_text, run_log

CLASS_NAMES = {
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
}
"""What the classes of a data set are called, where they have names."""


def open_folder(config: ShiftConfig, sources: Sequence[Source]) -> run_log.RunLog:
    """The report's folder: a new one, or with `resume` the newest.

    Args:
      config: the options.
      sources: the models; a continuation must be of the same.

    Raises:
      InputError: nothing to resume, other settings than before, or no permission.
    """
    newest, free, number = None, config.out / "corruptions", 1
    while free.exists():
        number += 1
        newest, free = free, config.out / f"corruptions-{number}"
    settings = _settings(config, sources)
    if not config.resume:
        log = run_log.RunLog(free)
        log.write_json("evaluation.json", settings)
        return log
    if newest is None:
        raise InputError(f"--resume: {free} is not there; leave --resume out.")
    _check_same(newest, settings)
    return run_log.RunLog(newest)


def _settings(config: ShiftConfig, sources: Sequence[Source]) -> dict[str, Any]:
    models = {source.name: source.digest for source in sources}
    unlike = NOT_COMPARED | {"run", "model", "checkpoint"}
    kept = {k: v for k, v in config.as_dict().items() if k not in unlike}
    return {**kept, "models": models}


def _check_same(folder: Path, now: dict[str, Any]) -> None:
    path = folder / "evaluation.json"
    try:
        before = dict(json_text.parse(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--resume: cannot read {path} ({error}).") from error
    if unlike := [name for name in now if before.get(name) != now[name]]:
        raise InputError(
            f"--resume: {folder} was evaluated with another {', '.join(unlike)}; give "
            "the same, or leave --resume out for a new folder."
        )


def evaluate(
    config: ShiftConfig, models: Sequence[Subject], inputs: Inputs, log: run_log.RunLog
) -> dict[str, Any]:
    """Predicts every set with every model; writes results.json and examples.npz.

    Args:
      config: the options.
      models: at least one, all of the inputs' data set.
      inputs: what to evaluate on.
      log: the report's folder.

    Returns:
      What results.json holds.

    Raises:
      InputError: an unknown baseline, predictions that are not finite, a full disk.
    """
    start = time.perf_counter()
    baseline = _baseline(config, models)
    predictions = Predictions(
        log.folder / "predictions", samples=config.samples, seed=config.seed
    )
    _predict_all(predictions, models, inputs)
    seconds = time.perf_counter() - start
    runs = shift_results.build(
        predictions,
        models,
        benchmark=inputs.benchmark,
        extra=inputs.extra,
        severities=SEVERITIES,
        ood=[found.name for found in inputs.ood],
        baseline=baseline,
    )
    results = {
        "about": {
            **run_log.environment(),
            "date": datetime.date.today().isoformat(),
            "evaluation_seconds": seconds,
        },
        **_described(inputs),
        "samples": config.samples,
        "seed": config.seed,
        "baseline": baseline,
        "runs": runs,
    }
    log.write_json("results.json", results)
    log.write_arrays("examples.npz", examples(predictions, models, inputs))
    return results


def _baseline(config: ShiftConfig, models: Sequence[Subject]) -> str | None:
    names = [model.name for model in models]
    if config.baseline is not None and config.baseline not in names:
        raise InputError(
            f"--baseline: got {config.baseline!r}, allowed: {', '.join(names)}."
        )
    if config.baseline is not None or len(models) == 1:
        return config.baseline
    dense = [m.name for m in models if m.about["method"] == "deterministic"]
    return [*dense, *names][0]


def _predict_all(
    predictions: Predictions, models: Sequence[Subject], inputs: Inputs
) -> None:
    names = inputs.names
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} sets"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            missing = [m for m in models if not predictions.has(m.name, name)]
            if missing:
                images = inputs.read(name)
                for model in missing:
                    predictions.get(model, images)
            progress.advance(task)


def _described(inputs: Inputs) -> dict[str, Any]:
    data, cells = inputs.data, inputs.cells
    dataset: dict[str, Any] = {
        "name": data.name,
        "source": data.source,
        "num_classes": data.num_classes,
        "test_images": min(
            inputs.limit or len(data.test_labels), len(data.test_labels)
        ),
    }
    if data.name in CLASS_NAMES:
        dataset["class_names"] = list(CLASS_NAMES[data.name])
    return {
        "dataset": dataset,
        "corruptions": {
            "kind": cells.kind,
            "source": cells.source,
            "benchmark": inputs.benchmark,
            "extra": inputs.extra,
            "severities": list(SEVERITIES),
            "images_per_cell": cells.num_images,
        },
        "ood": [
            {"name": found.name, "source": found.source, "images": len(found.images)}
            for found in inputs.ood
        ],
    }

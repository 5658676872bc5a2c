"""The runs of a comparison: trained, evaluated, and read back as numbers.

Every run is a folder as `ssvi train` leaves it, with its evaluation under
shift inside, and in the end a record beside them (`record`). What a folder or a record
holds is never done again, so a comparison continues wherever it was stopped, and a
method that fails leaves the others alone.
"""

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import Dataset, shifted
from ssvi_jax.evaluation.comparison import record, table
from ssvi_jax.evaluation.comparison.options import Comparison
from ssvi_jax.evaluation.run import figures, results
from ssvi_jax.evaluation.shift import evaluate as shift_run
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.evaluation.shift.inputs import Inputs
from ssvi_jax.evaluation.shift.options import ShiftConfig
from ssvi_jax.io import json_text, run_files
from ssvi_jax.io.run_log import RunLog
from ssvi_jax.training import train
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi.predictive import backend_for, predict

MAY_DIFFER = frozenset({"out", "resume", "data_dir", "preset", "figures"})
"""Fields of `Config` that a finished run and the one asked for need not share."""

TIMED_IMAGES, REPEATS = 500, 3
"""Prediction is timed on so many images, and the median of so many calls counts."""

OOD_SCORES = {"auroc": "entropy", "disagreement_auroc": "logit_disagreement"}
"""Metric → the score that foreign images are detected by (`detection.scores`); all
models have the first, those with a posterior the second."""


class Run(NamedTuple):
    """A finished and evaluated run.

    Attributes:
      method: its name in the comparison.
      seed: its seed.
      values: metric (see `table.METRICS`) → number.
    """

    method: str
    seed: int
    values: dict[str, float]


class Outcome(NamedTuple):
    """What became of the runs asked for.

    Attributes:
      runs: those that finished.
      failures: "METHOD-SEED" → why it did not.
      signal: number of the signal that stopped the training; 0: none did.
    """

    runs: list[Run]
    failures: dict[str, str]
    signal: int


def check_same(configs: Iterable[Config]) -> None:
    """Refuses folders in which something else was trained, before anything is.

    Raises:
      InputError: a run folder holds a run of another configuration, or is damaged.
    """
    for config in configs:
        folder = _folder(config)
        saved = record.configuration(folder)
        if saved is None:
            continue
        before = {**Config.of({"method": config.run.method}).as_dict(), **saved}
        unlike = [
            f"{name}: {str(before.get(name))[:100]} there, now {value}"
            for name, value in config.as_dict().items()
            if name not in MAY_DIFFER and before.get(name) != value
        ]
        if unlike:
            raise InputError(
                f"--out: {folder.parent.parent} holds a run with other settings "
                f"({'; '.join(unlike)}); give the same, or choose another --out."
            )


def run_all(
    configs: Sequence[Config],
    options: Comparison,
    inputs: Inputs,
    notify: Callable[[str], object] = print,
) -> Outcome:
    """Trains and evaluates what is missing, run by run.

    Args:
      configs: of the runs, in the order in which to do them.
      options: how to evaluate.
      inputs: what to evaluate on; its data set is trained on.
      notify: called with a line on every run.

    Raises:
      InputError: what every single run was refused with.
    """
    runs: list[Run] = []
    failures: dict[str, str] = {}
    refused: list[InputError] = []
    for number, config in enumerate(configs, start=1):
        folder = _folder(config)
        notify(f"run {number} of {len(configs)}: {folder}")
        try:
            if not record.path_of(folder).exists():
                if signal := train_run(config, inputs.data):
                    return Outcome(runs, failures, signal)
            runs.append(finished_run(folder, options, inputs))
        except Exception as error:  # another method may do better
            if isinstance(error, InputError):
                refused.append(error)
            else:
                traceback.print_exc()
            failures[folder.name] = str(error) or type(error).__name__
            notify(f"*** {folder.name} failed: {failures[folder.name]} ***")
    if configs and len(refused) == len(configs):
        raise refused[0]
    for folder in options.join:
        notify(f"joins: {folder}")
        runs.append(finished_run(folder, options, inputs))
    return Outcome(runs, failures, 0)


def check_joined(options: Comparison, methods: Iterable[str]) -> None:
    """Refuses what cannot join a comparison, before anything is trained.

    Args:
      options: with the folders of the runs to join.
      methods: names of the comparison's own.

    Raises:
      InputError: a folder is not named NAME-SEED, is named as another one or as a
        method of the comparison, or holds no finished run and has no record.
    """
    names = [folder.name for folder in options.join]
    for folder in options.join:
        name, _, seed = folder.name.rpartition("-")
        if not (name and seed.isdecimal()) or name in methods:
            raise InputError(
                f"--join: got {folder}, allowed: a run folder named NAME-SEED, as "
                "torch-0, where NAME is no method that is compared; rename it."
            )
        if names.count(folder.name) > 1:
            raise InputError(f"--join: got {folder.name} twice, allowed: each once.")
        if not (options.out / f"{folder.name}.json").exists():
            run_files.read_summary(folder)


def finished_run(folder: Path, options: Comparison, inputs: Inputs) -> Run:
    """A run that is trained, evaluated here where it is not yet, and recorded.

    Args:
      folder: of the run, NAME-SEED; without a finished run in it, the record counts.
      options: how to evaluate, and where records are.
      inputs: what to evaluate on.
    """
    name, _, seed = folder.name.rpartition("-")
    path = options.out / f"{folder.name}.json"
    if run_files.is_finished(folder):
        found = values(folder, evaluate_run(folder, options, inputs))
        record.write(path, folder, found, inputs)
    return Run(name, int(seed), record.read_values(path, inputs))


def train_run(config: Config, data: Dataset) -> int:
    """Trains one run or what is missing of it, and writes its results.

    Args:
      config: its configuration, with its folder.
      data: the clean data set.

    Returns:
      The number of the signal that stopped it; 0: it is finished.
    """
    with RunLog(_folder(config)) as log:
        if log.has_summary:
            return 0
        data = shifted.corrupt_training(
            data,
            config.data.train_corruption,
            config.data.train_severity,
            seed=config.run.seed,
        )
        started = log.has_run or (log.folder / "checkpoints").exists()
        trained = train.train(config.with_values(resume=started), data, log)
        if trained.signal:
            return trained.signal
        results.finish(config, data, trained, log)
        if config.run.figures:
            figures.make_figures(log.folder)
    return 0


def evaluate_run(folder: Path, options: Comparison, inputs: Inputs) -> dict[str, Any]:
    """Evaluates a finished run under shift, and times its predictions.

    Other settings than those of its newest evaluation get a new folder in the run's.
    See `finished_run` for the arguments.

    Returns:
      The run's entry in results.json, with the seconds that one image takes as
      "predict_seconds".
    """
    sources = subjects.find([folder], [], [])
    samples = run_files.read_summary(folder).get("samples") or 1  # 1: of a point
    shift = ShiftConfig(
        out=folder,
        resume=True,
        corruptions_dir=options.corruptions_dir,
        ood=options.ood,
        images=options.images,
        samples=samples,
    )
    try:
        log = shift_run.open_folder(shift, sources)
    except InputError:  # there is none, or it is of other settings
        log = shift_run.open_folder(replace(shift, resume=False), sources)
    done = log.folder / "timing.json"  # written last
    if not done.exists():
        model = subjects.load(sources[0], inputs.data)
        shift_run.evaluate(shift, [model], inputs, log)
        log.write_json(done.name, time_prediction(model, inputs.data, samples))
    (entry,) = _read(log.folder / "results.json")["runs"]
    return {**entry, **_read(done)}


def time_prediction(
    model: subjects.Subject, data: Dataset, samples: int
) -> dict[str, float]:
    """Seconds that a whole prediction of one image takes, in batches, once compiled.

    Args:
      model: a trained model.
      data: its data set; test images are predicted.
      samples: S, posterior samples; those and the mean network are computed.
    """
    images = data.test_images[:TIMED_IMAGES]
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        predict(
            model.network,
            model.weights,
            model.masks,
            images,
            key=jax.random.key(0),
            num_samples=samples,
            backend=backend_for(model.masks),
        )
        seconds.append(time.perf_counter() - start)
    return {"predict_seconds": statistics.median(seconds[1:]) / len(images)}


def values(folder: Path, shift: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run, from its summary, its log and its evaluation.

    Scores are those of the averaged samples, and of the one network of a point
    estimate; a posterior also has its mutual information and the NLL of its mean
    network. See `table.METRICS` for the names and units.

    Args:
      folder: the run folder.
      shift: what `evaluate_run` returned.
    """
    summary = run_files.read_summary(folder)
    events = run_files.read_events(folder)
    steps = max(event["step"] for event in events if event["event"] == "phase")
    sampled = summary["test"].get("mc")
    mean = summary["test"]["mean"]
    test = sampled or mean
    of_posterior = {}
    if sampled:
        of_posterior["mutual_information"] = sampled["mutual_information"]
        of_posterior["mean_nll"] = mean["nll"]
    network = shift["networks"][shift["headline"]]
    return {
        **{name: test[name] for name in ("accuracy", "nll", "ece", "brier")},
        **of_posterior,
        **{
            name: network["summary"][name]
            for name in table.CORRUPTED
            if name in network["summary"]
        },
        **{
            f"{metric}_{name}": found[score]["auroc"]
            for metric, score in OOD_SCORES.items()
            for name, found in network["ood"].items()
            if score in found
        },
        "weights_total": summary["weights_total"],
        "weights_kept": summary["weights_kept"],
        "state_bytes": summary["state_bytes"],
        "model_bytes": summary["model_file"]["bytes"],
        "train_flops": summary["train_step_flops"] * steps,
        "predict_flops": summary["predict_flops"],
        "train_seconds": 60 * summary["train_minutes"],
        "predict_seconds": shift["predict_seconds"],
    }


def _folder(config: Config) -> Path:
    assert config.run.out is not None, "a comparison gives every run its folder"
    return config.run.out


def _read(path: Path) -> dict[str, Any]:
    try:
        return json_text.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete {path.parent} to evaluate again."
        ) from error

"""The trained models that an evaluation compares, from what runs left on disk."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks, Weights
from ssvi_jax.data import Dataset, shifted
from ssvi_jax.io import artifact, json_text
from ssvi_jax.io.checkpoint import Checkpoints
from ssvi_jax.networks import network as network_lib
from ssvi_jax.networks.network import ImageNetwork
from ssvi_jax.training import budget, calibration, train
from ssvi_jax.training.callbacks import Progress
from ssvi_jax.training.run_config import NOT_COMPARED, Config
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.state import is_packed

MODEL_FILE = "model.ssvi"


class Source(NamedTuple):
    """Where a model lies, before anything heavy is read.

    Attributes:
      name: short, unique among those evaluated together.
      path: a model file, or a run's folder of checkpoints.
      run: configuration of the run that trained it.
    """

    name: str
    path: Path
    run: dict[str, Any]

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained on."""
        return str(self.run.get("dataset", "unknown"))

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, or of the checkpoints' checksums."""
        files = [self.path]
        if self.path.is_dir():
            files = sorted(p for p in self.path.rglob("*") if p.name == "sha256sums")
        content = b"".join(file.read_bytes() for file in files)
        return hashlib.sha256(content).hexdigest()


class Subject(NamedTuple):
    """A trained model, ready to predict.

    Attributes:
      name: see `Source`.
      label: what it is, for tables and legends.
      about: method, model, sparsity, weights kept and in total, path, and the factor
        on sigma where it was calibrated.
      network: its function.
      weights: its weights.
      masks: the selection its posterior is packed by; empty if deterministic.
    """

    name: str
    label: str
    about: dict[str, Any]
    network: ImageNetwork
    weights: Weights
    masks: Masks


def find(
    runs: Sequence[Path], models: Sequence[Path], checkpoints: Sequence[Path]
) -> list[Source]:
    """Where the named models lie.

    Args:
      runs: run folders; each holds a model file.
      models: model files.
      checkpoints: run folders, or the folders of checkpoints in them.

    Raises:
      InputError: one is not there or not what it was named as.
    """
    found = [_from_model(_in_run(run), run.resolve().name) for run in runs]
    found += [_from_model(path, _model_name(path)) for path in models]
    found += [_from_checkpoints(path) for path in checkpoints]
    return _unique(found)


def dataset(sources: Sequence[Source], asked: str) -> str:
    """The data set that all models were trained on, or the one asked for.

    Args:
      sources: the models.
      asked: a data set's name, or "auto".

    Raises:
      InputError: "auto", and the models were trained on different ones, or one does
        not say on which.
    """
    names = {source.dataset for source in sources}
    if asked != "auto":
        return asked
    for source in sources:
        if "dataset" not in source.run:
            raise InputError(
                f"{source.path}: does not say what data set it was trained on; give "
                "--dataset."
            )
    if len(names) > 1:
        each = ", ".join(f"{source.name}: {source.dataset}" for source in sources)
        raise InputError(
            f"--run: the models were trained on different data sets ({each}); compare "
            "those of one data set, or choose --dataset."
        )
    return names.pop()


def newest_run(folder: Path) -> Path | None:
    """The run folder directly in `folder` that finished last, or None."""
    files = folder.glob(f"*/{MODEL_FILE}")
    newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
    return None if newest is None else newest.parent


def load(source: Source, data: Dataset) -> Subject:
    """Reads a model.

    Args:
      source: where it lies.
      data: the data set that it is to be evaluated on.

    Raises:
      InputError: a damaged file, a checkpoint of another architecture, or a model for
        other images or classes.
    """
    if source.path.is_dir():
        network, weights, masks = _load_checkpoint(source, data)
    else:
        network, weights, masks = network_lib.load(source.path)
    spec, shape = network.spec, data.test_images.shape[1:]
    if (spec.input_shape, spec.num_classes) != (shape, data.num_classes):
        raise InputError(
            f"{source.path}: this model takes images {list(spec.input_shape)} of "
            f"{spec.num_classes} classes, but {data.name} has {list(shape)} of "
            f"{data.num_classes}. Choose --dataset, or another model."
        )
    about = _about(source, network, masks)
    return Subject(source.name, _label(about), about, network, weights, masks)


def _in_run(run: Path) -> Path:
    path = run / MODEL_FILE
    if path.is_file():
        return path
    advice = "Give the folder that a finished run left (its --out)."
    checkpoints = run / "checkpoints"
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        advice = (
            f"It has checkpoints: finish it with --resume, or use --checkpoint {run}."
        )
    raise InputError(f"--run: {path} is missing. {advice}")


def _model_name(path: Path) -> str:
    path = path.resolve()
    return path.parent.name if path.name == MODEL_FILE else path.stem


def _from_model(path: Path, name: str) -> Source:
    file = artifact.load(path)
    network_lib.check_ours(file, path, ".evaluate(x, y)")
    run = file.metadata.get("run", {})
    if not isinstance(run, dict):
        raise InputError(f"{path}: its metadata names no run; write it anew.")
    calibration.check(run, path)
    return Source(name, path, run)


def _from_checkpoints(path: Path) -> Source:
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    config = folder.parent / "config.json"
    if not folder.is_dir() or not config.is_file():
        raise InputError(
            f"--checkpoint: {folder} or {config} is missing. Give a run folder with "
            "checkpoints/ and config.json in it."
        )
    try:
        run = json_text.parse(config.read_bytes())["config"]
        run = {str(name): value for name, value in run.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--checkpoint: {config} is damaged ({error}).") from error
    return Source(folder.parent.resolve().name, folder, run)


def _unique(sources: Iterable[Source]) -> list[Source]:
    names: set[str] = set()
    result = []
    for source in sources:
        name, number = source.name, 1
        while name in names:
            number += 1
            name = f"{source.name}-{number}"
        names.add(name)
        result.append(source._replace(name=name))
    return result


def _load_checkpoint(
    source: Source, data: Dataset
) -> tuple[ImageNetwork, Weights, Masks]:
    config = _config(source)
    data = shifted.corrupt_training(
        data,
        config.data.train_corruption,
        config.data.train_severity,
        seed=config.run.seed,
    )
    network, problem = train.build_problem(config, data)
    per_epoch = problem.num_data // problem.batch_size
    steps = budget.steps_of(None, config.training.epochs, None, per_epoch=per_epoch)
    assert steps is not None
    length = budget.whole_phases(steps, config.training.inner_steps)
    algorithm = config.method.build(dataclasses.replace(problem, **length._asdict()))
    state, masks = algorithm.init(jax.random.key(0), np.random.default_rng(0))
    with Checkpoints(
        source.path,
        config.as_dict(),
        ignore=NOT_COMPARED,
        any_size=is_packed,
        read_only=True,
    ) as saved:
        found = saved.restore(Progress(state, masks, masks), best=True)
    if found is None:
        raise InputError(
            f"--checkpoint: {source.path} holds no checkpoint with a validation score; "
            "train for at least one epoch, and beyond the pruning if the method prunes."
        )
    key = jax.random.key(config.run.seed)
    progress = train.predicting(problem, found.tree, data, key)
    return network, progress.state.weights, progress.masks


def _config(source: Source) -> Config:
    try:
        return Config.of({**source.run, "data_dir": None, "out": None})
    except InputError as error:
        raise InputError(
            f"--checkpoint: {source.path.parent / 'config.json'} is not one of this "
            f"version ({error})."
        ) from error


def _about(source: Source, network: ImageNetwork, masks: Masks) -> dict[str, Any]:
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    total = sum(math.prod(layer.shape) for layer in network.layers(*shapes))
    kept = sum(masks_lib.counts(masks).values())
    dense = total - sum(mask.size for mask in masks.values())
    return {
        "path": str(source.path),
        "method": str(source.run.get("method", "unknown")),
        "model": network.spec.model,
        "seed": source.run.get("seed"),
        "sparsity": masks_lib.sparsity(masks) if masks else 0.0,
        "weights_kept": kept + dense,
        "weights_total": total,
        "sigma_factor": calibration.factor_in(source.run),
    }


def _label(about: dict[str, Any]) -> str:
    percent = (
        f"{100 * about['sparsity']:.4g} % sparse" if about["sparsity"] else "dense"
    )
    factor = about["sigma_factor"]
    stretched = "" if factor is None else f", σ × {factor:.3g}"
    return f"{about['method']}, {percent}{stretched}"

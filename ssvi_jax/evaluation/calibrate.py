"""Calibrates the posterior of a model file on the validation split of its data set.

On a model file that a run left::

    python -m ssvi_jax.evaluation.calibrate model.ssvi --out calibrated.ssvi

See `metrics.sigma_factor`. The result is a model file like any other, so an evaluation
under shift can compare it with the one that it came from.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ssvi_jax.core.command import check_new, program, run
from ssvi_jax.core.errors import InputError, check_count, check_images, check_seed

if TYPE_CHECKING:
    from ssvi_jax.data import Dataset
    from ssvi_jax.evaluation.shift.subjects import Source


@dataclasses.dataclass(frozen=True)
class Command:
    """Scales all standard deviations of a model by one factor, for the least NLL.

    The factor is chosen on validation images, which were not trained on, with the same
    draws for every factor. It is stored in the new file, with the temperature that it
    means.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model file (model.ssvi) that a run left."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Model file to write."""
    overwrite: bool = False
    """Write it even where there is a file, that of the model too."""
    samples: int | None = None
    """Posterior samples of a prediction, of each member; about 20 predictions are made.
    Default: as many as the run predicted with, or 10 where its file does not say."""
    images: int = 0
    """Use only the first so many validation images; 0: all."""
    seed: int = 0
    """Seed of the samples."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of sets prepared by TFDS (else $TFDS_DATA_DIR, ~/tensorflow_datasets)."""

    def __post_init__(self):
        if self.samples is not None:
            check_count("--samples", self.samples)
        check_images("--images", self.images)
        check_seed("--seed", self.seed)


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.evaluation.calibrate")
    command = tyro.cli(Command, args=list(argv), prog=prog)
    check_new("--out", command.out, overwrite=command.overwrite)
    import jax

    from ssvi_jax.evaluation.shift import subjects
    from ssvi_jax.io import artifact, container
    from ssvi_jax.networks import network as network_lib
    from ssvi_jax.networks import trace_graph
    from ssvi_jax.training import calibration, fitted

    container.check_file(command.out)  # before the search, which takes minutes
    file = artifact.load(command.model)
    network_lib.check_ours(file, command.model, ".calibrate(x, y).save(path)")
    trained = fitted.load(command.model)
    (source,) = subjects.find([], [command.model], [])
    data = _data(source, command)
    subjects.load(source, data)  # refuses a model of other images
    images, labels = data.val_images, data.val_labels[:]
    if command.images:
        images, labels = images[: command.images], labels[: command.images]
    samples = command.samples or _samples(file.metadata)
    found = trained.calibrate(
        images, labels, samples=samples, key=jax.random.key(command.seed)
    )
    artifact.save(
        command.out,
        found.weights,
        found.masks,
        config=file.config,
        half=file.half,
        metadata={**file.metadata, "run": dict(found.about)},
        graph=trace_graph.for_file(
            found.apply_fn,
            found.weights,
            found.masks,
            trace_graph.inputs_of(file.config),
            half=file.half,
            classes=True,
        ),
    )
    print(f"{len(labels)} validation images, {samples} samples: {data.source}")
    print(calibration.sentence(found.about["calibration"]))
    print(command.out)
    return 0


def _samples(metadata: Mapping[str, Any]) -> int:
    """Those of the run, which older files do not name."""
    found = metadata.get("samples")
    return found if type(found) is int and found > 0 else 10


def _data(source: "Source", command: Command) -> "Dataset":
    """The data set of a run, its validation images as the run had them."""
    from ssvi_jax import data
    from ssvi_jax.data import shifted

    run = source.run
    if "dataset" not in run:
        raise InputError(
            f"{source.path}: does not say what data set it was trained on, allowed: "
            "the model.ssvi of a run."
        )
    found = data.load(source.dataset, command.data_dir)
    if run.get("train_corruption", "none") == "none":
        return found
    try:
        name, severity = str(run["train_corruption"]), int(run["train_severity"])
        seed = int(run["seed"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{source.path}: what it says of its run is damaged ({error!r})."
        ) from error
    return shifted.corrupt_training(found, name, severity, seed=seed)


if __name__ == "__main__":
    run(main)

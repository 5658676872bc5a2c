"""The command `ssvi predict`: classes, and how sure they are, of a model file.

On a model file that a run left::

    ssvi predict model.ssvi images.npy --samples 10
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ssvi_jax.core import terminal
from ssvi_jax.core.command import program, run
from ssvi_jax.core.errors import InputError, check_count, check_seed

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Command:
    """Predicts classes of images or series with a trained model, and how sure it is.

    Prints one line an input: the class, its probability, the entropy of the prediction,
    the part of it that is due to uncertain weights (mutual information), and how far
    samples differ in the log-odds of their class (logit disagreement), in nats. Of one
    pass the last two are 0.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model file (model.ssvi) that a run left."""
    images: Annotated[Path, tyro.conf.Positional]
    """NumPy file: uint8 images [n, height, width, channels], pixels 0 to 255, or
    float32 series [n, time, features]."""
    samples: int = 10
    """Posterior samples."""
    seed: int = 0
    """Seed of the samples."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Also write probabilities, entropies and log-odds to this .npz file."""

    def __post_init__(self):
        check_count("--samples", self.samples)
        check_seed("--seed", self.seed)


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    prog = program("python -m ssvi_jax.evaluation.predict")
    command = tyro.cli(Command, args=list(argv), prog=prog)

    # Only now: the command line above is refused or explained without waiting for JAX.
    import jax
    import numpy as np

    from ssvi_jax.metrics import uncertainty
    from ssvi_jax.networks import network as network_lib
    from ssvi_jax.vi import predictive

    network, weights, masks = network_lib.load(command.model)
    spec = network.spec
    images = read_inputs(command.images, spec.input_shape, pixels=spec.pixels)
    prediction = predictive.predict(
        network,
        weights,
        masks,
        images,
        num_samples=command.samples,
        backend=predictive.backend_for(masks),
        key=jax.random.key(command.seed),
    )
    parts = uncertainty.uncertainty_from_entropies(
        prediction.mc_probs, prediction.sample_entropy
    )
    disagreement = uncertainty.logit_disagreement(prediction.sample_log_odds)
    head = "image  class  probability  entropy  mutual information  logit disagreement"
    print(terminal.fitted(head))
    for i, probs in enumerate(prediction.mc_probs):
        line = (
            f"{i:>5}  {np.argmax(probs):>5}  {probs.max():>11.4f}  "
            f"{parts.predictive_entropy[i]:>7.4f}  {parts.mutual_information[i]:>18.4f}"
            f"  {disagreement[i]:>18.4f}"
        )
        print(terminal.fitted(line))
    if command.out is not None:
        np.savez_compressed(command.out, **prediction._asdict())
    return 0


def read_inputs(path: Path, shape: tuple[int, ...], *, pixels: bool) -> "np.ndarray":
    """Reads inputs ``[n, *shape]`` of a network from a .npy file.

    Args:
      path: the file.
      shape: of one input.
      pixels: whether they are uint8 images; else they are float32.

    Raises:
      InputError: not such a file, or inputs of another shape or type.
    """
    import numpy as np

    from ssvi_jax.io import npy

    try:
        images = np.array(npy.open_npy(path))
    except (OSError, ValueError) as error:
        raise InputError(f"images: cannot read {path} as .npy: {error}") from error
    dtype, note = ("uint8", ", pixels 0 to 255") if pixels else ("float32", "")
    if images.dtype != dtype or images.shape[1:] != shape:
        raise InputError(
            f"images: {path} holds {images.dtype} {list(images.shape)}; this model "
            f"needs {dtype} [n, {', '.join(map(str, shape))}]{note}."
        )
    return images


if __name__ == "__main__":
    run(main)

"""Predictions with uncertainty from posterior samples and from the mean network.

As a command, on a model file that a run left::

    python -m ssvi_jax.predict model.ssvi images.npy --samples 10
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ssvi_jax import masks as masks_lib
from ssvi_jax import posterior as posterior_lib
from ssvi_jax import trees
from ssvi_jax.errors import InputError
from ssvi_jax.ops import backend as backend_lib
from ssvi_jax.ops import fold
from ssvi_jax.types import ApplyFn, Masks, Weights


class Prediction(NamedTuple):
    """Class probabilities of n inputs.

    Attributes:
      mc_probs: float32 ``[n, classes]``, averaged over the posterior samples.
      mean_probs: float32 ``[n, classes]``, of the network at the posterior mean.
      sample_entropy: float32 ``[samples, n]``, entropy (nats) of each sample's own
        prediction; the entropy of `mc_probs` minus its average is the mutual
        information between prediction and weights.
    """

    mc_probs: np.ndarray
    mean_probs: np.ndarray
    sample_entropy: np.ndarray


def predict(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks,
    x: np.ndarray,
    *,
    key: jax.Array,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "xla",
) -> Prediction:
    """Predicts with `num_samples` draws of the weights and with their mean.

    Each draw is one network for all inputs (weight sampling), so predictions of
    different inputs are coherent.

    Args:
      apply_fn: the network; returns logits.
      weights: posterior, deterministic parameters, running statistics.
      masks: the selection that the posterior is packed by.
      x: inputs ``[n, ...]`` in whatever form `apply_fn` takes.
      key: random key of the draws.
      num_samples: S, at least 1; weights without noise are drawn once.
      batch_size: inputs per call; the result does not depend on it beyond rounding.
      backend: what multiplies (see `ops.backend.choose`); "sparse" needs an `apply_fn`
        that takes packed kernels.

    Raises:
      InputError: no inputs, `num_samples` below 1, or logits that are not finite.
    """
    if num_samples < 1 or batch_size < 1:
        raise InputError(
            f"num_samples, batch_size: got {num_samples}, {batch_size}, allowed: 1 up."
        )
    if len(x) == 0:
        raise InputError("x: got no inputs, allowed: an array of at least one.")
    subspace = masks_lib.to_subspace(masks, weights.posterior)
    probs_of = partial(
        _probabilities, apply_fn, weights, subspace, x, batch_size, backend
    )
    mean_probs = probs_of(None)
    total, entropies = np.zeros(mean_probs.shape), []
    is_random = posterior_lib.is_random(weights.posterior)
    for i in range(num_samples if is_random else 1):
        if is_random:
            probs = probs_of(jax.random.fold_in(key, i))
        else:
            probs = mean_probs
        total += probs
        entropies.append(-np.sum(probs * np.log(np.maximum(probs, 1e-38)), axis=-1))
    return Prediction(
        (total / len(entropies)).astype(np.float32),
        mean_probs.astype(np.float32),
        np.stack(entropies).astype(np.float32),
    )


def backend_for(masks: Masks, asked: str = "auto") -> str:
    """What is to multiply with these masks: see `ops.backend.choose`."""
    return (
        backend_lib.choose(asked, 1.0 - masks_lib.sparsity(masks)) if masks else "xla"
    )


def predict_mean(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks,
    x: np.ndarray,
    *,
    batch_size: int = 500,
    backend: str = "xla",
) -> np.ndarray:
    """Float64 probabilities ``[n, classes]`` of the network at the posterior mean."""
    subspace = masks_lib.to_subspace(masks, weights.posterior)
    return _probabilities(apply_fn, weights, subspace, x, batch_size, backend, None)


_packed_sample = jax.jit(posterior_lib.packed_sample, static_argnames="backend")
_full_kernels = jax.jit(posterior_lib.full_kernels)


@partial(jax.jit, static_argnums=0)
def _batch_probabilities(apply_fn, params, kernels, model_state, x):
    def logits_of(params, kernels, model_state, x):
        options = {"kernels": kernels} if kernels else {}
        key = jax.random.key(0)
        return apply_fn(params, model_state, x, train=False, key=key, **options)[0]

    if kernels:
        # Where every layer takes its packed kernel, XLA drops the full ones.
        params = trees.merge(params, posterior_lib.full_kernels(kernels))
        logits = fold.evaluate(logits_of, params, kernels, model_state, x)
    else:
        logits = logits_of(params, None, model_state, x)
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def _probabilities(
    apply_fn, weights, subspace, x, batch_size, backend, key
) -> np.ndarray:
    """Float64 probabilities ``[n, classes]`` of one network, batch by batch.

    The network is one draw with the key, or the mean without. The last batch is filled
    up by repetition so that only one shape is compiled.
    """
    kernels = _packed_sample(weights.posterior, subspace, key, backend=backend)
    params = weights.params
    if backend != "sparse":
        params, kernels = trees.merge(params, _full_kernels(kernels)), None
    batch_size = min(batch_size, len(x))
    parts = []
    for start in range(0, len(x), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(x) - 1)
        batch = jnp.asarray(x[rows])
        probs = _batch_probabilities(
            apply_fn, params, kernels, weights.model_state, batch
        )
        parts.append(np.asarray(probs, np.float64)[: len(x) - start])
    result = np.concatenate(parts)
    if not np.isfinite(result).all():
        bad = int(np.argmin(np.isfinite(result).all(axis=-1)))
        raise InputError(
            f"prediction: input {bad} got a probability that is not finite; look for "
            "NaN in the input or in the model's weights."
        )
    return result


@dataclasses.dataclass(frozen=True)
class Command:
    """Predicts classes of images with a trained model, and how sure it is.

    Prints one line an image: the class, its probability, the entropy of the prediction
    and the part of it that is due to uncertain weights (mutual information), in nats.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model file (model.ssvi) that a run left."""
    images: Annotated[Path, tyro.conf.Positional]
    """NumPy file of uint8 images [n, height, width, channels], pixels 0 to 255."""
    samples: int = 10
    """Posterior samples."""
    seed: int = 0
    """Seed of the samples."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Also write probabilities and entropies to this .npz file."""

    def __post_init__(self):
        if self.samples < 1 or not 0 <= self.seed < 2**32:
            raise InputError(
                f"--samples, --seed: got {self.samples}, {self.seed}, allowed: at "
                "least 1, and 0 to 2^32 - 1."
            )


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    command = tyro.cli(Command, args=list(argv), prog="python -m ssvi_jax.predict")
    from ssvi_jax import network as network_lib
    from ssvi_jax import uncertainty

    network, weights, masks = network_lib.load(command.model)
    images = read_images(command.images, network.spec.image_shape)
    prediction = predict(
        network,
        weights,
        masks,
        images,
        num_samples=command.samples,
        backend=backend_for(masks),
        key=jax.random.key(command.seed),
    )
    parts = uncertainty.uncertainty_from_entropies(
        prediction.mc_probs, prediction.sample_entropy
    )
    print("image  class  probability  entropy  mutual information")
    for i, probs in enumerate(prediction.mc_probs):
        print(
            f"{i:>5}  {np.argmax(probs):>5}  {probs.max():>11.4f}  "
            f"{parts.predictive_entropy[i]:>7.4f}  {parts.mutual_information[i]:>18.4f}"
        )
    if command.out is not None:
        np.savez_compressed(command.out, **prediction._asdict())
    return 0


def read_images(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads uint8 images ``[n, *image_shape]`` from a .npy file.

    Raises:
      InputError: not such a file, or images of another shape or type.
    """
    try:
        with path.open("rb") as file:
            images = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"images: cannot read {path} as .npy: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != image_shape:
        raise InputError(
            f"images: {path} holds {images.dtype} {list(images.shape)}; this model "
            f"needs uint8 [n, {', '.join(map(str, image_shape))}], pixels 0 to 255."
        )
    return images


if __name__ == "__main__":
    from ssvi_jax import cli

    cli.run(main)

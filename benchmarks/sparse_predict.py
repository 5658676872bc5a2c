"""Times the prediction of a batch: samples or mean of a sparse network, dense PyTorch.

The library's side is its public functions, so drawing the samples, handing the images
over and checking the result are in its times. The masks are handed over in their device
form, made once, as a user does who predicts more than once.
"""

from functools import partial

import jax
import numpy as np
from train_step import Contestant, Library, timed

from ssvi_jax.vi import masks, predictive

SAMPLES = (1, 10)
MEAN, DENSE = "mean network", "torch, deterministic"


def sampled(num_samples: int) -> str:
    """Name of the contestant that draws so many samples."""
    return f"{num_samples} sample{'s' if num_samples > 1 else ''}"


def contestants(
    library: Library, batch_size: int, *, with_torch: bool
) -> dict[str, Contestant]:
    """Name → contestant, in the order in which they take turns.

    Args:
      library: a sparse network in training.
      batch_size: images, at most those of the library's data.
      with_torch: whether one dense deterministic forward pass takes part.
    """
    images = np.asarray(library.data[0][:batch_size])
    weights = library.state.weights
    subspace = masks.to_subspace(library.masks)
    common = (library.inference.apply_fn, weights, subspace, images)
    backend = library.inference.execution.backend

    def draw(num_samples: int) -> np.ndarray:
        mc_probs, *_ = predictive.predict_samples(
            *common,
            key=jax.random.key(0),
            num_samples=num_samples,
            backend=backend,
        )
        return mc_probs

    def mean() -> np.ndarray:
        return predictive.predict_mean(*common, backend=backend)

    found = {sampled(number): timed(partial(draw, number), 1) for number in SAMPLES}
    # Several calls a turn, so that all contestants' turns are of similar length.
    found[MEAN] = timed(mean, 5)
    if with_torch:
        import torch_resnet

        found[DENSE] = timed(torch_resnet.make_forward(batch_size), 3)
    return found

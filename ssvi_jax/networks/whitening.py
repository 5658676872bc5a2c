"""Filters that whiten patches of the training images, for a model that has a place.

The first layer of the CIFAR-10 speed records (K. Jordan 2024, arXiv 2404.00498, section
3.1): eigenvectors of the covariance of 2 x 2 patches, each divided by the root of its
eigenvalue, and their negatives. They are set once and not trained.
"""

import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import ModelState
from ssvi_jax.networks.models.airbench import FILTERS

EPSILON = 5e-4
"""Added to the eigenvalues."""


def filters(images: np.ndarray) -> np.ndarray:
    """The filters, as a kernel ``[2, 2, c, 8 c]``.

    Args:
      images: ``[n, h, w, c]``, normalized, at least 2 x 2; a few thousand are enough.
    """
    images = np.asarray(images, np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    channels = images.shape[-1]
    patches = np.moveaxis(windows, 3, -1).reshape(-1, 4 * channels)
    patches = patches - patches.mean(axis=0)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (vectors / np.sqrt(values + EPSILON))[:, ::-1]  # the largest first
    kernel = scaled.reshape(2, 2, channels, -1)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


def whitened(model_state: ModelState, images: np.ndarray) -> ModelState:
    """A model's state with the filters of these images, where it has a place for them.

    Args:
      model_state: running statistics and such, also of stacked copies.
      images: see `filters`.
    """
    if FILTERS not in model_state:
        return model_state
    layers = {
        name: {"filters": jnp.broadcast_to(filters(images), layer["filters"].shape)}
        for name, layer in model_state[FILTERS].items()
    }
    return {**model_state, FILTERS: layers}

"""Noise of single values: gaussian, shot, impulse and speckle.

Every corruption of this package is a function of uint8 images ``[n, h, w, 3]``, their
`Draws` and the parameters of one severity, and returns uint8 of the same shape.
"""

import numpy as np

from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.pixels import to_levels, to_unit


def gaussian_noise(images: np.ndarray, draws: Draws, std: float) -> np.ndarray:
    """Adds N(0, std²) to every value; `std` as a fraction of the range."""
    return to_levels(to_unit(images) + draws.normal(0.0, std, images.shape[1:]))


def shot_noise(images: np.ndarray, draws: Draws, photons: float) -> np.ndarray:
    """Counts Poisson photons; a white value expects `photons` of them."""
    return to_levels(draws.poisson(to_unit(images) * photons) / photons)


def impulse_noise(images: np.ndarray, draws: Draws, fraction: float) -> np.ndarray:
    """Sets a fraction of the values to 0 or 255, half of them each."""
    uniform = draws.uniform(0.0, 1.0, images.shape[1:])
    salted = np.where(uniform < fraction, np.uint8(255), images)
    return np.where(uniform < fraction / 2, np.uint8(0), salted)


def speckle_noise(images: np.ndarray, draws: Draws, std: float) -> np.ndarray:
    """Multiplies every value by 1 + N(0, std²)."""
    unit = to_unit(images)
    return to_levels(unit + unit * draws.normal(0.0, std, images.shape[1:]))

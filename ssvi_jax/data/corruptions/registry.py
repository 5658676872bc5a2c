"""The corruptions by name, with their parameters at each severity.

Parameters are those of CIFAR-10-C (Hendrycks and Dietterich 2019), in the order of the
functions' arguments; lengths are in pixels of a 32 × 32 image.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ssvi_jax.data.corruptions import blur, digital, pixel_noise, spatter, weather


class Corruption(NamedTuple):
    """A corruption and its parameters at severities 1 to 5."""

    apply: Callable[..., np.ndarray]
    parameters: tuple[tuple[float, ...], ...]


BENCHMARK: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        pixel_noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))
    ),
    "shot_noise": Corruption(
        pixel_noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))
    ),
    "impulse_noise": Corruption(
        pixel_noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))
    ),
    "defocus_blur": Corruption(
        blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    ),
    "glass_blur": Corruption(
        blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
    ),
    "motion_blur": Corruption(
        blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
    ),
    "zoom_blur": Corruption(
        blur.zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))
    ),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Corruption(
        weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    ),
    "fog": Corruption(
        weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    ),
    "brightness": Corruption(
        digital.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))
    ),
    "contrast": Corruption(
        digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))
    ),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        (
            (0, 0, 2.56),
            (1.6, 6.4, 2.24),
            (2.56, 1.92, 1.92),
            (3.2, 1.28, 1.6),
            (3.2, 0.96, 0.96),
        ),
    ),
    "pixelate": Corruption(
        digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))
    ),
    "jpeg_compression": Corruption(
        digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))
    ),
}
EXTRA: dict[str, Corruption] = {
    "speckle_noise": Corruption(
        pixel_noise.speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))
    ),
    "gaussian_blur": Corruption(
        blur.gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,))
    ),
    "spatter": Corruption(
        spatter.spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
    "saturate": Corruption(
        digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
    ),
}

ALL: dict[str, Corruption] = BENCHMARK | EXTRA

"""Light and colour, distortion, and what compression does."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.pixels import (
    hsv_to_rgb,
    mirror,
    reflect,
    rgb_to_hsv,
    to_levels,
    to_unit,
)
from ssvi_jax.data.corruptions.resample import read_at

_MIN_ARM = 10


def brightness(images: np.ndarray, draws: Draws, added: float) -> np.ndarray:
    """Adds to the value of HSV."""
    hue, saturation, value = rgb_to_hsv(to_unit(images))
    return to_levels(hsv_to_rgb(hue, saturation, np.minimum(value + added, 1.0)))


def saturate(
    images: np.ndarray, draws: Draws, factor: float, added: float
) -> np.ndarray:
    """Multiplies the saturation of HSV and adds to it; grey turns red where it adds."""
    hue, saturation, value = rgb_to_hsv(to_unit(images))
    saturation = np.clip(saturation * factor + added, 0.0, 1.0)
    return to_levels(hsv_to_rgb(hue, saturation, value))


def contrast(images: np.ndarray, draws: Draws, factor: float) -> np.ndarray:
    """Multiplies the distance from each channel's mean over the image."""
    total = images.sum(axis=(1, 2), keepdims=True, dtype=np.int64)
    mean = total / (255.0 * images.shape[1] * images.shape[2])
    return to_levels((to_unit(images) - mean) * factor + mean)


def elastic_transform(
    images: np.ndarray, draws: Draws, strength: float, sigma: float, move: float
) -> np.ndarray:
    """A random affine map, then a smooth random displacement of every pixel.

    The affine map moves three points around the centre by up to `move` pixels each
    way. The displacements are uniform noise in ±1, blurred by `sigma` pixels and
    multiplied by `strength`.
    """
    height, width = images.shape[1:3]
    x, y = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    affine = _affine(height, width, draws.uniform(-move, move, (3, 2)))
    columns, rows = (
        along_x[:, None, None] * x + along_y[:, None, None] * y + origin[:, None, None]
        for along_x, along_y, origin in np.moveaxis(affine, 0, -1)
    )
    unit = read_at(to_unit(images), rows, columns, mirror)
    if strength:
        noise = draws.uniform(-1.0, 1.0, (2, height, width))
        sigmas = (0, 0, sigma, sigma)
        shift = strength * ndimage.gaussian_filter(
            noise, sigmas, mode="reflect", truncate=3.0
        )
        unit = read_at(unit, y + shift[:, 0], x + shift[:, 1], reflect)
    return to_levels(unit)


def _affine(height: int, width: int, moves: np.ndarray) -> np.ndarray:
    """Matrices ``[n, 2, 3]`` from an output position (x, y, 1) to the input's (x, y).

    The arms of the triangle are a third of the smaller side, and at least the 10 pixels
    of a 32 × 32 image, so that no move can flatten it.
    """
    arm = max(min(height, width) // 3, _MIN_ARM)
    centre = np.array([width // 2, height // 2], float)
    points = centre + arm * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = points + moves
    ones = np.ones((*moved.shape[:2], 1))
    solution = np.linalg.solve(np.concatenate([moved, ones], axis=2), points)
    return np.swapaxes(solution, 1, 2)


def pixelate(images: np.ndarray, draws: Draws, scale: float) -> np.ndarray:
    """Shrinks by averaging boxes and enlarges again."""
    out = np.empty_like(images)
    height, width = images.shape[1:3]
    small = max(int(width * scale), 1), max(int(height * scale), 1)
    box = Image.Resampling.BOX
    for i, image in enumerate(images):
        shrunk = Image.fromarray(image).resize(small, box)
        out[i] = np.asarray(shrunk.resize((width, height), box))
    return out


def jpeg_compression(images: np.ndarray, draws: Draws, quality: float) -> np.ndarray:
    """Saves as JPEG of a quality (1 to 95) and reads that back."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as decoded:
            out[i] = np.asarray(decoded)
    return out

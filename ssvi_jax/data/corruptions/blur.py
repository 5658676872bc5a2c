"""Blurs: defocus, glass, motion, zoom and gaussian."""

import numpy as np
from scipy import ndimage

from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.motion import streak
from ssvi_jax.data.corruptions.pixels import to_levels, to_unit
from ssvi_jax.data.corruptions.resample import centre_zoom

_DISK_REACH = 8


def smooth(unit: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of ``[n, h, w, c]`` by `sigma` pixels, edges repeated outwards."""
    return ndimage.gaussian_filter(unit, (0, sigma, sigma, 0), mode="nearest")


def gaussian_blur(images: np.ndarray, draws: Draws, sigma: float) -> np.ndarray:
    """Gaussian blur by `sigma` pixels."""
    return to_levels(smooth(to_unit(images), sigma))


def defocus_blur(
    images: np.ndarray, draws: Draws, radius: float, alias_sigma: float
) -> np.ndarray:
    """Convolves with a disk of `radius` pixels, itself blurred by `alias_sigma`."""
    kernel = _disk(radius, alias_sigma).astype(np.float64)[None, :, :, None]
    return to_levels(ndimage.correlate(to_unit(images), kernel, mode="mirror"))


def _disk(radius: float, alias_sigma: float) -> np.ndarray:
    """Float32 kernel, as the benchmark's: in float64 flat areas lose a level."""
    offsets = np.arange(-_DISK_REACH, _DISK_REACH + 1)
    disk = np.hypot(*np.meshgrid(offsets, offsets)) <= radius
    curve = np.exp(-(np.array([1.0, 0.0, 1.0]) ** 2) / (2.0 * alias_sigma**2))
    curve = (curve / curve.sum()).astype(np.float32)
    kernel = disk.astype(np.float32) / np.float32(disk.sum())
    for axis in (1, 0):
        kernel = ndimage.correlate1d(kernel, curve, axis, output=np.float32)
    reach = min(int(radius) + 1, _DISK_REACH)
    inside = slice(_DISK_REACH - reach, _DISK_REACH + reach + 1)
    return kernel[inside, inside]


def glass_blur(
    images: np.ndarray, draws: Draws, sigma: float, passes: float
) -> np.ndarray:
    """Gaussian blur, `passes` shuffles of neighbours, gaussian blur.

    In a shuffle each pixel from row and column 2 on becomes its neighbour 0 or 1 up and
    0 or 1 left. The benchmark describes an exchange of the two, one pixel after the
    other from the bottom right; its images show that the neighbour is copied instead,
    and then no copy is read again within a pass, so all are made at once.
    """
    images = to_levels(smooth(to_unit(images), sigma))
    count, height, width, _ = images.shape
    number = np.arange(count)[:, None, None]
    rows, columns = np.arange(2, height)[:, None], np.arange(2, width)
    for _ in range(int(passes)):
        up, left = np.moveaxis(draws.integers(2, (2, height, width)), 1, 0)
        up, left = up[:, 2:, 2:], left[:, 2:, 2:]
        shuffled = images.copy()
        shuffled[:, 2:, 2:] = images[number, rows - up, columns - left]
        images = shuffled
    return to_levels(smooth(to_unit(images), sigma))


def motion_blur(
    images: np.ndarray, draws: Draws, radius: float, sigma: float
) -> np.ndarray:
    """Blurs along a direction within 45° of the horizontal (see `motion.streak`)."""
    return streak(images, draws.uniform(-45.0, 45.0), radius, sigma)


def zoom_blur(images: np.ndarray, draws: Draws, end: float) -> np.ndarray:
    """Averages the image and its zooms by 1, 1.01, … below `end`."""
    unit = to_unit(images).astype(np.float32)
    factors = np.arange(1.0, end, 0.01)
    total = sum(centre_zoom(unit, factor) for factor in factors)
    return to_levels((unit + total) / np.float32(len(factors) + 1))

"""Spatter: drops of water or mud on the lens."""

import numpy as np
from scipy import ndimage

from ssvi_jax.data.corruptions.blur import smooth
from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.pixels import to_levels, to_unit

_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_MIN_MUD = 0.8
_MAX_DEPTH = 20
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(
    images: np.ndarray,
    draws: Draws,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> np.ndarray:
    """Lays a liquid over the image where smoothed noise reaches a threshold.

    The noise is N(mean, std²) a pixel, blurred by `sigma` pixels. Mud covers the image
    where the liquid, blurred again by `strength` pixels, is thick. Water adds a pale
    turquoise of at most `strength`, brighter towards the lower right of each drop: the
    benchmark's own light comes from OpenCV's edge detector and is not repeated to the
    pixel.
    """
    liquid = smooth(draws.normal(mean, std, (*images.shape[1:3], 1)), sigma)
    liquid = np.where(liquid < threshold, 0.0, liquid)
    unit = to_unit(images)
    if mud:
        cover = smooth((liquid > threshold).astype(np.float64), strength)
        cover = np.where(cover < _MIN_MUD, 0.0, cover)
        return to_levels(unit * (1.0 - cover) + cover * _MUD)
    light = np.zeros_like(liquid)
    for i in np.flatnonzero(liquid.any(axis=(1, 2, 3))):
        light[i, :, :, 0] = liquid[i, :, :, 0] * _relief(liquid[i, :, :, 0] > 0)
    brightest = light.max(axis=(1, 2, 3), keepdims=True)
    light *= strength / np.where(brightest == 0, 1.0, brightest)
    return to_levels(unit + light * _WATER)


def _relief(drops: np.ndarray) -> np.ndarray:
    """Light ``[h, w]`` on a surface as deep as the distance from the drops' edges."""
    edge = drops ^ ndimage.binary_erosion(drops, border_value=1).astype(bool)
    if not edge.any():
        return np.ones(drops.shape)
    depth = np.minimum(
        np.asarray(ndimage.distance_transform_edt(edge == 0)), _MAX_DEPTH
    )
    depth = ndimage.uniform_filter(depth, 3, mode="mirror").astype(np.int64)
    lit = ndimage.correlate(_equalize(depth), _EMBOSS, mode="mirror")
    # SciPy's running sums leave a trace below 0, which would cost a dry pixel a level.
    return ndimage.uniform_filter(lit.clip(0.0, 255.0), 3, mode="mirror").clip(min=0.0)


def _equalize(depth: np.ndarray) -> np.ndarray:
    """Spreads small integers over 0 to 255 by their rank in the image."""
    below = np.cumsum(np.bincount(depth.ravel()))
    first = below[depth.min()]
    return 255.0 * (below[depth] - first) / max(depth.size - first, 1)

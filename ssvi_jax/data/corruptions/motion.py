"""Blur along a line, one direction an image: of `motion_blur` and of falling snow."""

import math

import numpy as np

_ROUNDING = 1e-6
"""Grey levels added before the rest is cut off, so that rounding takes no level."""


def streak(
    images: np.ndarray, degrees: np.ndarray, radius: float, sigma: float
) -> np.ndarray:
    """Averages along a ray from each pixel, as ImageMagick's motion blur.

    The ray has 2·⌈radius⌉ + 1 points one pixel apart, the first the pixel itself; point
    t weighs exp(-t² / 2σ²), a one-sided normal curve, and is read at the nearest pixel.
    Edges are repeated outwards.

    Args:
      images: uint8 ``[n, h, w, c]``.
      degrees: ``[n]``, direction of the ray: 0 to the right, 90 down.
      radius: pixels.
      sigma: pixels.

    Returns:
      uint8 ``[n, h, w, c]``, fractions of a level cut off.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2.0 * sigma**2))
    weights /= weights.sum()
    out = np.empty_like(images)
    # Scalars: NumPy's vectorised sines may differ by where in an array they stand.
    for i, angle in enumerate(np.radians(degrees).tolist()):
        rows = np.ceil(steps * math.sin(angle) - 0.5).astype(np.int64)
        columns = np.ceil(steps * math.cos(angle) - 0.5).astype(np.int64)
        out[i] = _weighted_shifts(images[i], rows, columns, weights) + _ROUNDING
    return out


def _weighted_shifts(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Sum over k of weights[k] · image[y + rows[k], x + columns[k]]."""
    height, width, _ = image.shape
    top, left = min(rows.min(), 0), min(columns.min(), 0)
    inside_rows = np.arange(top, height + max(rows.max(), 0)).clip(0, height - 1)
    inside_columns = np.arange(left, width + max(columns.max(), 0)).clip(0, width - 1)
    padded = image[inside_rows][:, inside_columns].astype(np.float64)
    total, term = np.zeros(image.shape), np.empty(image.shape)
    for dy, dx, weight in zip(rows - top, columns - left, weights, strict=True):
        np.multiply(padded[dy : dy + height, dx : dx + width], weight, out=term)
        total += term
    return total

"""Bilinear zooms about the centre and bilinear reads at any position."""

import math
from collections.abc import Callable

import numpy as np


def centre_zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """Enlarges the centre of ``[n, h, w, c]`` float images to their own size.

    The smallest centred window that fills the image when enlarged by `factor` (1 or
    more) is read bilinearly, first row on first row and last on last.
    """
    for axis in (1, 2):
        lower, upper, weight = _positions(images.shape[axis], factor)
        shape = [1] * images.ndim
        shape[axis] = -1
        weight = weight.astype(images.dtype).reshape(shape)
        first, second = (images.take(rows, axis) for rows in (lower, upper))
        images = first + weight * (second - first)
    return images


def _positions(size: int, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    window = math.ceil(size / factor)
    enlarged = round(window * factor)
    start, trim = (size - window) // 2, (enlarged - size) // 2
    step = (window - 1) / max(enlarged - 1, 1)
    position = (trim + np.arange(size)) * step
    lower = np.minimum(np.floor(position).astype(np.int64), window - 1)
    upper = np.minimum(lower + 1, window - 1)
    return start + lower, start + upper, position - lower


def read_at(
    images: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    fold: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Bilinear values of ``[n, h, w, c]`` float images at real positions.

    Args:
      images: what to read.
      rows: ``[n, a, b]``, in pixels, 0 the centre of the first row.
      columns: ``[n, a, b]``.
      fold: `pixels.mirror` or `pixels.reflect`, for positions outside.

    Returns:
      ``[n, a, b, c]``.
    """
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    top, left = top.astype(np.int64), left.astype(np.int64)
    height, width = images.shape[1:3]
    number = np.arange(len(images))[:, None, None]

    def corner(dy: int, dx: int) -> np.ndarray:
        return images[number, fold(top + dy, height), fold(left + dx, width)]

    upper = corner(0, 0) * (1.0 - right) + corner(0, 1) * right
    lower = corner(1, 0) * (1.0 - right) + corner(1, 1) * right
    return upper * (1.0 - down) + lower * down

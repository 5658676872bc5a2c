"""Plasma: the cloud-like fractal of fog, by diamonds and squares."""

import numpy as np

from ssvi_jax.data.corruptions.draws import Draws


def plasma(draws: Draws, size: int, decay: float) -> np.ndarray:
    """Fractal clouds that tile (Fournier et al. 1982).

    From one point the grid is refined until it is full: the centre of each square, then
    of each diamond, becomes the mean of its four corners plus uniform noise, whose
    width is divided by decay² from one grid to the next.

    Args:
      draws: of the images.
      size: power of two.
      decay: above 1; the larger, the smoother.

    Returns:
      float64 ``[n, size, size]``, each map stretched to [0, 1].
    """
    noise = draws.uniform(-1.0, 1.0, (size * size - 1,))
    grid = np.zeros((len(noise), size, size))
    used, width, step = 0, 1.0, size
    while step > 1:
        half, cells = step // 2, size // step
        part = width * noise[:, used : used + 3 * cells**2]
        squares, above, beside = np.moveaxis(part.reshape(-1, 3, cells, cells), 1, 0)
        corners = grid[:, ::step, ::step]
        centres = grid[:, half::step, half::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        centres[:] = (pairs + np.roll(pairs, -1, axis=2)) / 4 + squares
        up = centres + np.roll(centres, 1, axis=1)
        left = centres + np.roll(centres, 1, axis=2)
        right_corners = corners + np.roll(corners, -1, axis=2)
        lower_corners = corners + np.roll(corners, -1, axis=1)
        grid[:, ::step, half::step] = (up + right_corners) / 4 + above
        grid[:, half::step, ::step] = (left + lower_corners) / 4 + beside
        used, width, step = used + 3 * cells**2, width / decay**2, half
    grid -= grid.min(axis=(1, 2), keepdims=True)
    return grid / grid.max(axis=(1, 2), keepdims=True)

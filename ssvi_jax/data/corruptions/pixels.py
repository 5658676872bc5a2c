"""Grey levels to fractions and back, hue-saturation-value, and what borders repeat."""

import numpy as np


def to_unit(images: np.ndarray) -> np.ndarray:
    """Float64 of uint8 `images`, divided by 255."""
    return images / 255.0


def to_levels(unit: np.ndarray) -> np.ndarray:
    """uint8 of fractions: clipped to [0, 1], times 255, the rest cut off.

    The benchmark cuts and does not round, so a test against it must as well.
    """
    return (np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)


def rgb_to_hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value, each ``[...]`` in [0, 1], of fractions ``[..., 3]``.

    Grey has hue 0, that is red (Smith 1978, as in the standard library's colorsys).
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(chroma == 0, 1.0, chroma)
    hue = (green - blue) / divisor
    hue = np.where(green == value, 2.0 + (blue - red) / divisor, hue)
    hue = np.where(blue == value, 4.0 + (red - green) / divisor, hue)
    hue = np.where(chroma == 0, 0.0, (hue / 6.0) % 1.0)
    return hue, chroma / np.where(value == 0, 1.0, value), value


def hsv_to_rgb(
    hue: np.ndarray, saturation: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Inverse of `rgb_to_hsv`: fractions ``[..., 3]``."""
    sector = np.floor(hue * 6.0)
    part = hue * 6.0 - sector
    low = value * (1.0 - saturation)
    falling = value * (1.0 - part * saturation)
    rising = value * (1.0 - (1.0 - part) * saturation)
    levels = np.stack([value, rising, low, falling])
    channels = [(0, 3, 2, 2, 1, 0), (1, 0, 0, 3, 2, 2), (2, 2, 1, 0, 0, 3)]
    which = np.array(channels)[:, sector.astype(np.int64) % 6]
    return np.stack([np.choose(row, levels) for row in which], axis=-1)


def mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Folds any integer into 0 to `size` - 1, the edge not repeated (c b | a b c)."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return np.minimum(index, period - index)


def reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Folds any integer into 0 to `size` - 1, the edge repeated (b a | a b c)."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)

"""Weather: snow, frost and fog."""

import numpy as np

from ssvi_jax.data.corruptions import frost_textures
from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.motion import streak
from ssvi_jax.data.corruptions.pixels import to_levels, to_unit
from ssvi_jax.data.corruptions.plasma import plasma
from ssvi_jax.data.corruptions.resample import centre_zoom

_MAP_SIZE = 32
_LUMA = (0.299, 0.587, 0.114)


def snow(
    images: np.ndarray,
    draws: Draws,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> np.ndarray:
    """Whitens the image and adds streaks of falling snow.

    Flakes are the pixels of N(mean, std²) noise, enlarged by `zoom`, that reach
    `threshold`; they fall 45° to 135° from the horizontal (`motion.streak` with radius
    and sigma). The layer is added twice, the second time turned by 180°. Below it
    remains the fraction `kept` of the image, the rest being its bright grey version.
    """
    layer = draws.normal(mean, std, (*images.shape[1:3], 1))
    layer = centre_zoom(layer, zoom)
    layer = to_levels(np.where(layer < threshold, 0.0, layer))
    flakes = to_unit(streak(layer, draws.uniform(-135.0, -45.0), radius, sigma))
    unit = to_unit(images)
    red, green, blue = (unit[..., i, None] * part for i, part in enumerate(_LUMA))
    bright = 1.5 * (red + green + blue) + 0.5
    base = kept * unit + (1.0 - kept) * np.maximum(unit, bright)
    return to_levels(base + flakes + flakes[:, ::-1, ::-1])


def frost(
    images: np.ndarray, draws: Draws, image_part: float, frost_part: float
) -> np.ndarray:
    """Adds a crop of a frosted pane (`frost_textures`) to the darkened image.

    Both parts are factors of grey levels; they may sum to more than 1.
    """
    panes = frost_textures.panes(draws.seed)
    which = draws.integers(len(panes))
    rows, columns = (
        (draws.integers(period)[:, None] + np.arange(size)) % period
        for size, period in zip(images.shape[1:3], panes.shape[1:3], strict=True)
    )
    crops = panes[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    levels = image_part * images + frost_part * crops
    return np.clip(levels, 0, 255).astype(np.uint8)


def fog(images: np.ndarray, draws: Draws, density: float, decay: float) -> np.ndarray:
    """Adds clouds of `plasma`, then scales the image back to its brightest value.

    `density` is what the thickest fog adds, as a fraction of the range; `decay` is the
    clouds' smoothness.
    """
    height, width = images.shape[1:3]
    size = max(_MAP_SIZE, 1 << (max(height, width) - 1).bit_length())
    clouds = plasma(draws, size, decay)[:, :height, :width, None]
    unit = to_unit(images)
    brightest = unit.max(axis=(1, 2, 3), keepdims=True)
    return to_levels((unit + density * clouds) * brightest / (brightest + density))

"""Frosted panes, generated: no photograph is read, so none has to be shipped.

The benchmark lays crops of five photographs of ice over its images, shrunk until the
crystals are a pixel or two wide. Here each photograph is a random field: clouds whose
power falls with frequency, and grain, with the grey levels and the colour of such a
photograph. Two are white hoarfrost with dark pits, one a teal pane, one grey ice with
white sparks, one dark glass with bright crystals.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

SIZE = 256
"""Height and width of a pane in pixels; it tiles."""

_QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


class _Kind(NamedTuple):
    """How a frosted pane looks.

    Attributes:
      levels: grey levels of the green channel at `_QUANTILES`.
      tint: what red and blue have more than green, in grey levels on average.
      slope: the power of the clouds is frequency^-slope.
      grain: fraction of the variance that is independent from pixel to pixel.
      red_gain: contrast of red relative to the other channels.
    """

    levels: tuple[float, ...]
    tint: tuple[float, float]
    slope: float
    grain: float
    red_gain: float = 1.0


_WHITE = _Kind((101, 142, 165, 192, 206, 217, 229, 237, 245), (-5, 9), 2.0, 0.4)
_TEAL = _Kind(
    (106, 117, 124, 136, 148, 159, 176, 189, 204), (-72, 17), 2.5, 0.25, red_gain=1.6
)
_GREY = _Kind((52, 76, 109, 143, 161, 176, 204, 241, 255), (-14, 13), 2.0, 0.6)
_DARK = _Kind((37, 45, 58, 87, 112, 140, 176, 205, 236), (-12, 12), 1.6, 0.2)
_KINDS = (_WHITE, _WHITE, _TEAL, _GREY, _DARK)


@lru_cache(maxsize=4)
def panes(seed: int) -> np.ndarray:
    """The five panes of a seed: uint8 ``[5, SIZE, SIZE, 3]``, read-only."""
    rng = np.random.default_rng([SIZE, seed])
    frozen = np.stack([_freeze(kind, rng) for kind in _KINDS])
    frozen.flags.writeable = False
    return frozen


def _freeze(kind: _Kind, rng: np.random.Generator) -> np.ndarray:
    clouds = math.sqrt(1.0 - kind.grain) * _clouds(rng, kind.slope)
    grain = math.sqrt(kind.grain) * rng.standard_normal((SIZE, SIZE))
    green = np.interp(clouds + grain, special.ndtri(_QUANTILES), kind.levels)
    red_tint, blue_tint = kind.tint
    mean = green.mean()
    red = mean + red_tint + kind.red_gain * (green - mean)
    levels = np.stack([red, green, green + blue_tint], axis=-1)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, slope: float) -> np.ndarray:
    """A Gaussian field of variance 1 whose power is frequency^-slope; it tiles."""
    noise = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE))
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(noise * frequency ** (-slope / 2.0), (SIZE, SIZE))
    return field / field.std()

"""Random numbers of many images, each from a generator of its own.

Image i reads the Philox stream whose key is a hash of (seed, purpose) and whose counter
starts at i·2^192: streams never overlap, none depends on another, and none on how the
images are cut into batches.
"""

import hashlib
from collections.abc import Callable

import numpy as np


class Draws:
    """One generator an image; every method returns one row an image.

    Args:
      seed: the caller's seed.
      purpose: what the numbers are for; another purpose gives unrelated numbers.
      indices: ``[n]``, number of each image, 0 to 2^63 - 1.
    """

    def __init__(self, seed: int, purpose: str, indices: np.ndarray):
        self.seed = seed
        text = f"ssvi_jax.data.corruptions {seed} {purpose}".encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        key = np.frombuffer(digest, "<u8").astype(np.uint64)
        self._generators = [
            np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, int(i))))
            for i in indices
        ]

    def uniform(
        self, low: float, high: float, shape: tuple[int, ...] = ()
    ) -> np.ndarray:
        """Float64 ``[n, *shape]``, uniform in [low, high)."""
        unit = self._rows(shape, np.float64, lambda rng: rng.random(shape))
        return low + (high - low) * unit

    def normal(
        self, mean: float, std: float, shape: tuple[int, ...] = ()
    ) -> np.ndarray:
        """Float64 ``[n, *shape]``, normal."""
        unit = self._rows(shape, np.float64, lambda rng: rng.standard_normal(shape))
        return mean + std * unit

    def integers(self, end: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Int64 ``[n, *shape]``, uniform in 0 to `end` - 1."""
        return self._rows(shape, np.int64, lambda rng: rng.integers(end, size=shape))

    def poisson(self, rates: np.ndarray) -> np.ndarray:
        """Int64 Poisson counts of the expectations `rates` ``[n, ...]``."""
        rows = iter(rates)
        return self._rows(
            rates.shape[1:], np.int64, lambda rng: rng.poisson(next(rows))
        )

    def _rows(
        self,
        shape: tuple[int, ...],
        dtype: type,
        draw: Callable[[np.random.Generator], object],
    ) -> np.ndarray:
        out = np.empty((len(self._generators), *shape), dtype)
        for i, generator in enumerate(self._generators):
            out[i] = draw(generator)
        return out

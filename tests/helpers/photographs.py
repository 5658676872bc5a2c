"""Natural images that come with scikit-learn, cut into small crops."""

from functools import lru_cache

import numpy as np
from sklearn.datasets import load_sample_images


@lru_cache
def crops(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    """`count` crops, uint8 ``[count, height, width, 3]``, read-only, always the same.

    The photographs (a palace, a flower) are halved first, for more detail a crop.
    """
    photographs = [photo[::2, ::2] for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    out = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        photograph = photographs[i % 2]
        y = rng.integers(photograph.shape[0] - height + 1)
        x = rng.integers(photograph.shape[1] - width + 1)
        out[i] = photograph[y : y + height, x : x + width]
    out.flags.writeable = False
    return out

"""The embedded default: 1,797 real handwritten digits that ship with scikit-learn."""

from typing import Any

import numpy as np

from ssvi_jax.data.dataset import stratified_split

SOURCE = (
    "digits: 1,797 real handwritten digits of 8x8 pixels (UCI optical recognition of "
    "handwritten digits), embedded in scikit-learn"
)
NUM_TEST = 360
_TEST_SEED = 20240211


def read() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the digits and cuts off a test set that is the same for everybody.

    Returns:
      ``"train"`` (1,437) and ``"test"`` (360): images uint8 ``[n, 8, 8, 1]`` with the
      file's 17 grey levels stretched to 0 to 255, labels int32 ``[n]``.
    """
    from sklearn.datasets import load_digits

    loaded: Any = load_digits(return_X_y=True)
    grey, labels = loaded
    images = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    parts = stratified_split(labels, NUM_TEST, _TEST_SEED)
    return {
        name: (images[part], labels[part])
        for name, part in zip(("train", "test"), parts, strict=True)
    }

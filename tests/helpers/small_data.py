"""Data sets of a few random images."""

import numpy as np

from ssvi_jax.data import Dataset


def make(name="cifar10", shape=(32, 32, 3), num_test=20, num_classes=10, seed=0):
    """A data set of `name` with `num_test` test images and two of the others."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_test, *shape), dtype=np.uint8)
    labels = rng.integers(0, num_classes, num_test, dtype=np.int32)
    return Dataset(
        name=name,
        train_images=images[:2],
        train_labels=labels[:2],
        val_images=images[:2],
        val_labels=labels[:2],
        test_images=images,
        test_labels=labels,
        num_classes=num_classes,
        mean=np.full(shape[-1], 0.5, np.float32),
        std=np.full(shape[-1], 0.25, np.float32),
        source="random",
        pad=0,
        flip=False,
    )

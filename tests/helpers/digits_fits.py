"""The digits as arrays, and models for them with nothing of ours in it."""

import flax.linen as nn
import jax
import numpy as np
from sklearn.datasets import load_digits

import ssvi_jax

KEY = jax.random.key(0)
DIGITS, LABELS = load_digits(return_X_y=True)
X, Y = DIGITS[:1500] / 16, LABELS[:1500]
TEST_X, TEST_Y = DIGITS[1500:] / 16, LABELS[1500:]


def mlp(outputs=10, width=64):
    """A model with nothing of ours in it."""
    return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(outputs)])


def linen(module, x):
    return ssvi_jax.from_flax(module, x[:1], key=KEY)


def same(a, b):
    """Whether two trained networks are equal to the last bit."""
    leaves = zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights), strict=True)
    masks = all((a.masks[path] == b.masks[path]).all() for path in a.masks)
    return masks and all((np.asarray(u) == np.asarray(v)).all() for u, v in leaves)

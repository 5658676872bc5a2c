"""Methods built on the smallest network, for tests of what they do."""

from typing import Any

import jax
import jax.numpy as jnp
import smoke_run

from ssvi_jax import data


def build(method: str = "ssvi", **changes: Any) -> Any:
    """The algorithm of `smoke_run.tiny_config` with changes."""
    return smoke_run.tiny_algorithm(method=method, **changes)


def arrays() -> tuple[jax.Array, jax.Array]:
    """The digits' training images and labels on the device."""
    digits = data.load("digits")
    return jnp.asarray(digits.train_images), jnp.asarray(digits.train_labels)

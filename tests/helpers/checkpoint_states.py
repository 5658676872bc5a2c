"""A state with every kind of leaf, saved and compared, for checkpoint tests."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssvi_jax.core.types import Gaussian
from ssvi_jax.io.checkpoint import Checkpoints, Restored

CONFIG = {"sparsity": 0.95, "optimizer": {"name": "sgd", "momentum": 0.9}, "out": "a"}


class Opposite(NamedTuple):
    z: np.ndarray
    a: np.ndarray


def state(seed: int = 0) -> dict:
    """A training state with every kind of leaf that a run holds."""
    rng = np.random.default_rng(seed)
    posterior = {
        "block1/conv/kernel": Gaussian(
            jnp.asarray(rng.normal(size=70), jnp.float32),
            jnp.asarray(rng.normal(size=70), jnp.float32),
        )
    }
    return {
        "posterior": posterior,
        "opt_state": optax.sgd(0.1, momentum=0.9).init(posterior),
        "masks": {"block1/conv/kernel": rng.random((3, 3, 4, 5)) < 0.4},
        "model_state": {"bn": {"mean": jnp.asarray(rng.normal(size=5), jnp.bfloat16)}},
        "key": jax.random.key(seed),
        "raw_key": jax.random.key_data(jax.random.key(seed)),
        "count": jnp.int32(seed),
        "no_elements": np.zeros((0, 3), np.float16),
        "no_mask": np.zeros((0,), bool),
    }


def assert_same(got, want) -> None:
    """Equal structure, kind, dtype and bytes, NaN included."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def filled(folder: Path, steps=(100, 200)) -> Path:
    with Checkpoints(folder, CONFIG) as saved:
        for step in steps:
            saved.save(step, state(step), {"epoch": step / 100})
    return folder


def restored(saved: Checkpoints, like: Any, *, best: bool = False) -> Restored:
    found = saved.restore(like, best=best)
    assert found is not None
    return found


def steps_on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())

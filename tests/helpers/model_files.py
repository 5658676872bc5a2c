"""Small trained-looking models, for tests of the model file."""

import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.types import Gaussian, Weights

CONFIG = {"name": "convnet", "width": 0.25, "num_classes": 10, "image": [32, 32, 3]}


def weights_for(masks, rng, params=None, model_state=None) -> Weights:
    """A posterior like a trained one: σ about 6e-4, means about 0.05."""
    posterior = {}
    for path, mask in masks.items():
        count = int(mask.sum())
        sigma = np.abs(rng.normal(6e-4, 5e-4, count)) + 1e-6
        posterior[path] = Gaussian(
            jnp.asarray(0.05 * rng.normal(size=count), jnp.float32),
            jnp.asarray(np.log(np.expm1(sigma)), jnp.float32),
        )
    return Weights(posterior, params or {}, model_state or {})


def example() -> tuple[Weights, dict[str, np.ndarray]]:
    """Weights and masks: a sparse, a dense and a nearly dense layer."""
    rng = np.random.default_rng(0)
    masks = {
        "conv/kernel": rng.random((3, 3, 8, 16)) < 0.1,
        "stem/kernel": np.ones((3, 3, 1, 8), bool),
        "dense/kernel": rng.random((64, 10)) < 0.8,
    }
    params = {
        "conv": {"bias": rng.normal(size=16).astype(np.float32)},
        "norm": {"scale": jnp.ones(16), "steps": np.array(7, np.int64)},
    }
    model_state = {
        "norm": {
            "mean": rng.normal(size=16).astype(np.float32),
            "var": np.array([1e-12, 1e6, *rng.random(14)], np.float32),
        }
    }
    return weights_for(masks, rng, params, model_state), masks

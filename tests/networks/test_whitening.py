"""The network of the speed records, and the filters of its first layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.networks import models, whitening
from ssvi_jax.networks.models.airbench import FILTERS

KEY = jax.random.key(0)


def pictures(n=400, size=9):
    """Neighbouring pixels and channels that resemble each other."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(n, size + 2, size + 2, 3))
    smooth = noise[:, :-2] + noise[:, 1:-1] + noise[:, 2:]
    smooth = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
    return (smooth + smooth.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_filters_whiten_patches():
    images = pictures()
    kernel = whitening.filters(images)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    y = jax.lax.conv_general_dilated(
        jnp.asarray(images),
        jnp.asarray(kernel),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    flat = np.float64(y[..., :12]).reshape(-1, 12)
    covariance = np.cov(flat.T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(12), atol=0.02)


def network(width=0.25) -> tuple[Any, Any]:
    model = models.build("airbench", num_classes=10, width=width)
    return model, model.init(KEY, jnp.zeros((1, 9, 9, 3)), train=False)


def test_only_models_with_a_place_get_them():
    _, variables = network()
    images = pictures()
    state = whitening.whitened({FILTERS: variables[FILTERS], "other": 1}, images)
    found = state[FILTERS]["whiten"]["filters"]
    np.testing.assert_array_equal(found, whitening.filters(images))
    assert state["other"] == 1
    assert whitening.whitened({"batch_stats": {}}, images) == {"batch_stats": {}}


def test_copies_share_them():
    _, variables = network()
    filters = variables[FILTERS]["whiten"]["filters"]
    stacked = {FILTERS: {"whiten": {"filters": jnp.stack([filters] * 3)}}}
    found = whitening.whitened(stacked, pictures())[FILTERS]["whiten"]["filters"]
    assert found.shape == (3, 2, 2, 3, 24)
    np.testing.assert_array_equal(found[0], found[2])


def test_filters_are_not_trained():
    model, variables = network()
    assert "whiten" not in variables["params"]
    _, state = model.apply(
        variables, jnp.asarray(pictures(8)), train=True, mutable=["batch_stats"]
    )
    assert state.keys() == {"batch_stats"}


@pytest.mark.parametrize("size", [8, 32])
def test_its_blocks_begin_as_the_identity(size):
    """Of the first block all channels that the second convolution can pass on."""
    model, variables = network()
    kernel = np.asarray(variables["params"]["conv2"]["kernel"])
    assert kernel.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(kernel[1, 1], np.eye(16))
    assert np.count_nonzero(kernel) == 16
    logits = model.apply(variables, jnp.ones((2, size, size, 3)), train=False)
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()

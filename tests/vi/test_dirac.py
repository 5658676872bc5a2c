"""Convolutions that begin as the identity, under a mask too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

from ssvi_jax.vi import dirac, masks


def test_the_first_filters_pass_their_channel_on():
    shape = (3, 3, 4, 6)
    drawn = jax.random.normal(jax.random.key(0), (int(np.prod(shape)),))
    index = jnp.arange(drawn.size)
    kernel = dirac.means(drawn, index, shape).reshape(shape)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(y[..., :4], x)
    np.testing.assert_array_equal(kernel[..., 4:], drawn.reshape(shape)[..., 4:])


@pytest.mark.parametrize("shape", [(5, 3), (1, 1, 4, 4)])
def test_products_without_a_window_stay_as_drawn(shape):
    drawn = jnp.ones(int(np.prod(shape)))
    assert dirac.taps(shape).size == 0
    np.testing.assert_array_equal(
        dirac.means(drawn, jnp.arange(drawn.size), shape), drawn
    )


@pytest.mark.parametrize("kept", [300, 40, 7])
def test_masks_select_the_taps_and_keep_their_size(kept):
    shape, rng = (3, 3, 16, 24), np.random.default_rng(0)
    (mask,) = masks.random_masks({"k": shape}, {"k": kept}, rng).values()
    found = dirac.select(mask, rng)
    assert found.sum() == kept
    ones = dirac.taps(shape)
    assert found.reshape(-1)[ones[: min(kept, 16)]].all()
    if kept > 16:  # of the rest none is new
        others = np.delete(np.arange(mask.size), ones)
        assert not (found & ~mask).reshape(-1)[others].any()


@pytest.mark.parametrize("name", ["rigl", "ssvi", "ssvi_ivon", "magnitude", "ivon"])
def test_methods_begin_so_if_the_network_does(name):
    options = {"model": "airbench", "width": 0.25, "method": name}
    method = smoke_run.tiny_algorithm(**options)
    state, found = method.init(jax.random.key(0), np.random.default_rng(0))
    for path, mask in found.items():
        ones = dirac.taps(mask.shape)
        if not ones.size:
            continue
        index = np.flatnonzero(mask)
        mean = np.asarray(state.posterior[path].mean)
        np.testing.assert_array_equal(mean[np.isin(index, ones)], 1)
        first = (index % mask.shape[-1] < ones.size) & ~np.isin(index, ones)
        np.testing.assert_array_equal(mean[first], 0)
        assert np.isin(ones, index).all() or mask.sum() <= ones.size

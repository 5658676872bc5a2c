from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.data import augment
from ssvi_jax.networks.network import normalize

crop_and_flip = jax.jit(
    augment.crop_and_flip, static_argnames=("pad", "flip", "reflect")
)


def numbered(num_images, height=6, width=5, channels=2):
    """Images whose every pixel value is unique and not 0."""
    count = num_images * height * width * channels
    return jnp.arange(1, count + 1, dtype=jnp.int32).reshape(
        num_images, height, width, channels
    )


def windows(image, pad, flip, mode: Any = "constant"):
    """Every crop and mirror of one image, by slicing: ``{bytes: (dy, dx, mirror)}``."""
    image = np.asarray(image)
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    found = {}
    for dy in range(2 * pad + 1):
        for dx in range(2 * pad + 1):
            crop = padded[dy : dy + height, dx : dx + width]
            found[crop.tobytes()] = (dy, dx, False)
            if flip:
                found[crop[:, ::-1].tobytes()] = (dy, dx, True)
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_each_image_is_a_zero_padded_window_of_itself(pad, flip):
    images = numbered(64)
    out = np.asarray(crop_and_flip(images, jax.random.key(0), pad=pad, flip=flip))
    assert out.shape == images.shape
    for image, crop in zip(images, out, strict=True):
        assert crop.tobytes() in windows(image, pad, flip)


def test_a_reflected_window_has_no_black_border():
    images = numbered(64)
    options = {"pad": 2, "flip": True, "reflect": True}
    out = np.asarray(crop_and_flip(images, jax.random.key(0), **options))
    for image, crop in zip(images, out, strict=True):
        assert crop.tobytes() in windows(image, 2, flip=True, mode="reflect")


def test_shifts_that_reflect_are_of_two_pixels():
    images = numbered(8)
    key = jax.random.key(0)
    chosen = augment.for_inputs(pad=4, flip=True, reflect=True)
    assert chosen is not None
    want = augment.crop_and_flip(images, key, pad=2, flip=True, reflect=True)
    np.testing.assert_array_equal(chosen(images, key), want)
    assert augment.for_inputs(pad=0, flip=False, reflect=True) is None


def test_every_offset_and_mirror_is_equally_likely():
    pad, draws = 1, 1800
    image = numbered(1)
    images = jnp.broadcast_to(image, (draws, *image.shape[1:]))
    out = np.asarray(crop_and_flip(images, jax.random.key(1), pad=pad, flip=True))
    cases = windows(image[0], pad, flip=True)
    counts = dict.fromkeys(cases.values(), 0)
    for crop in out:
        counts[cases[crop.tobytes()]] += 1
    assert len(counts) == 18
    expected = draws / 18
    # Chi-squared with 17 degrees of freedom: 40.8 is passed once in a thousand.
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 40.8


def test_the_key_decides():
    images = numbered(64)
    first = crop_and_flip(images, jax.random.key(0), pad=3, flip=True)
    again = crop_and_flip(images, jax.random.key(0), pad=3, flip=True)
    other = crop_and_flip(images, jax.random.key(1), pad=3, flip=True)
    assert jnp.array_equal(first, again)
    assert not jnp.array_equal(first, other)


def test_neither_pad_nor_flip_changes_nothing():
    images = numbered(64).astype(jnp.uint8)
    out = crop_and_flip(images, jax.random.key(0), pad=0, flip=False)
    assert out.dtype == jnp.uint8
    assert jnp.array_equal(out, images)


def test_inside_scan_it_gives_the_same():
    images = numbered(8).astype(jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def scanned(keys):
        def body(carry, key):
            return carry, augment.crop_and_flip(images, key, pad=1, flip=True)

        return jax.lax.scan(body, 0, keys)[1]

    alone = jnp.stack([crop_and_flip(images, key, pad=1, flip=True) for key in keys])
    assert jnp.array_equal(scanned(keys), alone)


@given(seed=st.integers(0, 1000))
def test_normalize_agrees_with_float64(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    mean, std = rng.uniform(0.1, 0.9, 3), rng.uniform(0.1, 0.5, 3)
    out = normalize(images, mean.astype(np.float32), std.astype(np.float32))
    assert out.dtype == jnp.float32
    # Up to 10 standard deviations, each of a few roundings of 6e-8.
    np.testing.assert_allclose(out, (images / 255.0 - mean) / std, rtol=0, atol=5e-6)


def test_normalize_takes_a_single_image_too():
    image = np.full((2, 2, 1), 255, np.uint8)
    out = normalize(image, np.array([0.5]), np.array([0.25]))
    np.testing.assert_allclose(out, np.full((2, 2, 1), 2.0), rtol=1e-6)

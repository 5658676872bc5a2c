"""Blurs and resampling against SciPy and plain loops."""

import math

import numpy as np
import photographs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from ssvi_jax import corruptions
from ssvi_jax.data.corruptions import motion, pixels, resample

IMAGES = photographs.crops(6)


def cut(unit):
    """Grey levels of fractions, as the benchmark cuts them."""
    return np.floor(np.clip(unit, 0, 1) * 255)


def assert_same_levels(got, expected):
    """Equal but where rounding in the last bit decides which level is cut to."""
    difference = np.abs(got.astype(float) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


# Defocus and gaussian ----------------------------------------------------------------


def disk_weight(radius, sigma, y, x):
    """Weight of a disk blurred by a normal curve cut to three taps, by counting."""

    def inside(v, u):
        return float(v * v + u * u <= radius * radius)

    count = sum(inside(v, u) for v in range(-9, 10) for u in range(-9, 10))
    side = math.exp(-1 / (2 * sigma**2))
    curve = [side / (1 + 2 * side), 1 / (1 + 2 * side), side / (1 + 2 * side)]
    return (
        sum(
            curve[dv + 1] * curve[du + 1] * inside(y + dv, x + du)
            for dv in (-1, 0, 1)
            for du in (-1, 0, 1)
        )
        / count
    )


DEFOCUS = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]


@pytest.mark.parametrize(("i", "severity"), list(enumerate(corruptions.SEVERITIES)))
def test_defocus_blur_is_a_soft_disk(i, severity):
    radius, sigma = DEFOCUS[i]
    padded = np.pad(IMAGES / 255, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    expected = np.zeros(IMAGES.shape)
    for y in range(-3, 4):
        for x in range(-3, 4):
            shifted = padded[:, 3 + y : 35 + y, 3 + x : 35 + x]
            expected += disk_weight(radius, sigma, y, x) * shifted
    got = corruptions.corrupt(IMAGES, "defocus_blur", severity, seed=0)
    assert np.abs(got + 0.5 - expected * 255).max() < 0.5 + 1e-4


@pytest.mark.parametrize(("i", "severity"), list(enumerate(corruptions.SEVERITIES)))
def test_gaussian_blur_is_scipys(i, severity):
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[i]
    got = corruptions.corrupt(IMAGES, "gaussian_blur", severity, seed=0)
    for image, blurred in zip(IMAGES, got, strict=True):
        for channel in range(3):
            plane = ndimage.gaussian_filter(
                image[..., channel] / 255, sigma, mode="nearest"
            )
            assert_same_levels(blurred[..., channel], cut(plane))


# Glass -------------------------------------------------------------------------------


def test_glass_blur_copies_neighbours():
    """At severity 1 the blur is too narrow to reach a pixel, so copies show."""
    numbered = np.arange(32 * 32)
    image = np.stack([numbered // 256, numbered % 256, 0 * numbered], axis=-1)
    images = np.repeat(image.reshape(1, 32, 32, 3).astype(np.uint8), 40, axis=0)
    out = corruptions.corrupt(images, "glass_blur", 1, seed=0).astype(int)
    source = out[..., 0] * 256 + out[..., 1]
    rows, columns = np.divmod(source, 32)
    up = np.arange(32)[:, None] - rows
    left = np.arange(32) - columns
    assert not up[:, :2].any()
    assert not left[:, :, :2].any()
    inside = 2 * up[:, 2:, 2:] + left[:, 2:, 2:]
    assert ((up >= 0) & (up <= 1) & (left >= 0) & (left <= 1)).all()
    assert stats.chisquare(np.bincount(inside.ravel(), minlength=4)).pvalue > 1e-3


def test_two_passes_of_glass_blur_reach_two_pixels():
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8), (30, 32, 32))
    images = np.repeat(ramp[..., None], 3, axis=3)
    for severity, steps in [(2, 0.5), (4, 1.0)]:
        out = corruptions.corrupt(images, "glass_blur", severity, seed=0)
        shift = (images.astype(float) - out)[:, 6:-6, 6:-6]
        # Half a column a pass on average, of 8 levels each, and two cut fractions.
        assert abs(shift.mean() - 8 * steps) < 1.2


def test_glass_blur_keeps_a_flat_image_within_two_levels():
    flat = np.full((2, 32, 32, 3), 90, np.uint8)
    for severity in corruptions.SEVERITIES:
        out = corruptions.corrupt(flat, "glass_blur", severity, seed=0)
        assert np.isin(out, (88, 89, 90)).all()


# Motion ------------------------------------------------------------------------------


def walk(image, degrees, radius, sigma):
    """`motion.streak` of one image, pixel by pixel, before it is cut."""
    height, width, _ = image.shape
    weights = [math.exp(-t * t / (2 * sigma**2)) for t in range(2 * radius + 1)]
    direction = math.radians(degrees)
    out = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            for t, weight in enumerate(weights):
                # Halves go down, as ImageMagick rounds them.
                v = y + math.ceil(t * math.sin(direction) - 0.5)
                u = x + math.ceil(t * math.cos(direction) - 0.5)
                pixel = image[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
                out[y, x] += weight * pixel
    return out / sum(weights)


@given(
    degrees=st.floats(-180, 180),
    radius=st.integers(0, 14),
    sigma=st.floats(0.5, 12),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_a_streak_is_a_walk_along_a_ray(degrees, radius, sigma, height, width):
    images = photographs.crops(2, height, width)
    got = motion.streak(images, np.array([degrees, degrees]), radius, sigma)
    for image, streaked in zip(images, got, strict=True):
        expected = walk(image, degrees, radius, sigma)
        np.testing.assert_array_less(np.abs(streaked + 0.5 - expected), 0.5 + 1e-5)


def spread(name, severity, image):
    """Displacement (y, x) in pixels that 400 corruptions give a dot's mass."""
    images = np.repeat(image[None], 400, axis=0)
    out = corruptions.corrupt(images, name, severity, seed=0).astype(float)
    grid = np.moveaxis(np.indices(image.shape[:2]), 0, -1) - 16
    mass = out.sum(axis=(1, 2, 3))
    return np.einsum("nyxc,yxk->nk", out, grid) / mass[:, None]


def test_motion_blur_is_within_45_degrees_of_the_horizontal():
    image = np.zeros((32, 32, 3), np.uint8)
    image[16, 16] = 255
    y, x = spread("motion_blur", 5, image).T
    # Pixels are read from the right, so the dot moves to the left.
    assert (x < -1).all()
    angle = np.degrees(np.arctan2(-y, -x))
    assert (np.abs(angle) < 47).all()
    # Steps to whole pixels make few angles of many; the averages are those of ±45°.
    assert abs(angle.mean()) < 5 * 26 / np.sqrt(400)
    assert abs(np.abs(angle).mean() - 22.5) < 5 * 13 / np.sqrt(400)


def test_motion_blur_widens_with_sigma():
    image = np.zeros((32, 32, 3), np.uint8)
    image[16, 16] = 255
    moved = [
        np.hypot(*spread("motion_blur", severity, image).T).mean()
        for severity in corruptions.SEVERITIES
    ]
    # The mean of a one-sided normal curve is sigma·sqrt(2/π); on a grid, and cut to
    # whole levels, somewhat less.
    sigmas = np.array([1, 1.5, 2, 2, 2.5])
    assert (np.abs(moved / (sigmas * math.sqrt(2 / math.pi)) - 0.85) < 0.15).all()


# Zoom --------------------------------------------------------------------------------


def scipy_zoom(image, factor):
    """Enlarges the centre by ndimage.zoom, and crops."""
    window = [math.ceil(size / factor) for size in image.shape[:2]]
    start = [(s - w) // 2 for s, w in zip(image.shape, window, strict=False)]
    rows, columns = (slice(s, s + w) for s, w in zip(start, window, strict=True))
    # "nearest": else a last row that rounding puts outside by 1e-15 becomes black.
    inside, factors = image[rows, columns], (factor, factor, 1)
    large = np.asarray(ndimage.zoom(inside, factors, order=1, mode="nearest"))
    trim = [(a - b) // 2 for a, b in zip(large.shape[:2], image.shape, strict=False)]
    height, width, _ = image.shape
    return large[trim[0] : trim[0] + height, trim[1] : trim[1] + width]


@given(factor=st.floats(1, 3), height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_centre_zoom_is_scipys(factor, height, width):
    images = photographs.crops(2, height, width) / 255
    got = resample.centre_zoom(images, factor)
    for image, zoomed in zip(images, got, strict=True):
        np.testing.assert_allclose(zoomed, scipy_zoom(image, factor), atol=1e-9)


@pytest.mark.parametrize(("i", "severity"), list(enumerate(corruptions.SEVERITIES)))
def test_zoom_blur_is_the_mean_of_zooms(i, severity):
    image = IMAGES[0] / 255
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[i], 0.01)
    zooms = [scipy_zoom(image, factor) for factor in factors]
    got = corruptions.corrupt(IMAGES[:1], "zoom_blur", severity, seed=0)[0]
    assert_same_levels(got, cut(np.mean([image, *zooms], axis=0)))


# Reading anywhere --------------------------------------------------------------------


@given(size=st.integers(1, 7), index=st.integers(-40, 40))
def test_borders_fold_as_numpy_pads(size, index):
    numbers, at = np.arange(size), np.array([index])
    repeated = np.pad(numbers, 40, mode="symmetric")
    assert pixels.reflect(at, size)[0] == repeated[index + 40]
    # NumPy has nothing to reflect where there is one number.
    once = np.pad(numbers, 40, mode="reflect") if size > 1 else np.zeros(81)
    assert pixels.mirror(at, size)[0] == once[index + 40]


@pytest.mark.parametrize(
    ("fold", "mode"), [(pixels.mirror, "mirror"), (pixels.reflect, "reflect")]
)
def test_reading_anywhere_is_scipys_map_coordinates(fold, mode):
    rng = np.random.default_rng(0)
    images = photographs.crops(3, 9, 14) / 255
    rows, columns = rng.uniform(-30, 40, (2, 3, 5, 6))
    got = resample.read_at(images, rows, columns, fold)
    for i, channel in np.ndindex(3, 3):
        expected = ndimage.map_coordinates(
            images[i, ..., channel], [rows[i], columns[i]], order=1, mode=mode
        )
        np.testing.assert_allclose(got[i, ..., channel], expected, atol=1e-12)

"""Colour, contrast, distortion and compression against independent computations."""

import colorsys
import io

import numpy as np
import photographs
import pytest
from PIL import Image
from scipy import stats

from ssvi_jax import corruptions

IMAGES = photographs.crops(8)
SEVERITIES = list(enumerate(corruptions.SEVERITIES))


def cut(unit):
    return np.floor(np.clip(unit, 0, 1) * 255)


def colours(count):
    """Random colours, greys and the corners of the cube: uint8 ``[1, n, 1, 3]``."""
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[0, 255]] * 3), axis=-1).reshape(-1, 3)
    greys = np.arange(0, 256, 15)[:, None].repeat(3, axis=1)
    random = rng.integers(0, 256, (count, 3))
    return np.concatenate([corners, greys, random]).astype(np.uint8)[None, :, None]


def through_hsv(images, change):
    """The standard library's conversion of each pixel, there and back."""
    out = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(pixel / 255))))
        for pixel in images.reshape(-1, 3)
    ]
    return cut(np.array(out)).reshape(images.shape)


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_brightness_adds_to_the_value(i, severity):
    images, added = colours(500), (0.05, 0.1, 0.15, 0.2, 0.3)[i]
    got = corruptions.corrupt(images, "brightness", severity, seed=0)
    expected = through_hsv(images, lambda h, s, v: (h, s, min(v + added, 1)))
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.05  # the last bit decides which level is cut


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_saturate_scales_the_saturation(i, severity):
    images = colours(500)
    factor, added = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][i]
    got = corruptions.corrupt(images, "saturate", severity, seed=0)
    expected = through_hsv(
        images, lambda h, s, v: (h, min(max(s * factor + added, 0), 1), v)
    )
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.05


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_contrast_shrinks_about_the_mean_of_each_channel(i, severity):
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[i]
    images = photographs.crops(4, 20, 31)
    got = corruptions.corrupt(images, "contrast", severity, seed=0)
    for image, flat in zip(images, got, strict=True):
        for channel in range(3):
            plane = image[..., channel].astype(float)
            expected = (plane - plane.mean()) * factor + plane.mean()
            error = np.abs(flat[..., channel] + 0.5 - expected)
            assert error.max() < 0.5 + 1e-9


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 25)])
def test_pixelate_is_pillows_box(i, severity, height, width):
    scale = (0.95, 0.9, 0.85, 0.75, 0.65)[i]
    images = photographs.crops(3, height, width)
    got = corruptions.corrupt(images, "pixelate", severity, seed=0)
    size = int(width * scale), int(height * scale)
    for image, pixelated in zip(images, got, strict=True):
        small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
        large = small.resize((width, height), Image.Resampling.BOX)
        np.testing.assert_array_equal(pixelated, np.asarray(large))


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_jpeg_compression_is_pillows(i, severity):
    got = corruptions.corrupt(IMAGES, "jpeg_compression", severity, seed=0)
    for image, decoded in zip(IMAGES, got, strict=True):
        file = io.BytesIO()
        quality = (80, 65, 58, 50, 40)[i]
        Image.fromarray(image).save(file, format="JPEG", quality=quality)
        np.testing.assert_array_equal(decoded, np.asarray(Image.open(file)))


# Elastic -----------------------------------------------------------------------------

MOVES = (2.56, 2.24, 1.92, 1.6, 0.96)
STRENGTHS = ((0, 0), (1.6, 6.4), (2.56, 1.92), (3.2, 1.28), (3.2, 0.96))


def read_positions(severity, count):
    """Where each corrupted pixel was read, in pixels: ``[n, 32, 32]`` rows, columns.

    Two ramps show it, away from the borders, to a seventh of a pixel.
    """
    ramp = np.arange(32) * 7 + 15
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    images = np.repeat(image[None], count, axis=0)
    out = corruptions.corrupt(images, "elastic_transform", severity, seed=0)
    return [(out[..., channel] + 0.5 - 15) / 7 for channel in (0, 1)]


def fit_plane(values):
    """Least squares of ``[n, 32, 32]`` on (y, x, 1), inner pixels only: ``[n, 3]``."""
    y, x = np.mgrid[8:24, 8:24].reshape(2, -1)
    design = np.stack([y, x, np.ones(len(x))], axis=1)
    inner = values[:, 8:24, 8:24].reshape(len(values), -1)
    return np.linalg.lstsq(design, inner.T, rcond=None)[0].T


def test_elastic_transform_moves_three_points_uniformly():
    planes = [fit_plane(position) for position in read_positions(1, 400)]
    matrix = np.stack(planes, axis=1)  # [n, (row, column), (y, x, 1)]
    points = np.array([[26, 26], [6, 26], [6, 6]])
    moves = []
    for linear in matrix:
        # The output shows the point p at q where the read position of q is p.
        moved = np.linalg.solve(linear[:, :2], (points - linear[:, 2]).T).T
        moves.append(moved - points)
    for values in np.reshape(moves, (-1, 6)).T:
        assert np.abs(values).max() < MOVES[0] + 0.15
        uniform = stats.uniform(-MOVES[0], 2 * MOVES[0])
        assert stats.kstest(values, uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("i", "severity"), SEVERITIES[1:])
def test_elastic_transform_adds_smooth_displacements(i, severity):
    """What a plane leaves over has the variance of blurred uniform noise."""
    strength, sigma = STRENGTHS[i]
    y, x = np.mgrid[8:24, 8:24]
    reach = int(3 * sigma + 0.5)
    curve = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    curve /= curve.sum()
    design = np.stack([y.ravel(), x.ravel(), np.ones(256)], axis=1)
    project = np.eye(256) - design @ np.linalg.pinv(design)
    # Covariance of the displacements, from the curve's autocorrelation.
    lags = np.correlate(curve, curve, "full")[len(curve) - 1 :]
    lags = np.pad(lags, (0, 32))
    dy = np.abs(y.ravel()[:, None] - y.ravel())
    dx = np.abs(x.ravel()[:, None] - x.ravel())
    covariance = strength**2 / 3 * lags[dy] * lags[dx]
    expected = np.trace(project @ covariance) / 256 + 1 / 12 / 49
    for position in read_positions(severity, 300):
        inner = position[:, 8:24, 8:24].reshape(300, -1)
        left_over = ((inner @ project) ** 2).mean(axis=1)
        error = left_over.std(ddof=1) / np.sqrt(300)
        # The affine map blurs and bends the displacements by some per cent.
        assert abs(left_over.mean() - expected) < 5 * error + 0.1 * expected

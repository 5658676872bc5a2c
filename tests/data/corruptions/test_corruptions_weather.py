"""Snow, frost, fog and spatter: what is known of their parts."""

import math

import numpy as np
import photographs
import pytest
from scipy import stats

from ssvi_jax import corruptions
from ssvi_jax.data.corruptions import frost_textures, spatter, weather
from ssvi_jax.data.corruptions.draws import Draws
from ssvi_jax.data.corruptions.plasma import plasma

IMAGES = photographs.crops(60)
BLACK = np.zeros((60, 32, 32, 3), np.uint8)
SEVERITIES = list(enumerate(corruptions.SEVERITIES))


# Snow --------------------------------------------------------------------------------


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_snow_is_a_symmetric_layer_on_black(i, severity):
    out = corruptions.corrupt(BLACK, "snow", severity, seed=0)
    np.testing.assert_array_equal(out, out[:, ::-1, ::-1])
    np.testing.assert_array_equal(out, out[..., :1].repeat(3, axis=3))
    lost = 1 - (0.95, 0.9, 0.9, 0.85, 0.8)[i]
    assert out.min() == math.floor(lost * 0.5 * 255)


@pytest.mark.parametrize(("i", "severity"), list(enumerate((1, 2))))
def test_snow_has_the_mass_of_its_flakes(i, severity):
    """Without zoom the flakes are a cut normal, and a streak moves mass only."""
    images = np.zeros((400, 32, 32, 3), np.uint8)
    out = corruptions.corrupt(images, "snow", severity, seed=0).astype(float)
    threshold = (0.6, 0.5)[i]
    base = 255 * 0.5 * (0.05, 0.1)[i]
    level = np.arange(256) / 255
    chance = stats.norm.sf(np.maximum(level, threshold), 0.1, 0.2)
    mass = chance[1:].sum()  # Σ P(level ≥ k): the mean of a cut level
    mean = (out - base).mean(axis=(1, 2, 3))
    error = mean.std(ddof=1) / math.sqrt(400)
    # Cutting levels after the streak and after the sum takes up to half a level each.
    assert 2 * mass - 1.5 < mean.mean() + 5 * error
    assert mean.mean() - 5 * error < 2 * mass


def test_snow_falls_within_45_degrees_of_the_vertical():
    """Neighbours along a column are alike, along a row they are not."""
    out = corruptions.corrupt(BLACK, "snow", 2, seed=0)[..., 0].astype(float)
    out -= out.mean(axis=(1, 2), keepdims=True)
    variance = (out**2).mean()
    down, across = (
        (out[:, 2:] * out[:, :-2]).mean() / variance,
        (out[:, :, 2:] * out[:, :, :-2]).mean() / variance,
    )
    assert down > 0.2
    assert across < 0.5 * down


def test_below_the_snow_is_the_whitened_image():
    image = IMAGES[:1]
    out = corruptions.corrupt(np.repeat(image, 200, axis=0), "snow", 2, seed=0)
    unit = image[0] / 255
    grey = unit @ [0.299, 0.587, 0.114]
    base = 0.9 * unit + 0.1 * np.maximum(unit, 1.5 * grey[..., None] + 0.5)
    # Of 200 layers some leave each pixel free.
    least = np.floor(np.minimum(base, 1) * 255)
    assert np.abs(out.min(axis=0) - least).max() <= 1


# Frost -------------------------------------------------------------------------------


def test_a_frost_crop_is_a_window_of_a_pane():
    panes = frost_textures.panes(7)
    numbers = np.arange(12)
    crops = weather.frost(BLACK[:12, :6, :5], Draws(7, "test", numbers), 0.0, 1.0)
    tiled = np.concatenate([panes, panes[:, :6]], axis=1)
    tiled = np.concatenate([tiled, tiled[:, :, :5]], axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(tiled, (6, 5), axis=(1, 2))
    used = set()
    for crop in crops:
        same = (windows[:, :, :, :, 0, 0] == crop[0, 0]).all(axis=3)
        places = np.argwhere(same)
        hits = [
            tuple(place)
            for place in places
            if (windows[tuple(place)] == np.moveaxis(crop, 2, 0)).all()
        ]
        assert hits
        used.add(hits[0][0])
    assert len(used) > 2


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_frost_is_a_sum_of_levels(i, severity):
    image_part, frost_part = [
        (1, 0.2),
        (1, 0.3),
        (0.9, 0.4),
        (0.85, 0.4),
        (0.75, 0.45),
    ][i]
    crops = corruptions.corrupt(BLACK, "frost", severity, seed=0)
    assert 0 < crops.min()
    assert crops.max() == math.floor(255 * frost_part)
    out = corruptions.corrupt(IMAGES, "frost", severity, seed=0)
    expected = np.minimum(image_part * IMAGES.astype(float) + crops, 255)
    assert (out >= np.floor(expected)).all()
    assert (out <= expected + 1).all()


def test_frost_covers_an_image_larger_than_a_pane():
    image = np.zeros((1, 300, 270, 3), np.uint8)
    out = corruptions.corrupt(image, "frost", 5, seed=0)
    size = frost_textures.SIZE
    np.testing.assert_array_equal(out[:, size:], out[:, : 300 - size])
    np.testing.assert_array_equal(out[:, :, size:], out[:, :, : 270 - size])


def test_panes_are_bright_bluish_and_cloudy():
    panes = frost_textures.panes(0).astype(float)
    means = panes.mean(axis=(1, 2))
    assert (means[:, 2] > means[:, 0]).all()
    assert 140 < means.mean() < 180
    green = panes[..., 1] - panes[..., 1].mean(axis=(1, 2), keepdims=True)
    near = (green * np.roll(green, 1, axis=2)).mean(axis=(1, 2))
    far = (green * np.roll(green, 64, axis=2)).mean(axis=(1, 2))
    variance = (green**2).mean(axis=(1, 2))
    assert (near / variance > 0.2).all()
    assert (near > far).all()


def test_panes_depend_on_the_seed_and_cannot_be_changed():
    panes = frost_textures.panes(1)
    assert (panes != frost_textures.panes(2)).mean() > 0.9
    frost_textures.panes.cache_clear()
    np.testing.assert_array_equal(panes, frost_textures.panes(1))
    with pytest.raises(ValueError, match="read-only"):
        panes[0, 0, 0, 0] = 0


# Fog ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("i", "severity"), SEVERITIES)
def test_fog_on_white_spans_its_range(i, severity):
    density = (0.2, 0.5, 0.75, 1, 1.5)[i]
    white = np.full((8, 32, 32, 3), 255, np.uint8)
    out = corruptions.corrupt(white, "fog", severity, seed=0)
    assert (out.max(axis=(1, 2, 3)) >= 254).all()
    assert (out.min(axis=(1, 2, 3)) == math.floor(255 / (1 + density))).all()
    np.testing.assert_array_equal(out, out[..., :1].repeat(3, axis=3))


def test_fog_keeps_the_brightest_value_as_the_limit():
    out = corruptions.corrupt(IMAGES, "fog", 5, seed=0)
    assert (out.max(axis=(1, 2, 3)) <= IMAGES.max(axis=(1, 2, 3))).all()


def loops_of_diamonds(noise, size, decay):
    """One plasma map, point by point, from its noise in the order it is drawn."""
    noise, grid, width = iter(noise), np.zeros((size, size)), 1.0
    step = size
    while step > 1:
        half, cells = step // 2, range(0, size, step)

        def mean(*points):
            return sum(grid[y % size, x % size] for y, x in points) / len(points)

        for y in cells:
            for x in cells:
                corners = [(y, x), (y, x + step), (y + step, x), (y + step, x + step)]
                grid[y + half, x + half] = mean(*corners) + width * next(noise)
        for dy, dx in [(0, half), (half, 0)]:
            for y in cells:
                for x in cells:
                    v, u = y + dy, x + dx
                    beside = [(v, u - half), (v, u + half)]
                    above = [(v - half, u), (v + half, u)]
                    grid[v, u] = mean(*beside, *above) + width * next(noise)
        step, width = half, width / decay**2
    grid -= grid.min()
    return grid / grid.max()


@pytest.mark.parametrize("size", [2, 4, 8, 32])
@pytest.mark.parametrize("decay", [1.75, 3])
def test_plasma_is_diamonds_and_squares(size, decay):
    numbers = np.arange(3)
    noise = Draws(0, "test", numbers).uniform(-1, 1, (size**2 - 1,))
    got = plasma(Draws(0, "test", numbers), size, decay)
    for row, clouds in zip(noise, got, strict=True):
        np.testing.assert_allclose(
            clouds, loops_of_diamonds(row, size, decay), atol=1e-12
        )


# Spatter -----------------------------------------------------------------------------


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_brightens_and_tints_some_pixels(severity):
    out = corruptions.corrupt(IMAGES, "spatter", severity, seed=0).astype(int)
    wet = (out != IMAGES).any(axis=3)
    assert 0.01 < wet.mean() < 0.6
    assert (out >= IMAGES).all()
    drops = corruptions.corrupt(BLACK, "spatter", severity, seed=0)
    red, green, blue = np.moveaxis(drops.astype(int), 3, 0)
    assert (green == blue).all()
    assert (np.abs(red * 238 - green * 175) <= 240).all()
    brightest = drops.max(axis=(1, 2, 3))
    assert np.isin(brightest, (0, 118, 119)).all()  # 0.5 * 238 is 119
    assert (brightest > 0).mean() > 0.5


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_covers_with_brown(severity):
    white, mud = np.full_like(BLACK, 255), np.array([63, 42, 20])
    out = corruptions.corrupt(white, "spatter", severity, seed=0).astype(int)
    muddy = (out != white).any(axis=3)
    assert 0.01 < muddy.mean() < 0.5
    assert (out >= mud).all()
    # From four fifths on, mud covers.
    assert (out[muddy] <= 255 - 0.8 * (255 - mud)).all()


def test_no_drop_leaves_the_image():
    draws = Draws(0, "test", np.arange(5))
    out = spatter.spatter(IMAGES[:5], draws, 0.0, 0.1, 1.0, 0.9, 0.5, mud=False)
    np.testing.assert_array_equal(out, IMAGES[:5])


def test_a_flood_is_lit_evenly():
    draws = Draws(0, "test", np.arange(5))
    out = spatter.spatter(BLACK[:5], draws, 0.9, 0.001, 1.0, 0.5, 0.5, mud=False)
    assert out[..., 1].min() > 0.99 * 0.5 * 238 - 1

"""What holds for every corruption: the calling convention and its promises."""

import numpy as np
import photographs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax import corruptions
from ssvi_jax.core.errors import InputError
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, NAMES, SEVERITIES

DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate"),
    *("jpeg_compression", "gaussian_blur", "saturate"),
)
GROWING = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "zoom_blur"),
    *("snow", "fog", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur"),
)

each_name = pytest.mark.parametrize("name", NAMES)


def damage(images, corrupted):
    return float(np.mean((corrupted.astype(float) - images) ** 2))


def test_the_names_are_the_benchmarks():
    assert BENCHMARK == (
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    )
    assert EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert NAMES == BENCHMARK + EXTRA
    assert SEVERITIES == (1, 2, 3, 4, 5)


@each_name
def test_the_result_is_a_new_array_and_the_images_stay(name):
    images = photographs.crops(4)
    before = images.copy()
    for severity in SEVERITIES:
        out = corruptions.corrupt(images, name, severity, seed=0)
        assert (out.dtype, out.shape) == (np.uint8, images.shape)
        assert not np.shares_memory(out, images)
        assert damage(images, out) > 0
    np.testing.assert_array_equal(images, before)


@each_name
@settings(max_examples=5)
@given(data=st.data())
def test_an_image_does_not_depend_on_its_batch(name, data):
    images = photographs.crops(300)
    severity = data.draw(st.sampled_from(SEVERITIES))
    count = data.draw(st.integers(1, 300))
    whole = corruptions.corrupt(images[:count], name, severity, seed=3, start=7)
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, count))
    part = corruptions.corrupt(
        images[first:last], name, severity, seed=3, start=7 + first
    )
    np.testing.assert_array_equal(part, whole[first:last])


@each_name
def test_equal_images_differ_where_random_numbers_are_drawn(name):
    image = photographs.crops(2)[[1]]
    images = np.repeat(image, 12, axis=0)
    one, two, other = (
        corruptions.corrupt(images, name, 4, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    distinct = len({corrupted.tobytes() for corrupted in [*one, *other]})
    # Of all the directions of a motion blur, some come to the same pixels.
    assert distinct == 1 if name in DETERMINISTIC else distinct > 18


@pytest.mark.parametrize("name", [n for n in NAMES if n not in DETERMINISTIC])
def test_severities_draw_unrelated_numbers(name):
    """Else the noise of one severity would predict that of another."""
    images = np.repeat(photographs.crops(2)[[1]], 40, axis=0)
    rest = [
        corruptions.corrupt(images, name, severity, seed=0).astype(float)
        for severity in (4, 5)
    ]
    four, five = ((r - r.mean(axis=0)).reshape(40, -1) for r in rest)
    norms = np.linalg.norm(four, axis=1) * np.linalg.norm(five, axis=1)
    correlation = (four * five).sum(axis=1) / norms
    # Smooth damage correlates by chance from image to image, never on average.
    error = correlation.std(ddof=1) / np.sqrt(40)
    assert abs(correlation.mean()) < 4 * error


@each_name
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 2), (8, 8), (33, 20), (40, 70)])
def test_any_size_works(name, shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    for severity in SEVERITIES:
        out = corruptions.corrupt(images, name, severity, seed=0)
        assert (out.dtype, out.shape) == (np.uint8, images.shape)


@each_name
def test_no_images_give_no_images(name):
    for shape in [(0, 32, 32, 3), (0, 8, 8, 1)]:
        out = corruptions.corrupt_any(np.empty(shape, np.uint8), name, 1, seed=0)
        assert (out.dtype, out.shape) == (np.uint8, shape)


@each_name
def test_strides_do_not_matter(name):
    images = photographs.crops(6)[::2, ::-1, ::2]
    got = corruptions.corrupt(images, name, 3, seed=0)
    expected = corruptions.corrupt(images.copy(), name, 3, seed=0)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", GROWING)
def test_the_damage_grows_with_severity(name):
    images = photographs.crops(60)
    growth = [
        damage(images, corruptions.corrupt(images, name, severity, seed=0))
        for severity in SEVERITIES
    ]
    assert growth == sorted(growth)
    assert growth[-1] > 1.5 * growth[0]


@each_name
def test_a_grey_image_is_three_equal_channels(name):
    grey = photographs.crops(5)[..., :1]
    got = corruptions.corrupt_any(grey, name, 3, seed=4, start=2)
    colour = np.repeat(grey, 3, axis=3)
    three = corruptions.corrupt(colour, name, 3, seed=4, start=2)
    expected = np.round(three.astype(float).mean(axis=3, keepdims=True))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_colour_images_are_corrupted_alike_by_both_functions():
    images = photographs.crops(3)
    np.testing.assert_array_equal(
        corruptions.corrupt_any(images, "snow", 2, seed=1, start=9),
        corruptions.corrupt(images, "snow", 2, seed=1, start=9),
    )


# A cell of its own for each image ----------------------------------------------------


def cells_of(images, mixed, names, severities, **numbers):
    """Which cell each mixed image is, compared with every cell."""
    found = [set() for _ in images]
    for name in names:
        for severity in severities:
            out = corruptions.corrupt_any(images, name, severity, **numbers)
            for i in np.flatnonzero((out == mixed).all(axis=(1, 2, 3))):
                found[i].add((name, severity))
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_gets_one_of_the_cells(channels):
    images = photographs.crops(120)[..., :channels]
    names, severities = ("gaussian_noise", "fog", "contrast"), (1, 5)
    numbers = {"seed": 5, "start": 11}
    mixed = corruptions.corrupt_randomly(
        images, names=names, severities=severities, **numbers
    )
    found = cells_of(images, mixed, names, severities, **numbers)
    assert {len(cells) for cells in found} == {1}
    counts = np.unique([str(cells) for cells in found], return_counts=True)[1]
    assert len(counts) == 6
    # Chi-squared with 5 degrees of freedom: 20.5 is passed once in a thousand.
    assert ((counts - 20) ** 2 / 20).sum() < 20.5


def test_the_choice_does_not_depend_on_the_batch_but_on_the_seed():
    images = photographs.crops(40)
    whole = corruptions.corrupt_randomly(images, seed=1, start=3)
    part = corruptions.corrupt_randomly(images[10:15], seed=1, start=13)
    np.testing.assert_array_equal(part, whole[10:15])
    other = corruptions.corrupt_randomly(images, seed=2, start=3)
    assert (whole != other).any(axis=(1, 2, 3)).mean() > 0.9
    assert corruptions.corrupt_randomly(images[:0], seed=1).shape == (0, 32, 32, 3)


# Bad input ---------------------------------------------------------------------------

GOOD = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD.astype(np.float32), "images: got float32, allowed: .* uint8"),
        (GOOD.tolist(), "images: got list, allowed: .* uint8"),
        (GOOD[0], r"images: got shape \[8, 8, 3\], allowed: \[n, height, width, 3\]"),
        (GOOD[..., :2], r"images: got shape \[2, 8, 8, 2\], allowed"),
        (GOOD[..., :1], r"images: got shape \[2, 8, 8, 1\], allowed"),
        (GOOD[:, :0], r"images: got shape \[2, 0, 8, 3\], .* at least 1"),
    ],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(InputError, match=message):
        corruptions.corrupt(images, "fog", 1, seed=0)


@pytest.mark.parametrize("function", [corruptions.corrupt, corruptions.corrupt_any])
@pytest.mark.parametrize(
    ("name", "severity", "numbers", "message"),
    [
        ("rain", 1, {"seed": 0}, "name: got 'rain', allowed: .*brightness.*zoom_blur"),
        ("fog", 0, {"seed": 0}, "severity: got 0, allowed: 1, 2, 3, 4, 5"),
        ("fog", 6, {"seed": 0}, "severity: got 6, allowed"),
        ("fog", 2.0, {"seed": 0}, "severity: got 2.0, allowed"),
        ("fog", 1, {"seed": -1}, "seed: got -1, allowed: a whole number from 0"),
        ("fog", 1, {"seed": 0.5}, "seed: got 0.5, allowed"),
        ("fog", 1, {"seed": 0, "start": -2}, "start: got -2, allowed"),
    ],
)
def test_wrong_arguments_are_named(function, name, severity, numbers, message):
    with pytest.raises(InputError, match=message):
        function(GOOD, name, severity, **numbers)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"names": ()}, r"names, severities: got \[\], .* at least one of each"),
        ({"severities": []}, "names, severities: got .* at least one of each"),
        ({"names": ["fog", "rain"]}, "name: got 'rain', allowed"),
        ({"severities": [7]}, "severity: got 7, allowed"),
    ],
)
def test_wrong_choices_are_named(choices, message):
    with pytest.raises(InputError, match=message):
        corruptions.corrupt_randomly(GOOD, seed=0, **choices)


def test_other_channels_than_one_and_three_are_refused():
    with pytest.raises(InputError, match="width, 1 or 3"):
        corruptions.corrupt_any(GOOD[..., :2], "fog", 1, seed=0)

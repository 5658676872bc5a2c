"""ImageNet's reader and its crops, on a few generated images in the same form."""

import io

import numpy as np
import pytest
import tfds_sets
from PIL import Image

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import imagenet

SIDES = [(300, 400), (500, 333), (64, 90), (256, 256), (224, 700)]


def smooth(height, width, shade):
    """An image without edges, so that JPEG and interpolation keep it: two ramps."""
    rows = np.linspace(0, 255, height)[:, None] + np.zeros((1, width))
    columns = np.linspace(0, 255, width)[None, :] + np.zeros((height, 1))
    third = np.full((height, width), shade)
    return np.stack([rows, columns, third], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    images = [smooth(*side, 40 * n) for n, side in enumerate(SIDES)]
    labels = np.array([999, 0, 7, 500, 3])
    splits = {"train": (images, labels), "validation": (images[:3], labels[:3])}
    tfds_sets.write_set(root, "imagenet2012/5.1.0", splits)
    return root


def ramp(low, high, size):
    """Values at the middle of `size` cells of the stretch [low, high] of 0 to 255."""
    return 255 * (low + (high - low) * (np.arange(size) + 0.5) / size)


def test_images_and_labels_come_in_the_order_of_the_rows(root):
    split = imagenet.Split(root, "train")
    assert len(split) == 5
    images, labels = split.batch([3, 0, 3])
    assert (images.shape, images.dtype) == ((3, 224, 224, 3), np.uint8)
    assert (labels.tolist(), labels.dtype) == ([500, 999, 500], np.int32)
    np.testing.assert_array_equal(images[0], images[2])
    assert np.abs(images[:, 112, 112, 2].astype(int) - [120, 0, 120]).max() <= 3
    assert len(imagenet.Split(root, "validation")) == 3


@pytest.mark.parametrize("row", range(5))
def test_evaluation_takes_the_centre(root, row):
    """224 of 256 parts of the shorter side, and as much of the longer one."""
    image = imagenet.Split(root, "train").batch([row])[0][0].astype(np.float64)
    height, width = SIDES[row]
    side = min(height, width) * 224 / 256
    for axis, length, channel in ((0, height, 0), (1, width, 1)):
        half = side / length / 2
        expected = ramp(0.5 - half, 0.5 + half, 224)
        got = image[..., channel].mean(axis=1 - axis)
        assert np.abs(got - expected).max() < 4


def test_a_resized_image_of_256_is_cropped_without_interpolation():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    got = imagenet.center_crop(Image.fromarray(pixels))
    np.testing.assert_array_equal(got, pixels[16:240, 16:240])


def crops(number, size=(400, 300)):
    """Boxes of many random crops of an image of this width and height."""
    rng = np.random.default_rng(0)
    return np.array([imagenet._random_box(size, rng) for _ in range(number)])


def test_random_crops_keep_to_their_ranges():
    left, top, right, bottom = crops(2000).T
    width, height = right - left, bottom - top
    assert left.min() == top.min() == 0
    assert right.max() == 400
    assert bottom.max() == 300
    area, aspect = width * height / (400 * 300), width / height
    assert 0.078 < area.min() < 0.1
    assert 0.9 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.77
    assert 1.30 < aspect.max() < 1.35
    # The logarithm of the ratio is uniform, but for crops that do not fit.
    small = area < 0.3
    error = 4 * np.log(4 / 3) / np.sqrt(3 * small.sum())
    assert abs(np.log(aspect[small]).mean()) < error


def test_a_long_image_falls_back_to_the_centre():
    assert imagenet._random_box((1000, 2), np.random.default_rng(0)) == (499, 0, 501, 2)


def test_a_random_crop_is_a_part_of_the_image_and_half_are_mirrored():
    image = Image.fromarray(smooth(300, 400, 9))
    rng = np.random.default_rng(1)
    mirrored = 0
    for _ in range(40):
        got = imagenet.random_crop(image, rng).astype(np.float64)
        rows, columns = got[:, :, 0].mean(axis=1), got[:, :, 1].mean(axis=0)
        assert rows[-1] > rows[0]
        mirrored += columns[0] > columns[-1]
        # Both ramps are still straight.
        for line in (rows, columns):
            assert np.abs(line - np.linspace(line[0], line[-1], 224)).max() < 3
    assert 8 < mirrored < 32


def test_a_batch_is_a_function_of_seed_epoch_and_rows(root):
    split = imagenet.Split(root, "train")
    images, labels = split.batch([0, 1, 2], seed=3, epoch=1)
    again, _ = imagenet.Split(root, "train", workers=1).batch([2, 0], seed=3, epoch=1)
    np.testing.assert_array_equal(again, images[[2, 0]])
    assert labels.tolist() == [999, 0, 7]
    for options in ({"seed": 4, "epoch": 1}, {"seed": 3, "epoch": 2}, {}):
        other = split.batch([0, 1, 2], **options)[0]
        assert all((a != b).any() for a, b in zip(images, other, strict=True))


@pytest.mark.parametrize("kind", ["CMYK", "L", "PNG"])
def test_odd_files_become_rgb(kind):
    pixels = Image.fromarray(smooth(20, 30, 50))
    file = io.BytesIO()
    if kind == "PNG":
        pixels.save(file, "PNG")
    else:
        pixels.convert(kind).save(file, "JPEG")
    got = imagenet.decode(file.getvalue())
    assert (got.mode, got.size) == ("RGB", (30, 20))


def test_what_is_not_there_is_named(tmp_path, root):
    with pytest.raises(InputError, match="no imagenet2012/; put the archives"):
        imagenet.Split(tmp_path, "train")
    with pytest.raises(InputError, match="split: got 'test', allowed: train, valid"):
        imagenet.Split(root, "test")
    for rows in ([5], [-1]):
        with pytest.raises(InputError, match="rows: got rows from"):
            imagenet.Split(root, "train").batch(rows)


def test_damage_names_the_folder(tmp_path):
    images, labels = [smooth(30, 30, 1)] * 2, np.array([1, 2])
    splits = {"train": (images, labels)}
    tfds_sets.write_set(tmp_path, "imagenet2012/5.1.0", splits, file_format="tfrecord")
    with pytest.raises(InputError, match=r"5\.1\.0 is incomplete.*needed is array_rec"):
        imagenet.Split(tmp_path, "train")
    folder = tfds_sets.write_set(tmp_path, "imagenet2012/5.2.0", splits)
    imagenet.Split(tmp_path, "train")
    next(folder.glob("*-train.array_record-00001*")).unlink()
    with pytest.raises(InputError, match=r"5\.2\.0 is incomplete or damaged"):
        imagenet.Split(tmp_path, "train")

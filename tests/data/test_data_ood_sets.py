import io
import zipfile

import numpy as np
import pytest
import small_data

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import digits, load, ood_sets
from ssvi_jax.data.ood import load_ood

CIFAR10 = small_data.make("cifar10")


def load_any(data, *names, seed=0):
    return load_ood(data, names, data_dir=None, limit=0, seed=seed, notify=pytest.fail)


def load_one(data, name, **options):
    (found,) = load_any(data, name, **options)
    return found


# Sets that are made ------------------------------------------------------------------


def test_a_photo_as_large_as_the_photograph_is_the_photograph(monkeypatch):
    from sklearn.datasets import load_sample_image

    monkeypatch.setattr(ood_sets, "NUM_MADE", 8)
    images, _ = ood_sets.photos((427, 640, 3), 0)
    originals = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    which = [[np.array_equal(x, o) for o in originals] for x in images]
    assert [sum(row) for row in which] == [1] * 8
    assert 0 < sum(row[0] for row in which) < 8


def test_photos_are_crops_of_every_size_and_place(monkeypatch):
    # Of a picture whose pixels say where they are, crops show where they were taken.
    import sklearn.datasets

    rows, columns = np.mgrid[:256, :256].astype(np.uint8)
    picture = np.stack([rows, columns, columns], axis=-1)
    monkeypatch.setattr(sklearn.datasets, "load_sample_image", lambda name: picture)
    images, _ = ood_sets.photos((8, 8, 3), 1)
    first, last = images[:, 0, 0, :2].astype(float), images[:, -1, -1, :2].astype(float)
    # Pixels lie side / 8 apart; means of blocks of a ramp are exact up to rounding.
    side = 8 / 7 * (last - first)
    np.testing.assert_allclose(side[:, 0], side[:, 1], atol=5)
    assert 7 <= side.min() < 9
    assert 240 < side.max() <= 258
    # Uniform in the logarithm: half of the sides are below sqrt(8 * 256).
    assert abs((side < np.sqrt(8 * 256)).mean() - 0.5) < 4 * np.sqrt(0.25 / len(side))
    corner = first - side / 16
    assert corner.min() > -3
    small = side.max(axis=1) < 20
    assert np.ptp(corner[small], axis=0).min() > 200


def test_photos_from_a_seed():
    one = load_one(CIFAR10, "photos", seed=1)
    np.testing.assert_array_equal(
        one.images, load_one(CIFAR10, "photos", seed=1).images
    )
    assert not np.array_equal(one.images, load_one(CIFAR10, "photos", seed=2).images)
    assert one.images.shape == (1000, 32, 32, 3)
    assert "1,000 random crops" in one.source
    assert "seed 1" in one.source
    assert "not independent" in one.source
    assert len({image.tobytes() for image in one.images}) == 1000


def test_digits_of_their_own_size_are_unchanged():
    images, source = ood_sets.digits((8, 8, 1))
    own = np.concatenate([images for images, _ in digits.read().values()])
    np.testing.assert_array_equal(images, own)
    assert "1,797 real handwritten digits" in source


def test_digits_are_enlarged_bilinearly_and_grey():
    found = load_one(CIFAR10, "digits")
    assert found.images.shape == (1797, 32, 32, 3)
    own = np.concatenate([images for images, _ in digits.read().values()])[..., 0]
    # Pixel centres: output i lies at (i + 1/2) / 4 - 1/2 of the input.
    where = (np.arange(32) + 0.5) / 4 - 0.5
    weights = np.stack([np.interp(where, range(8), row) for row in np.eye(8)], axis=1)
    for number in (0, 700, 1796):
        expected = weights @ own[number] @ weights.T
        for channel in range(3):
            made = found.images[number, ..., channel].astype(float)
            np.testing.assert_allclose(made, expected, atol=1.01)


def test_noise_is_uniform_and_from_a_seed():
    one = load_one(CIFAR10, "noise", seed=1)
    np.testing.assert_array_equal(one.images, load_one(CIFAR10, "noise", seed=1).images)
    assert not np.array_equal(one.images, load_one(CIFAR10, "noise", seed=2).images)
    counts = np.bincount(one.images.reshape(-1), minlength=256)
    expected = one.images.size / 256
    # Chi-squared of 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 4 * 22.6
    neighbours = np.corrcoef(one.images[..., 0].ravel(), one.images[..., 1].ravel())
    assert abs(neighbours[0, 1]) < 4 / np.sqrt(one.images.size / 3)
    assert "seed 1" in one.source


def test_sets_for_the_real_digits():
    sets = load_any(load("digits"), "photos", "noise")
    assert [found.images.shape for found in sets] == [(1000, 8, 8, 1)] * 2


# Files -------------------------------------------------------------------------------


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


RANDOM = np.random.default_rng(5).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": RANDOM, "label": np.arange(10)},
        {"images": RANDOM, "label": np.arange(10)},
        {"anything": RANDOM},
    ],
)
def test_a_file(tmp_path, arrays):
    found = load_one(CIFAR10, save(tmp_path / "mine.npz", **arrays))
    np.testing.assert_array_equal(found.images, RANDOM)
    assert found.name == "mine"
    assert found.source == "10 images of the file mine.npz"


def test_files_of_one_name_get_numbers(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.npz", tmp_path / "other/a.npz", tmp_path / "svhn.npz"]
    names = [save(path, images=RANDOM) for path in paths]
    sets = load_any(CIFAR10, *names, names[0])
    assert [found.name for found in sets] == ["a", "a-2", "svhn-2"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "mine.npz", images=RANDOM)
    assert len(load_one(CIFAR10, "~/mine.npz").images) == 10


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"x": RANDOM, "y": RANDOM},
            r"arrays x, y; allowed: one named image or images",
        ),
        ({}, r"holds the arrays \(none\)"),
        (
            {"image": RANDOM / 255},
            r"image is float64 \[10, 32, 32, 3\]; allowed: uint8",
        ),
        (
            {"image": RANDOM[..., 0]},
            r"image is uint8 \[10, 32, 32\]; allowed: uint8 \[",
        ),
        ({"image": RANDOM[:0]}, r"uint8 \[0, 32, 32, 3\]; .* n at least 1"),
        ({"image": RANDOM.astype(object)}, "is damaged or no .npz file"),
        (
            {"image": RANDOM[:, :28, :28]},
            r"28x28 RGB, of another size than the model takes; allowed: 32x32 RGB",
        ),
        (
            {"image": RANDOM[..., :1]},
            "32x32 grey, of another number of channels than the model takes",
        ),
    ],
)
def test_refused_arrays(tmp_path, arrays, words):
    name = save(tmp_path / "mine.npz", **arrays)
    with pytest.raises(InputError, match=words) as caught:
        load_any(CIFAR10, name)
    assert str(caught.value).startswith("ood: ")
    assert name in str(caught.value)


def stored(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.npy", content)
    return file.getvalue()


def whole_file():
    file = io.BytesIO()
    np.savez_compressed(file, image=RANDOM)
    return file.getvalue()


def wrong_byte():
    content = bytearray(whole_file())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def array_file():
    file = io.BytesIO()
    np.save(file, RANDOM)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>404</html>", id="no archive"),
        pytest.param(whole_file()[:-400], id="cut"),
        pytest.param(wrong_byte(), id="a wrong byte"),
        pytest.param(stored(b"no array"), id="no array inside"),
        pytest.param(array_file(), id="a single .npy"),
    ],
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.npz") as caught:
        load_any(CIFAR10, str(path))
    assert str(caught.value).startswith("ood: ")
    assert "allowed: " in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"ood: .*mine\.npz is not there"):
        load_any(CIFAR10, str(tmp_path / "mine.npz"))

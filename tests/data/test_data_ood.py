import numpy as np
import pytest
import small_data
import tfds_sets

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import NotPreparedError, cifar, ood_sets
from ssvi_jax.data.ood import load_ood

SIZE = 12
PATHS = {
    "cifar10": "cifar10/3.0.2",
    "cifar100": "cifar100/3.0.2",
    "svhn": "svhn_cropped/3.1.0",
}


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "SPLIT_SIZES", {"train": 50, "test": SIZE})
    monkeypatch.setattr(ood_sets, "SVHN_TEST_SIZE", SIZE)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))


def images_of(name):
    rng = np.random.default_rng(len(name))
    return rng.integers(0, 256, (SIZE, 32, 32, 3), dtype=np.uint8)


def prepare(root, *names):
    for name in names:
        split = images_of(name), np.arange(SIZE) % 10
        tfds_sets.write_set(root, PATHS[name], {"test": split})
    return root


def load_any(data, *names, root=None, limit=0, seed=0, notify=pytest.fail):
    return load_ood(data, names, data_dir=root, limit=limit, seed=seed, notify=notify)


def load_one(data, name, **options):
    (found,) = load_any(data, name, **options)
    return found


CIFAR10 = small_data.make("cifar10")
CIFAR100 = small_data.make("cifar100", num_classes=100)
DIGITS = small_data.make("digits", (8, 8, 1))


# What auto takes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "there", "chosen", "missing"),
    [
        (CIFAR10, "cifar10 cifar100 svhn", "cifar100 svhn photos digits", ""),
        (CIFAR10, "cifar10 svhn", "svhn photos digits", "cifar100 not in"),
        (CIFAR10, "", "photos digits", "cifar100 and svhn not in"),
        (CIFAR100, "cifar10 cifar100 svhn", "cifar10 svhn photos digits", ""),
        (CIFAR100, "cifar100", "photos digits", "cifar10 and svhn not in"),
        (DIGITS, "cifar10 cifar100 svhn", "photos noise", ""),
    ],
)
def test_auto(tmp_path, data, there, chosen, missing):
    root, said = prepare(tmp_path, *there.split()), []
    sets = load_any(data, "auto", root=root, notify=said.append)
    assert [found.name for found in sets] == chosen.split()
    assert len(said) == bool(missing)
    assert all(missing in line and str(root) in line for line in said)
    for found in sets:
        assert found.images.dtype == np.uint8
        assert found.images.shape[1:] == data.test_images.shape[1:]
        assert len(found.images)


def test_no_names_no_sets():
    assert load_any(CIFAR10) == []


def test_named_twice_counts_once(tmp_path):
    root = prepare(tmp_path, "cifar100", "svhn")
    sets = load_any(CIFAR10, "svhn", "noise", "auto", "noise", root=root)
    names = ["svhn", "noise", "cifar100", "photos", "digits"]
    assert [found.name for found in sets] == names


# Prepared sets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"), [("cifar10", CIFAR100), ("cifar100", CIFAR10), ("svhn", CIFAR10)]
)
def test_prepared_sets_are_their_test_images(tmp_path, monkeypatch, name, data):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepare(tmp_path, name)))
    found = load_one(data, name)
    np.testing.assert_array_equal(found.images, images_of(name))
    assert PATHS[name] in found.source
    assert "test images" in found.source
    assert str(tmp_path) not in found.source


@pytest.mark.parametrize("name", ["cifar100", "svhn"])
def test_a_named_set_that_is_not_there_names_three_ways(tmp_path, name):
    with pytest.raises(NotPreparedError) as caught:
        load_any(CIFAR10, name, root=tmp_path)
    tfds_name = PATHS[name].partition("/")[0]
    text = str(caught.value)
    assert text.startswith(f"ood: {tfds_name} is not prepared in {tmp_path}, and ")
    command = f"python -m ssvi_jax.data.prepare {tfds_name} --data-dir {tmp_path}:"
    assert f"1. With a network, run {command}" in text
    assert f"2. Copy the folder {tfds_name}/" in text
    assert "3. Use --ood photos, digits or noise" in text
    assert "--dataset" not in text


@pytest.mark.parametrize("name", ["cifar100", "svhn"])
def test_damaged_sets(tmp_path, name):
    root = prepare(tmp_path, name)
    next(root.glob("*/*/*00001-of-00002")).unlink()
    for asked in (name, "auto"):
        with pytest.raises(InputError, match="incomplete or damaged") as caught:
            load_any(CIFAR10, asked, root=root, notify=lambda line: None)
        assert "choose another set with --ood" in str(caught.value)
        assert str(root / PATHS[name]) in str(caught.value)


# Names, shapes and numbers -----------------------------------------------------------


@pytest.mark.parametrize("data", [CIFAR10, CIFAR100, DIGITS])
def test_the_models_own_data_set_is_refused(tmp_path, data):
    root = prepare(tmp_path, "cifar10", "cifar100")
    with pytest.raises(InputError, match=f"got {data.name}, the data set that the mod"):
        load_any(data, "photos", data.name, root=root)


@pytest.mark.parametrize("name", ["mnist", "none", "svhn_cropped", "images.npy"])
def test_unknown_names(name):
    with pytest.raises(InputError, match=f"got '{name}', allowed: auto, cifar10, ci"):
        load_any(CIFAR10, name)


def test_colour_sets_do_not_fit_a_grey_model(tmp_path):
    root = prepare(tmp_path, "svhn")
    with pytest.raises(InputError, match=r"svhn are 32x32 RGB.*allowed: 8x8 grey"):
        load_any(DIGITS, "svhn", root=root)


def test_the_limit_spreads_evenly(tmp_path):
    # A set may be sorted by class: the first few would be of one class only.
    images = images_of("svhn")[:10]
    name = str(tmp_path / "mine.npz")
    np.savez(name, images=images)
    found = load_one(CIFAR10, name, limit=4)
    np.testing.assert_array_equal(found.images, images[[0, 2, 5, 7]])
    assert found.source.endswith("; 4 of 10, evenly spread")
    for limit in (0, 10, 11):
        np.testing.assert_array_equal(
            load_one(CIFAR10, name, limit=limit).images, images
        )
    photos = load_one(CIFAR10, "photos", limit=3)
    whole = load_one(CIFAR10, "photos")
    np.testing.assert_array_equal(photos.images, whole.images[[0, 333, 666]])


def test_a_negative_limit():
    with pytest.raises(InputError, match="limit: got -2"):
        load_any(CIFAR10, "noise", limit=-2)

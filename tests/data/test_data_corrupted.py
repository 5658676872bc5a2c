import dataclasses

import numpy as np
import pytest
import small_data

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import load
from ssvi_jax.data.corrupted import open_cells
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, corrupt, corrupt_any

SEVERITIES = (1, 2, 3, 4, 5)


@pytest.fixture(autouse=True)
def _nothing_is_prepared(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def open_any(dataset, *, folder=None, extra=False, limit=0, seed=3, notify=None):
    return open_cells(
        dataset,
        corruptions_dir=folder,
        data_dir=None,
        extra=extra,
        limit=limit,
        seed=seed,
        notify=notify or (lambda line: None),
    )


def test_series_have_no_corruptions():
    series = dataclasses.replace(small_data.make(name="mimic3"), pixels=False)
    with pytest.raises(InputError, match="got mimic3, allowed: data sets of images"):
        open_any(series)


def test_without_files_corruptions_are_made():
    data = small_data.make(num_test=4)
    cells = open_any(data, extra=True)
    assert cells.kind == "generated"
    assert cells.names == (*BENCHMARK, *EXTRA)
    assert cells.num_images == 4
    for name in cells.names:
        for severity in SEVERITIES:
            images, labels = cells.read(name, severity)
            expected = corrupt(data.test_images, name, severity, seed=3)
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(labels, data.test_labels)
            assert images.dtype == np.uint8
            assert labels.dtype == np.int32


def test_grey_images(digits):
    cells = open_any(digits, limit=20)
    assert cells.names == BENCHMARK
    images, labels = cells.read("contrast", 5)
    expected = corrupt_any(digits.test_images[:20], "contrast", 5, seed=3)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, digits.test_labels[:20])


def test_the_limit_takes_the_first_images_and_does_not_change_them():
    data = small_data.make(num_test=9)
    whole, few = open_any(data), open_any(data, limit=4)
    assert (whole.num_images, few.num_images) == (9, 4)
    for name in ("gaussian_noise", "fog"):  # random, image by image
        np.testing.assert_array_equal(whole.read(name, 2)[0][:4], few.read(name, 2)[0])
    assert open_any(data, limit=100).num_images == 9
    assert "the first 4 of 9 images a cell" in few.source
    assert "; 9 images a cell" in whole.source


def test_a_cell_is_the_same_every_time_and_depends_on_the_seed(digits):
    first, again = open_any(digits, limit=5), open_any(digits, limit=5)
    other = open_any(digits, limit=5, seed=4)
    before = first.read("gaussian_noise", 3)[0]
    first.read("gaussian_noise", 4)
    np.testing.assert_array_equal(before, first.read("gaussian_noise", 3)[0])
    np.testing.assert_array_equal(before, again.read("gaussian_noise", 3)[0])
    assert not np.array_equal(before, other.read("gaussian_noise", 3)[0])


def test_a_cell_belongs_to_the_reader():
    data = small_data.make(num_test=4)
    cells = open_any(data)
    kept = data.test_images.copy(), data.test_labels.copy()
    for array in cells.read("jpeg_compression", 1):
        array[...] = 0
    np.testing.assert_array_equal(data.test_images, kept[0])
    np.testing.assert_array_equal(data.test_labels, kept[1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_making_them_is_said_loudly_and_in_the_source(tmp_path, name):
    said = []
    cells = open_any(small_data.make(name), notify=said.append)
    assert len(said) == 1
    assert said[0].startswith("*** ")
    assert said[0].endswith(" ***")
    assert "MADE from the test images (seed 3)" in said[0]
    if name == "cifar10":
        assert str(tmp_path / "nothing") in said[0]
        assert "--corruptions-dir" in said[0]
        assert "python -m ssvi_jax.data.prepare cifar10_corrupted" in said[0]
    else:
        assert "no official corrupted cifar100" in said[0]
    assert f"made from the test images of {name}" in cells.source
    assert "with seed 3, not official files" in cells.source


def test_a_folder_is_preferred(tmp_path):
    data = small_data.make(num_test=4)
    folder = tmp_path / "home" / "files"
    folder.mkdir(parents=True)
    fog = np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None, None, None]
    np.save(folder / "fog.npy", np.tile(fog, (1, 32, 32, 3)))
    np.save(folder / "labels.npy", np.tile(data.test_labels, 5))
    cells = open_any(data, folder=folder, limit=3)
    assert cells.kind == "folder"
    assert cells.names == ("fog",)
    images, labels = cells.read("fog", 5)
    assert images.shape == (3, 32, 32, 3)
    assert set(images.flat) == {4}
    np.testing.assert_array_equal(labels, data.test_labels[:3])


def test_a_wrong_folder_is_an_error_and_nothing_is_made(tmp_path):
    with pytest.raises(InputError, match="corruptions_dir"):
        open_any(small_data.make(), folder=tmp_path, notify=pytest.fail)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"got {tmp_path}/files, which is not there"):
        open_any(small_data.make(), folder=type(tmp_path)("~/files"))


def test_a_negative_limit():
    with pytest.raises(InputError, match=r"limit: got -1, allowed: 0 \(all images\)"):
        open_any(small_data.make(), limit=-1)


def test_unknown_cells(digits):
    cells = open_any(digits)
    with pytest.raises(InputError, match="corruption: got 'saturate', allowed: bright"):
        cells.read("saturate", 1)
    with pytest.raises(InputError, match="severity: got 6, allowed: 1 to 5"):
        cells.read("fog", 6)

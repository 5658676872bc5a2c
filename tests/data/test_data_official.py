import dataclasses
import os
import re
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import small_data
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.format import open_memmap

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar, load
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA
from ssvi_jax.data.official import open_folder

SHAPE = (4, 5, 3)
SIZE = 6


@pytest.fixture
def data():
    return small_data.make(shape=SHAPE, num_test=9)


def images_of(name, size=SIZE, shape=SHAPE):
    rng = np.random.default_rng(len(name) * 100 + sum(map(ord, name)))
    return rng.integers(0, 256, (5 * size, *shape), dtype=np.uint8)


def write(folder, data, names=BENCHMARK, size=SIZE):
    """A folder as the benchmark's authors publish it, of `size` images a cell."""
    folder.mkdir(exist_ok=True)
    for name in names:
        np.save(
            folder / f"{name}.npy", images_of(name, size, data.test_images[0].shape)
        )
    np.save(folder / "labels.npy", np.tile(data.test_labels[:size].astype(np.uint8), 5))
    return folder


def open_quietly(folder, data, *, extra=False, limit=0):
    return open_folder(folder, data, extra=extra, limit=limit, notify=pytest.fail)


def test_reads_every_cell(tmp_path, data):
    cells = open_quietly(write(tmp_path, data), data)
    assert cells.kind == "folder"
    assert cells.names == BENCHMARK
    assert cells.num_images == SIZE
    for name in BENCHMARK:
        for severity in (1, 2, 3, 4, 5):
            images, labels = cells.read(name, severity)
            assert images.dtype == np.uint8
            assert labels.dtype == np.int32
            for i in range(SIZE):
                expected = images_of(name)[(severity - 1) * SIZE + i]
                np.testing.assert_array_equal(images[i], expected)
            np.testing.assert_array_equal(labels, data.test_labels[:SIZE])


def test_a_cell_belongs_to_the_reader(tmp_path, data):
    cells = open_quietly(write(tmp_path, data), data)
    for array in cells.read("fog", 2):
        array[...] = 0
    images, labels = cells.read("fog", 2)
    np.testing.assert_array_equal(images, images_of("fog")[SIZE : 2 * SIZE])
    np.testing.assert_array_equal(labels, data.test_labels[:SIZE])


def test_the_source_says_what_it_is_and_not_where_the_folder_lies(tmp_path, data):
    folder = write(tmp_path / "CIFAR-10-C", data)
    whole = open_quietly(folder, data).source
    assert "CIFAR-10-C (Hendrycks and Dietterich 2019)" in whole
    assert "folder CIFAR-10-C, 6 images a cell" in whole
    assert str(tmp_path) not in whole
    assert "not there" not in whole
    part = open_quietly(folder, data, limit=4)
    assert "the first 4 of 6 images a cell" in part.source


@given(
    size=st.integers(1, 7),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    severity=st.integers(1, 5),
    limit=st.integers(0, 9),
    fortran=st.booleans(),
)
def test_severity_blocks_of_any_size(
    size, height, width, channels, severity, limit, fortran
):
    data = small_data.make("digits", (height, width, channels), num_test=size)
    # Each image is filled with the number 10 * severity + row that it must come out as.
    numbers = np.array(
        [10 * s + i for s in (1, 2, 3, 4, 5) for i in range(size)], np.uint8
    )
    images = np.broadcast_to(
        numbers[:, None, None, None], (5 * size, height, width, channels)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "fog.npy", np.asarray(images, order="F" if fortran else "C"))
        np.save(folder / "labels.npy", np.tile(data.test_labels, 5))
        cells = open_folder(
            folder, data, extra=False, limit=limit, notify=lambda line: None
        )
        found, labels = cells.read("fog", severity)
    taken = range(min(limit, size) if limit else size)
    assert cells.num_images == len(taken)
    assert found.shape == (len(taken), height, width, channels)
    assert [set(image.flat) for image in found] == [{10 * severity + i} for i in taken]
    assert labels.tolist() == data.test_labels[: len(taken)].tolist()


def test_extra_corruptions_only_on_request(tmp_path, data):
    folder = write(tmp_path, data, (*EXTRA, *BENCHMARK))
    assert open_quietly(folder, data).names == BENCHMARK
    assert open_quietly(folder, data, extra=True).names == (*BENCHMARK, *EXTRA)


def test_what_lacks_is_said_and_the_rest_is_there(tmp_path, data):
    there = [name for name in BENCHMARK if name not in ("frost", "snow")]
    said = []
    folder = write(tmp_path, data, there)
    cells = open_folder(folder, data, extra=False, limit=0, notify=said.append)
    assert cells.names == tuple(there)
    assert cells.source.endswith("not there: snow, frost")
    assert len(said) == 1
    assert "lacks snow, frost" in said[0]
    np.testing.assert_array_equal(cells.read("fog", 1)[0], images_of("fog")[:SIZE])


def test_unknown_files_are_named(tmp_path, data):
    folder = write(tmp_path, data, (*BENCHMARK, "frosted_glass_blur"))
    said = []
    open_folder(folder, data, extra=False, limit=0, notify=said.append)
    assert len(said) == 1
    assert "ignored frosted_glass_blur.npy" in said[0]


@pytest.mark.parametrize("change", ["other labels", "more images"])
def test_corruptions_of_other_images_are_noticed(tmp_path, data, change):
    if change == "more images":  # the data set has 9, the folder 10
        folder = write(tmp_path, small_data.make(shape=SHAPE, num_test=10), size=10)
    else:
        folder = write(tmp_path, data)
        np.save(folder / "labels.npy", np.tile(data.test_labels[:SIZE][::-1], 5))
    said = []
    open_folder(folder, data, extra=False, limit=0, notify=said.append)
    assert len(said) == 1
    assert "does not begin like the labels of the test images of cifar10" in said[0]


def test_files_are_mapped_and_a_cell_is_all_that_is_in_memory(tmp_path, data):
    size = 13_100  # fog.npy has 201 MB, but no block of it is on the disk
    data = small_data.make(num_test=size)
    for name in ("fog", "snow"):
        made = open_memmap(
            tmp_path / f"{name}.npy", "w+", np.uint8, (5 * size, 32, 32, 3)
        )
        made[4 * size + 7, 3, 2, 1] = 99
        del made
    np.save(tmp_path / "labels.npy", np.tile(data.test_labels, 5))
    cell = size * 32 * 32 * 3
    tracemalloc.start()
    try:
        cells = open_folder(tmp_path, data, extra=False, limit=0, notify=lambda _: None)
        assert tracemalloc.get_traced_memory()[1] < 0.1 * cell
        images, _ = cells.read("fog", 5)
        peak = tracemalloc.get_traced_memory()[1]
        assert cell < peak < 1.1 * cell
        assert images[7, 3, 2, 1] == 99
        del images
        tracemalloc.reset_peak()
        few = open_folder(tmp_path, data, extra=False, limit=10, notify=lambda _: None)
        assert few.read("fog", 5)[0][7, 3, 2, 1] == 99
        assert tracemalloc.get_traced_memory()[1] < 0.1 * cell
    finally:
        tracemalloc.stop()


def test_a_folder_of_grey_images(tmp_path):
    digits = load("digits")
    folder = write(tmp_path, digits)
    images, labels = open_quietly(folder, digits).read("fog", 3)
    assert images.shape == (SIZE, 8, 8, 1)
    np.testing.assert_array_equal(labels, digits.test_labels[:SIZE])


# What is refused ---------------------------------------------------------------------


def save(name, make):
    def change(folder):
        np.save(folder / name, make(np.load(folder / name, allow_pickle=False)))

    return change


def keep_bytes(name, fraction):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    return change


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def archive(folder):
    with (folder / "fog.npy").open("wb") as file:
        np.savez(file, images_of("fog"))


def unlike_labels(labels):
    labels[3 * SIZE + 1] = (labels[3 * SIZE + 1] + 1) % 10
    return labels


REFUSED = {
    "float images": (save("fog.npy", lambda x: x / 255.0), "fog.npy holds float64"),
    "signed images": (save("fog.npy", lambda x: x.astype("i1")), "fog.npy holds int8"),
    "flat images": (
        save("fog.npy", lambda x: x.reshape(30, -1)),
        r"fog.npy holds uint8 \[30, 60\]; allowed: uint8 \[5 n, 4, 5, 3\]",
    ),
    "channels first": (
        save("fog.npy", lambda x: x.transpose(0, 3, 1, 2)),
        r"uint8 \[30, 3, 4, 5\]; allowed: uint8 \[5 n, 4, 5, 3\]",
    ),
    "another size": (save("fog.npy", lambda x: x[:, :-1]), r"uint8 \[30, 3, 5, 3\]"),
    "grey images": (save("fog.npy", lambda x: x[..., :1]), r"uint8 \[30, 4, 5, 1\]"),
    "a number": (save("fog.npy", lambda x: np.uint8(3)), r"fog.npy holds uint8 \[\]"),
    "a missing severity": (
        save("snow.npy", lambda x: x[: 4 * SIZE]),
        "snow.npy holds 24 images for 30 labels .*is a severity missing",
    ),
    "one image less": (
        save("snow.npy", lambda x: x[:-1]),
        "snow.npy holds 29 images for 30 labels",
    ),
    "one severity of labels": (
        save("labels.npy", lambda x: x[:SIZE]),
        "30 images for 6 labels in labels.npy",
    ),
    "labels of another severity differ": (
        save("labels.npy", unlike_labels),
        "labels.npy at severity 4 differ .* allowed: the same 6 labels 5 times",
    ),
    "a class too many": (
        save("labels.npy", lambda x: np.full_like(x, 10)),
        "labels from 10 to 10; allowed: 0 to 9",
    ),
    "negative labels": (
        save("labels.npy", lambda x: np.full(len(x), -1)),
        "labels from -1 to -1",
    ),
    "labels that are no integers": (
        save("labels.npy", lambda x: x.astype(float)),
        "labels.npy holds float64",
    ),
    "labels in columns": (
        save("labels.npy", lambda x: x.reshape(5, -1)),
        r"labels.npy holds uint8 \[5, 6\]",
    ),
    "no labels at all": (save("labels.npy", lambda x: x[:0]), r"uint8 \[0\]"),
    "no labels.npy": (lambda folder: (folder / "labels.npy").unlink(), "is missing"),
    "a pickle": (save("fog.npy", lambda x: x.astype(object)), "fog.npy is damaged"),
    "pickled labels": (save("labels.npy", lambda x: x.astype(object)), "labels.npy is"),
    "a cut file": (keep_bytes("fog.npy", 0.7), "fog.npy is damaged"),
    "an empty file": (keep_bytes("fog.npy", 0.0), "fog.npy is damaged"),
    "something else": (overwrite("fog.npy", b"<html>404</html>"), "fog.npy is damaged"),
    "an archive": (archive, "fog.npy is an archive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(tmp_path, data, case):
    change, words = REFUSED[case]
    change(write(tmp_path, data))
    with pytest.raises(InputError, match=words) as caught:
        open_quietly(tmp_path, data)
    assert str(caught.value).startswith("corruptions_dir: ")
    assert str(tmp_path) in str(caught.value)
    assert ";" in str(caught.value)  # what to do follows


def test_a_number_of_images_that_is_no_multiple_of_5(tmp_path, data):
    write(tmp_path, data)
    for path in tmp_path.glob("*.npy"):
        np.save(path, np.load(path, allow_pickle=False)[:28])
    with pytest.raises(InputError, match=r"28 images for 28 labels .* 5 severities"):
        open_quietly(tmp_path, data)


def test_no_folder(tmp_path, data):
    with pytest.raises(InputError, match="which is not there; allowed: the folder"):
        open_quietly(tmp_path / "nowhere", data)
    (tmp_path / "CIFAR-10-C.tar").write_bytes(b"tar")
    with pytest.raises(InputError, match="which is a file: unpack it"):
        open_quietly(tmp_path / "CIFAR-10-C.tar", data)


@pytest.mark.parametrize("names", [(), EXTRA])
def test_no_corruption_of_the_benchmark(tmp_path, data, names):
    write(tmp_path, data, names)
    with pytest.raises(InputError, match=r"none of the benchmark.*gaussian_noise\.npy"):
        open_quietly(tmp_path, data, extra=True)


def test_the_folder_above(tmp_path, data):
    inside = write(tmp_path / "CIFAR-10-C", data)
    with pytest.raises(InputError, match=f"pass {re.escape(str(inside))}"):
        open_quietly(tmp_path, data)


def test_unknown_cells(tmp_path, data):
    cells = open_quietly(write(tmp_path, data), data)
    with pytest.raises(InputError, match="corruption: got 'spatter', allowed: bright"):
        cells.read("spatter", 1)
    for severity in (0, 6):
        with pytest.raises(InputError, match=f"severity: got {severity}, allowed: 1 t"):
            cells.read("fog", severity)


def test_the_real_files(cifar_dir):
    if "CIFAR10C_DIR" not in os.environ:
        pytest.skip("CIFAR10C_DIR is not set: no folder of official files")
    prepared = cifar.find(cifar_dir, "cifar10")
    assert prepared is not None
    test_images, test_labels = cifar.read_split(prepared, "test")
    real = dataclasses.replace(
        small_data.make(), test_images=test_images, test_labels=test_labels
    )
    folder = Path(os.environ["CIFAR10C_DIR"])
    cells = open_folder(folder, real, extra=False, limit=100, notify=pytest.fail)
    assert cells.names == BENCHMARK
    images, labels = cells.read("brightness", 1)
    np.testing.assert_array_equal(labels, test_labels[:100])
    # Row i is test image i, a little brighter: of all it is the nearest one.
    clean, found = (x.reshape(len(x), -1) / 255.0 for x in (test_images[:2000], images))
    clean -= clean.mean(axis=1, keepdims=True)
    found -= found.mean(axis=1, keepdims=True)
    distance = (clean**2).sum(axis=1) - 2 * found @ clean.T
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(100))

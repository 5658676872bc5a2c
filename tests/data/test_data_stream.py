"""Images that are read when they are asked for, one by one or ahead of training."""

import threading

import numpy as np
import pytest
import small_imagenet

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.data import imagenet, lazy
from ssvi_jax.data.batches import batch_indices
from ssvi_jax.data.stream import Order, Stream

TRAINED = {"num_examples": 20, "batch_size": 6, "seed": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    small_imagenet.write(root)
    return root


@pytest.fixture
def dataset(root, monkeypatch):
    small_imagenet.shrink(monkeypatch)
    return data.load("imagenet2012", root)


def test_splits_are_disjoint_and_hold_every_record(dataset, root):
    assert dataset.is_streamed
    train, val, test = (
        getattr(dataset, f"{name}_images") for name in ("train", "val", "test")
    )
    assert (train.shape, train.dtype, len(val)) == ((41, 8, 8, 3), np.uint8, 1)
    assert sorted([*train.rows, *val.rows]) == list(range(42))
    assert test.rows.tolist() == list(range(6))
    assert test.records is not train.records
    assert val.records is train.records
    again = data.load("imagenet2012", root, validation=0.5)
    assert (len(again.train_images), len(again.val_images)) == (21, 21)
    other = data.load("imagenet2012", root, validation=0.5, split_seed=1)
    first, second = (getattr(s.val_images, "rows").tolist() for s in (again, other))  # noqa: B009
    assert first != second
    assert data.load("imagenet2012", root, validation=0.0).val_labels.shape == (0,)


def test_lazy_arrays_are_indexed_as_arrays_are(dataset):
    images, labels = dataset.test_images, dataset.test_labels
    whole, numbers = imagenet.Split.batch(images.records, range(6))
    np.testing.assert_array_equal(images[np.array([4, 1, 4])], whole[[4, 1, 4]])
    first = np.asarray(labels)
    first[:] = -1  # a copy
    np.testing.assert_array_equal(np.asarray(labels), numbers)
    np.testing.assert_array_equal(labels[np.array([5, 0])], numbers[[5, 0]])
    part = images[2:4]
    assert isinstance(part, lazy.Images)
    assert (part.shape, labels[2:4].shape) == ((2, 8, 8, 3), (2,))
    np.testing.assert_array_equal(part[np.array([1])], whole[[3]])
    with pytest.raises(TypeError, match="rows: got 0 axes, allowed: 1"):
        np.asarray(images)
    for rows in ([6], [-1]):
        with pytest.raises(InputError, match="rows: got rows from"):
            images[np.array(rows)]


def stream(images, *, columns=range(6), steps=12, chunk=6, **options):
    order = Order(columns, steps, **TRAINED)
    return Stream(images, order, seed=5, chunk=chunk, **options)


def expected(images, step, columns=range(6)):
    """Images and labels of a step, read one after the other."""
    rows = batch_indices(step, 1, **TRAINED)[0, list(columns)]
    pairs = [images.example(row, seed=5, epoch=step // 3) for row in rows]
    return [np.stack(part) for part in zip(*pairs, strict=True)]


@pytest.mark.parametrize("start", [0, 2, 7])
def test_a_stream_begins_anywhere_with_the_batch_of_the_step(dataset, start):
    """The position of a run in its data is its step, so a resumed run reads the same.

    Steps 2 and 3 are of different epochs: every image is cropped anew in each.
    """
    images = dataset.train_images
    reader = stream(images)
    for step in (start, start + 1):
        for got, own in zip(reader.read(6 * step), expected(images, step), strict=True):
            np.testing.assert_array_equal(got, own)
    reader.close()


def test_a_step_back_begins_anew(dataset):
    reader = stream(dataset.train_images)
    first, _ = reader.read(0)
    reader.read(6)
    np.testing.assert_array_equal(reader.read(0)[0], first)
    reader.close()


def test_processes_read_parts_of_the_same_batches(dataset):
    images = dataset.train_images
    parts = []
    for columns in (range(2), range(2, 6)):
        reader = stream(images, columns=columns, chunk=2 * len(columns))
        found, _ = reader.read(5 * len(columns))  # steps 5 and 6
        parts.append(found.reshape(2, len(columns), *found.shape[1:]))
        reader.close()
    got = np.concatenate(parts, axis=1)
    for place, step in enumerate((5, 6)):
        np.testing.assert_array_equal(got[place], expected(images, step)[0])


class Counted:
    """Images that count how often they are read, and fail at one position."""

    def __init__(self, bad=-1):
        self.bad, self.reads, self._lock = bad, 0, threading.Lock()

    def example(self, position, *, seed, epoch):
        with self._lock:
            self.reads += 1
        if position == self.bad:
            raise InputError(f"position {position} of epoch {epoch} is damaged")
        return np.full((2, 2, 3), position, np.uint8), np.array(0, np.int32)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_than_a_chunk_is_read_ahead(threads):
    images = Counted()
    reader = stream(images, steps=100, chunk=12, threads=threads)
    for chunk in range(3):
        reader.read(12 * chunk)
        assert 12 * (chunk + 1) <= images.reads <= 12 * (chunk + 2)
    reader.close()


def test_damage_found_by_a_thread_is_raised_where_the_batch_is_asked_for():
    order = batch_indices(0, 3, **TRAINED)
    reader = stream(Counted(bad=int(order[1, 4])))
    before = threading.active_count()
    reader.read(0)
    with pytest.raises(InputError, match="of epoch 0 is damaged"):
        reader.read(6)
    with pytest.raises(InputError, match="of epoch 0 is damaged"):
        reader.read(6)  # it does not skip what it cannot read
    for thread in threading.enumerate():
        if thread.name.startswith("grain"):
            thread.join(timeout=30)
    assert threading.active_count() <= before


def test_corruptions_are_for_data_in_memory(dataset):
    from ssvi_jax.data import corrupted, shifted

    assert shifted.corrupt_training(dataset, "none", 3, seed=0) is dataset
    with pytest.raises(InputError, match=r"train_corruption: got fog for imagenet2012"):
        shifted.corrupt_training(dataset, "fog", 3, seed=0)
    with pytest.raises(InputError, match="got imagenet2012, allowed: data sets of im"):
        corrupted.open_cells(
            dataset,
            corruptions_dir=None,
            data_dir=None,
            extra=False,
            limit=0,
            seed=0,
            notify=print,
        )

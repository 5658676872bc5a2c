"""Data sets of Hugging Face, and grain's loaders, as training data."""

import grain
import numpy as np
import pytest

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.training.feeds import OfBatches

N, SIZE = 23, 5
TABLE = {
    "image": np.arange(N * 4).reshape(N, 2, 2),
    "age": np.arange(N) / 10,
    "label": np.arange(N) % 3,
}


class Rows:
    """What of `datasets.Dataset` is used, in memory."""

    def __init__(self):
        self.column_names = [*TABLE]

    def __len__(self):
        return N

    def with_format(self, kind):
        assert kind == "numpy"
        return self

    def __getitem__(self, rows):
        assert (np.diff(rows) > 0).all()
        return {name: column[rows] for name, column in TABLE.items()}


def real():
    library = pytest.importorskip("datasets")
    return library.Dataset.from_dict({k: v.tolist() for k, v in TABLE.items()})


@pytest.mark.parametrize("make", [Rows, real], ids=["stand-in", "datasets"])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(make):
    batches = ssvi_jax.from_huggingface(make(), "image", "label", batch_size=SIZE)
    assert batches.num_data == N
    seen = []
    for number in (0, 0, 1):
        epoch = [*batches.epoch(number)]
        assert [len(y) for _, y in epoch] == [SIZE] * (N // SIZE)
        rows = np.concatenate([x[:, 0, 0] // 4 for x, _ in epoch])
        assert len({*rows.tolist()}) == N // SIZE * SIZE
        labels = np.concatenate([y for _, y in epoch])
        np.testing.assert_array_equal(labels, rows % 3)
        seen.append(rows.tolist())
    assert seen[0] == seen[1] != seen[2]


def test_several_columns_make_a_dictionary():
    batches = ssvi_jax.from_huggingface(Rows(), ["image", "age"], "label", batch_size=N)
    ((x, y),) = batches.epoch(3)
    assert x["image"].shape == (N, 2, 2)
    np.testing.assert_array_equal(y, TABLE["label"])
    np.testing.assert_array_equal(x["age"], TABLE["age"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"train": Rows()}, "image", "label"), "^dataset: got a dict, allowed: one"),
        ((Rows(), "picture", "label"), "got 'picture', allowed: image, age, label"),
        ((Rows(), "image", "y"), "got 'y', allowed: image, age, label"),
        ((Rows(), "image", "label"), "^batch_size: got 128, allowed: 1 to 23"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ssvi_jax.from_huggingface(*arguments)


def test_grains_data_sets_are_batches():
    examples = [(TABLE["image"][i], TABLE["label"][i]) for i in range(N)]
    source = grain.MapDataset.source(examples)

    def epoch(number):
        return iter(source.shuffle(seed=number).batch(SIZE, drop_remainder=True))

    feed = OfBatches(ssvi_jax.Batches(epoch, num_data=N))
    steps = N // SIZE
    (first,) = feed.chunks(0, steps)
    (second,) = feed.chunks(steps, steps)
    for (x, y), rows in (first, second):
        assert rows.shape == (steps, SIZE)
        which = np.asarray(x)[:, 0, 0] // 4
        np.testing.assert_array_equal(np.asarray(y), which % 3)
        assert len({*which.tolist()}) == steps * SIZE
    assert (np.asarray(first[0][0]) != np.asarray(second[0][0])).any()

"""What may be given as inputs and labels, to `fit` and to what it returns."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from digits_fits import KEY, X, Y, linen, mlp, same

import ssvi_jax
from ssvi_jax.core.errors import InputError

X100, Y100 = X[:100].astype(np.float32), Y[:100]


class Frame:
    """A table as pandas has it: columns by name, rows only through NumPy."""

    def __init__(self, values):
        self._values = values
        self.shape = values.shape

    def __len__(self):
        return len(self._values)

    def __getitem__(self, name):
        raise KeyError(name)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


class Sparse:
    """A matrix as scipy.sparse has it."""

    shape = (100, 64)

    def toarray(self):
        return X100


def fit(data: Any = (X100, Y100), **changes):
    options: dict[str, Any] = {"steps": 4, "batch_size": 20, **changes}
    return ssvi_jax.fit(ssvi_jax.Static(), linen(mlp(), X), data, **options)


def test_lists_and_tables_are_arrays():
    plain = fit(validation=(X100, Y100))
    for x, y in ((X100.tolist(), Y100.tolist()), (Frame(X100), Frame(Y100))):
        other = fit((x, y), validation=[x, y])
        assert same(plain, other)
        predicted = other.predict(x).probs
        np.testing.assert_array_equal(predicted, plain.predict(X100).probs)
        assert other.evaluate(x, y) == plain.evaluate(X100, Y100)
    assert fit((Frame(X100), Frame(Y100)), validation=0.2).about["num_data"] == 80


def test_batches_of_lists_are_arrays():
    rows = [slice(i, i + 20) for i in range(0, 100, 20)]
    lists = [(X100[r].tolist(), Y100[r].tolist()) for r in rows]
    arrays = [(X100[r], Y100[r]) for r in rows]
    found = [fit(ssvi_jax.Batches(source, 100)) for source in (lists, arrays)]
    assert same(*found)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": ([[1.0, 2.0], [3.0]], [0, 1])}, r"data \(inputs\): got a list that"),
        ({"data": (X100, list("ab" * 50))}, r"data \(labels\): got an array of <U1, a"),
        ({"data": (X100, 3)}, r"data \(labels\): got a int, allowed: arrays of n rows"),
        ({"data": (Sparse(), Y100)}, r"data \(inputs\): got a Sparse.* toarray\(\)"),
        (
            {"data": (X100.astype(complex), Y100)},
            "complex128, allowed: real numbers; giv",
        ),
        (
            {"data": (np.ma.masked_less(X100, 0.5), Y100)},
            "a masked array with masked v",
        ),
        ({"validation": 0.0}, "validation: got 0.0 of 100 examples"),
        (
            {"validation": (X100, Y100 + 5)},
            "validation: got labels from 5 to 14, allowed",
        ),
        ({"data": (X100, Y100 + 5)}, "data: got labels from 5 to 14, allowed"),
        ({"validation": X100}, r"validation: got ndarray, allowed: \(inputs, labels\)"),
        ({"validation": "0.2"}, "validation: got str, allowed"),
        ({"validation": True}, "validation: got bool, allowed"),
        (
            {"validation": (X100, Y100[:9])},
            r"validation: got arrays of \[9, 100\] rows",
        ),
        (
            {"validation": (X100[:, :60], Y100)},
            r"validation: got \[60\] an example, tr",
        ),
        ({"validation": (X100[:, :, None], Y100)}, r"validation: got \[64, 1\] an exa"),
    ],
)
def test_what_cannot_be_trained_on_is_named(change, match):
    def never(phase):
        raise AssertionError("it trained")

    with pytest.raises(InputError, match=match):
        fit(callbacks=[never], **change)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (X100[:, :60], r"^x: got \[60\] an example, trained with \[64\]\.$"),
        (X100[0], r"^x: got \[\] an example, trained with \[64\]\.$"),
        ((X100, X100), r"^x: got 2 arrays, trained with 1\.$"),
        ([["a"]], "^x: got an array of <U1"),
    ],
)
def test_other_inputs_than_those_trained_with(x, match, tmp_path):
    trained = fit()
    trained.save(tmp_path / "model.ssvi")
    for found in (trained, ssvi_jax.load(tmp_path / "model.ssvi", mlp())):
        with pytest.raises(InputError, match=match):
            found.predict(x)
        with pytest.raises(InputError, match=match):
            found.evaluate(x, np.zeros(len(jax.tree.leaves(x)[0]), int))


def test_data_of_another_shape_than_the_networks():
    match = (
        r"^data: got inputs of \[60\] an example, on which the network fails \(Scope"
    )
    with pytest.raises(InputError, match=match):
        fit((X100[:, :60], Y100))


def test_a_network_of_any_length_predicts_other_lengths():
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.Conv(4, (3,))(x).mean(axis=1))

    x = X100[:, :, None]
    network = ssvi_jax.from_flax(Pooled(), x[:1], key=KEY)
    found = ssvi_jax.fit(ssvi_jax.Static(), network, (x, Y100), steps=2)
    assert found.predict(x[:, :40]).probs.shape == (100, 10)


def test_as_many_labels_as_inputs():
    with pytest.raises(InputError, match=r"x, y: got arrays of \[9, 100\] rows"):
        fit().evaluate(X100, Y100[:9])

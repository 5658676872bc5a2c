"""`fit` on batches that are made one after the other."""

from typing import Any

import numpy as np
import pytest
from digits_fits import TEST_X, TEST_Y, X, Y, linen, mlp, same

import ssvi_jax
from ssvi_jax.core.errors import InputError


def batches(epoch=0, size=64):
    """Batches from a generator, in an order of the epoch's own."""
    order = np.random.default_rng(epoch).permutation(len(X))
    for first in range(0, len(X), size):
        rows = order[first : first + size]
        yield X[rows], Y[rows]


def test_batches_may_come_from_a_generator():
    source = ssvi_jax.Batches(batches, num_data=len(X))
    method = ssvi_jax.SSVI(sparsity=0.9)
    fit = ssvi_jax.fit(method, linen(mlp(), X), source, epochs=20)
    assert fit.about["batch_size"] == 64
    assert fit.evaluate(TEST_X, TEST_Y)["accuracy"] > 0.85


def test_batches_in_the_same_order_give_the_same_bits_as_arrays():
    """Streamed examples are those of the same steps, before a swap too."""
    inner, size, steps = 7, 50, 28
    rows = np.random.default_rng(3).permutation(1400)

    class Recorded(ssvi_jax.Callback):
        def begin(self, session, start):
            self.feed = session.feed

    recorded, method = Recorded(), ssvi_jax.SSVI(sparsity=0.9)
    options: dict[str, Any] = {"steps": steps, "inner_steps": inner}
    whole = ssvi_jax.fit(
        method,
        linen(mlp(), X),
        (X[rows], Y[rows]),
        batch_size=size,
        callbacks=[recorded],
        **options,
    )
    _, order = recorded.feed.batches(0, steps)

    def same_batches(epoch):
        del epoch
        for batch in order:
            yield X[rows][batch], Y[rows][batch]

    streamed = ssvi_jax.fit(
        method,
        linen(mlp(), X),
        ssvi_jax.Batches(same_batches, num_data=1400),
        **options,
    )
    assert same(whole, streamed)


@pytest.mark.parametrize(("num_data", "warnings"), [(1000, 1), (1500, 0), (1480, 1)])
def test_more_batches_than_num_data_are_told_of_once(num_data, warnings, caplog):
    source = ssvi_jax.Batches(batches, num_data=num_data)
    ssvi_jax.fit(ssvi_jax.Static(), linen(mlp(), X), source, epochs=3)
    said = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == warnings
    assert all(f"but num_data is {num_data}: " in message for message in said)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (batches(), "source: got a generator, which ends after an epoch"),
        ([(X[:10], Y[:10])] * 3, "data: got 3 whole batches of 10 in epoch 0"),
        ([X[:10]], "data: got a ndarray, allowed: batches of"),
        ([], "data: got nothing"),
    ],
    ids=["once", "few", "inputs only", "empty"],
)
def test_batches_that_are_none(source, match):
    with pytest.raises(InputError, match=match):
        ssvi_jax.fit(
            ssvi_jax.SSVI(),
            linen(mlp(), X),
            ssvi_jax.Batches(source, num_data=1500),
            steps=40,
        )


@pytest.mark.parametrize("method", ["DeepEnsemble", "SSVIEnsemble", "SSVIIvonMixture"])
def test_batches_are_refused_for_several_networks(method):
    source = ssvi_jax.Batches(batches, num_data=len(X))
    with pytest.raises(InputError, match=f"got Batches for {method}, allowed: \\(inp"):
        ssvi_jax.fit(getattr(ssvi_jax, method)(), linen(mlp(), X), source, epochs=1)

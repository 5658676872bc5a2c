"""Positions come back exactly and cost close to their entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.io.container import _deflate
from ssvi_jax.io.positions import decode, encode, entropy_bits


@st.composite
def selections(draw):
    """Sorted positions and a size, with gaps of every length."""
    short = draw(st.lists(st.integers(0, 3), max_size=50))
    gap = st.one_of(st.integers(250, 515), st.integers(65_000, 70_000))
    gaps = draw(st.permutations(short + draw(st.lists(gap, max_size=3))))
    index = np.cumsum(np.array(gaps, np.int64) + 1) - 1
    size = (int(index[-1]) + 1 if len(index) else 0) + draw(gap | st.just(0))
    if draw(st.booleans()):
        index = np.setdiff1d(np.arange(size), index)
    return index, size


@given(selections())
def test_decode_undoes_encode(selection):
    index, size = selection
    gap_bytes = encode(index, size)
    got = decode(gap_bytes, len(index), size)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, index)
    coded = index if 2 * len(index) <= size else np.setdiff1d(np.arange(size), index)
    gaps = np.diff(coded, prepend=-1) - 1
    assert len(gap_bytes) == len(coded) + np.sum(gaps // 255)


def test_bytes_by_hand():
    index = np.array([0, 1, 256, 257 + 255, 10_000])
    more = (10_000 - 512 - 1) // 255
    want = [0, 0, 254, 255, 0, *[255] * more, 10_000 - 512 - 1 - 255 * more]
    assert encode(index, 20_000).tolist() == want


@pytest.mark.parametrize(("count", "size"), [(0, 0), (0, 9), (9, 9), (1, 1)])
def test_nothing_or_everything_kept_costs_nothing(count, size):
    assert len(encode(np.arange(count), size)) == 0
    assert decode(np.zeros(0, np.uint8), count, size).tolist() == list(range(count))


def test_entropy_bits_is_the_logarithm_of_the_number_of_masks():
    assert entropy_bits(3, 10) == pytest.approx(np.log2(120), rel=1e-12)
    assert entropy_bits(10, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("density", [0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.95])
def test_random_masks_cost_within_a_hundredth_of_the_entropy(density):
    size = round(40_000 / min(density, 1 - density))
    index = np.flatnonzero(np.random.default_rng(0).random(size) < density)
    bits = 8 * len(_deflate(encode(index, size).tobytes()))
    assert entropy_bits(len(index), size) <= bits
    assert bits <= 1.012 * entropy_bits(len(index), size)


@pytest.mark.parametrize(
    ("gap_bytes", "count", "size"),
    [
        ([1], 2, 10),
        ([1, 1, 1], 2, 10),
        ([1, 255], 1, 10),
        ([255], 0, 10),
        ([10], 1, 10),
        ([4, 5], 2, 10),
        ([255, 0], 1, 200),
    ],
)
def test_bytes_of_another_layer_are_refused(gap_bytes, count, size):
    with pytest.raises(ValueError, match=r"number of positions|beyond the end"):
        decode(np.array(gap_bytes, np.uint8), count, size)

"""Masks: exact counts, fractions counted, and their form on the device."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.vi import masks as masks_lib

SHAPES = st.dictionaries(
    st.sampled_from(["a/kernel", "b/kernel", "c/d/kernel"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    min_size=1,
)


@st.composite
def problems(draw):
    shapes = draw(SHAPES)
    counts = {p: draw(st.integers(0, math.prod(s))) for p, s in shapes.items()}
    return shapes, counts, np.random.default_rng(draw(st.integers(0, 2**32)))


@given(problems())
def test_random_masks_have_the_counts_asked_for(problem):
    shapes, counts, rng = problem
    masks = masks_lib.random_masks(shapes, counts, rng)
    assert {path: mask.shape for path, mask in masks.items()} == shapes
    assert masks_lib.counts(masks) == counts
    total = sum(math.prod(shape) for shape in shapes.values())
    expected = 1 - sum(counts.values()) / total
    assert masks_lib.sparsity(masks) == pytest.approx(expected, abs=1e-12)


@given(problems())
def test_the_subspace_is_the_sorted_flat_positions(problem):
    masks = masks_lib.random_masks(*problem)
    sub = masks_lib.to_subspace(masks)
    assert sub.shapes == tuple(sorted((p, m.shape) for p, m in masks.items()))
    for path, mask in masks.items():
        index = np.asarray(sub.index[path])
        assert index.dtype == np.int32
        assert list(index) == [i for i, kept in enumerate(mask.reshape(-1)) if kept]


def test_random_masks_are_uniform():
    rng, hits = np.random.default_rng(0), np.zeros((2, 5))
    for _ in range(4000):
        hits += masks_lib.random_masks({"k": (2, 5)}, {"k": 3}, rng)["k"]
    # Each place is hit with probability 0.3.
    assert np.abs(hits / 4000 - 0.3).max() < 4.5 * math.sqrt(0.21 / 4000)


def test_sparsity_of_the_prunable_layers_leaves_dense_ones_out():
    masks = {"dense": np.ones((2, 5), bool), "sparse": np.arange(30) < 3}
    assert masks_lib.sparsity(masks) == pytest.approx(1 - 13 / 40)
    assert masks_lib.sparsity(masks, prunable_only=True) == pytest.approx(0.9)
    dense = {"dense": masks["dense"]}
    assert masks_lib.sparsity(dense) == 0.0
    assert masks_lib.sparsity(dense, prunable_only=True) == 0.0
    assert masks_lib.sparsity({}) == 0.0


def test_overlap_is_intersection_over_union():
    a = {"k": np.array([1, 1, 0, 0], bool), "l": np.array([[1, 0]], bool)}
    b = {"k": np.array([0, 1, 1, 0], bool), "l": np.array([[1, 0]], bool)}
    assert masks_lib.overlap(a, b) == pytest.approx(2 / 4)
    assert masks_lib.overlap(a, a) == 1.0
    nothing = {path: np.zeros_like(mask) for path, mask in a.items()}
    assert masks_lib.overlap(a, nothing) == 0.0
    assert masks_lib.overlap(nothing, nothing) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_masks_must_be_boolean(dtype):
    with pytest.raises(InputError, match=r"masks\['k'\].*astype\(bool\)"):
        masks_lib.to_subspace({"k": np.ones((2, 2), dtype)})


def test_positions_must_fit_int32():
    huge = np.broadcast_to(np.array(True), (2**16, 2**15))  # takes no memory
    with pytest.raises(InputError, match="at most 2"):
        masks_lib.to_subspace({"k": huge})


def test_masks_must_fit_the_posterior():
    masks = {"k": np.array([True, False, True])}
    two, three = (Gaussian(jnp.zeros(n), jnp.zeros(n)) for n in (2, 3))
    assert masks_lib.to_subspace(masks, {"k": two}).index["k"].size == 2
    for posterior in ({"k": three}, {}, {"k": two, "l": two}):
        with pytest.raises(InputError, match="do not fit the posterior"):
            masks_lib.to_subspace(masks, posterior)

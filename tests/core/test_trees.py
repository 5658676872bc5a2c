"""Nested parameters as flat paths and back, and the split into Bayesian and rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core import trees

NAMES = st.text(alphabet="ab/~01", max_size=4)
TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3),
)
NESTED = st.dictionaries(NAMES, TREES, max_size=3)

PARAMS = {
    "dense": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
    "norm": {"scale": np.ones(3), "kernel": np.ones(3)},
    "embed": {"embedding": np.ones((4, 2))},
    "kernel": {"weight": np.ones((2, 2))},
    "norm/dense": {"dense/kernel/scale": np.ones((2, 3))},
}


@given(NESTED)
def test_unflatten_inverts_flatten(tree):
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_paths_are_joined_names_in_order():
    tree = {"b": {"y": 1, "x": 2}, "a": 3, "c/d": {"e~": 4}}
    expected = {"a": 3, "b/x": 2, "b/y": 1, "c~1d/e~0": 4}
    assert list(trees.flatten(tree).items()) == list(expected.items())
    assert trees.join(("layers", 0, "kernel")) == "layers/0/kernel"


def test_the_default_choice_is_every_matrix_called_kernel():
    chosen, rest = trees.split(PARAMS)
    assert list(chosen) == ["dense/kernel"]
    assert "kernel" not in rest["dense"]
    assert rest["norm/dense"] == PARAMS["norm/dense"]


@pytest.mark.parametrize(
    "predicate",
    [trees.is_kernel, lambda *_: True, lambda *_: False, lambda p, _: "e" in p],
)
def test_merge_inverts_split(predicate):
    assert trees.merge(*reversed(trees.split(PARAMS, predicate))) == PARAMS

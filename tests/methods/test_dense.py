"""A dense point estimate: nothing Bayesian, nothing to swap."""

import dataclasses

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.methods import Deterministic
from ssvi_jax.vi.execution import Execution


@pytest.fixture(scope="module")
def problem():
    return smoke_run.tiny_problem(method="deterministic")


def test_a_dense_point_estimate_has_no_masks(problem):
    method, rng = Deterministic().build(problem), np.random.default_rng(3)
    state, masks = method.init(jax.random.key(0), rng)
    assert masks == state.posterior == {}
    for path, leaf in trees.flatten(problem.params).items():
        np.testing.assert_array_equal(trees.flatten(state.params)[path], leaf)
    assert method.num_growth_batches(10) == 0
    assert method.swap(state, masks, ((), ()), np.zeros(0), rng) == (state, {}, {})


def test_it_has_no_settings():
    assert Deterministic.names() == ()


def test_the_sparse_kernels_are_not_for_it(problem):
    sparse = dataclasses.replace(problem, execution=Execution("sparse"))
    with pytest.raises(InputError, match=r"^backend: got sparse for a dense network"):
        Deterministic().build(sparse)

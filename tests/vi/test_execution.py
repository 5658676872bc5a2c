"""What multiplies, and what is refused before anything is computed."""

import jax
import numpy as np
import pytest
import tiny

from ssvi_jax.core.errors import InputError
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import masks
from ssvi_jax.vi.execution import Execution, backend_of


def without_kernels(params, model_state, x, *, train, key):
    return x, model_state


def with_any(params, model_state, x, **options):
    return x, model_state


def subspace(density):
    mask = np.zeros((10, 10), bool)
    mask.reshape(-1)[: round(100 * density)] = True
    return masks.to_subspace({"kernel": mask})


FAST = "sparse" if custom_calls.available() else "xla"


@pytest.mark.parametrize(
    ("asked", "network", "density", "expected"),
    [
        ("auto", tiny.mlp, 0.05, FAST),
        ("auto", with_any, 0.05, FAST),
        ("auto", without_kernels, 0.05, "xla"),
        ("auto", tiny.mlp, 1.0, "xla"),
        ("xla", tiny.mlp, 0.05, "xla"),
    ],
)
def test_kernels_are_chosen_by_network_and_density(asked, network, density, expected):
    assert backend_of(asked, network, subspace(density)) == expected
    assert Execution(asked).multiplies(network, subspace(density)) == expected


def test_a_network_without_bayesian_kernels_runs_on_xla():
    for asked in ("auto", "sparse"):
        assert backend_of(asked, tiny.mlp, masks.to_subspace({})) == "xla"


def test_one_device_computes_as_it_is():
    execution = Execution()
    assert execution.line is None
    state, data, rows = {"a": np.zeros(3)}, (np.ones(2), np.ones(2)), np.zeros((1, 4))
    operands = (state, subspace(0.5), data, rows)
    placed = execution.placed(*operands)
    assert [a is b for a, b in zip(placed, operands, strict=True)] == [1, 1, 0, 1]
    assert all(isinstance(array, jax.Array) for array in placed[2])
    assert execution.over_devices(tiny.mlp) is tiny.mlp
    assert execution.local(operands) is operands


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "tpu"}, r"^backend: got 'tpu', allowed: auto, sparse, xla"),
        ({"devices": -1}, r"^devices: got -1, allowed: 0 or more"),
        ({"accumulate": 0}, r"^accumulate: got 0, allowed"),
    ],
)
def test_bad_values_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Execution(**options)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"^devices: got 99, allowed: 0 to "):
        Execution(devices=99).check(64, density=0.5)

"""Draws of the posterior for ArviZ: moments and places, of a posterior made by hand."""

import sys
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point, Weights
from ssvi_jax.vi.likelihoods import Categorical

MASKS = {"a/kernel": np.eye(3, 4, dtype=bool), "b/kernel": np.ones((2, 2), bool)}
MEAN = jnp.array([-1.0, 0.0, 2.0])
SIGMA = np.array([0.1, 1.0, 3.0])
A = Gaussian(MEAN, jnp.asarray(np.log(np.expm1(SIGMA)), jnp.float32))
DRAWS = 2000


def fitted(**posterior):
    named: Any = {f"{name}/kernel": packed for name, packed in posterior.items()}
    masks = {name: MASKS[name] for name in named}
    network: Any = None
    return ssvi_jax.Fitted(network, Weights(named, {}, {}), masks, Categorical(), {})


def check(values, positions):
    """Within 5 standard errors of the mean and of the standard deviation."""
    assert values.shape == (1, DRAWS, 3)
    np.testing.assert_array_equal(positions, [0, 5, 10])
    error = 5 * SIGMA / np.sqrt(DRAWS)
    assert (np.abs(values[0].mean(axis=0) - np.asarray(MEAN)) < error).all()
    assert (np.abs(values[0].std(axis=0) - SIGMA) < error).all()


def before_1(posterior=None, *, coords=None, dims=None):
    return {"posterior": posterior, "coords": coords, "dims": dims}


def from_1_on(data, *, coords=None, dims=None):
    return {**data, "coords": coords, "dims": dims}


@pytest.mark.parametrize("from_dict", [before_1, from_1_on])
def test_what_arviz_gets(from_dict, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace(from_dict=from_dict))
    network = fitted(a=A, b=Point(jnp.zeros(4)))
    found = ssvi_jax.from_ssvi(network, draws=DRAWS)
    assert found["dims"] == {"a.kernel": ["a.kernel.position"]}
    check(found["posterior"]["a.kernel"], found["coords"]["a.kernel.position"])
    again = ssvi_jax.from_ssvi(network, "a/kernel", draws=DRAWS)
    assert (again["posterior"]["a.kernel"] == found["posterior"]["a.kernel"]).all()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_arviz_itself():
    arviz = pytest.importorskip("arviz")
    found = ssvi_jax.from_ssvi(fitted(a=A), draws=DRAWS)
    values = found.posterior["a.kernel"]
    check(values.to_numpy(), values.coords["a.kernel.position"])
    summary = arviz.summary(found, kind="stats")
    assert [*summary.index] == [f"a.kernel[{i}]" for i in (0, 5, 10)]


@pytest.mark.parametrize(
    ("posterior", "options", "words"),
    [
        ({"b": Point(jnp.zeros(4))}, {}, "^fitted: got a network of point estimates"),
        ({"a": A}, {"kernels": "b/kernel"}, "^kernels: got 'b/kernel', allowed: a/ker"),
        ({"a": A}, {"draws": 0}, "^draws: got 0, allowed: a whole number"),
        (
            {"a": A},
            {"draws": 10**9},
            "which make 3,000,000,000 values, allow",
        ),
    ],
)
def test_what_is_refused(posterior, options, words):
    with pytest.raises(InputError, match=words):
        ssvi_jax.from_ssvi(fitted(**posterior), **options)

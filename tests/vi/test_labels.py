"""Labels that a likelihood does not have are refused, with the first one's example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import likelihoods
from ssvi_jax.vi.likelihoods import Bernoulli, Categorical, Normal, Poisson

ROWS = np.full((5, 4), 0.25)


def changed(array, at, value):
    array = np.array(array)
    array[at] = value
    return array


GOOD = [
    (Categorical(), np.arange(5)),
    (Categorical(), np.arange(5, dtype=np.uint8)),
    (Categorical(), [0, 1, 1]),
    (Categorical(), np.array([True, False])),
    (Categorical(), np.zeros((5, 3), int)),  # a class for each place
    (Categorical(), ROWS),
    (Categorical(), ROWS * 1.0009),
    (Categorical(), jnp.full((2, 3, 1000), 1e-3, jnp.bfloat16)),
    (Categorical(), np.zeros(0, int)),
    (Bernoulli(), np.array([0, 1])),
    (Bernoulli(), np.array([0.0, 0.3, 1.0], np.float32)),
    (Bernoulli(), np.array([[True], [False]])),
    (Normal(), np.array([[-1e30, 3.0]])),
    (Normal(), jnp.arange(3)),
    (Poisson(), np.array([0, 7])),
    (Poisson(), np.array([0.0, 7.0])),
    (likelihoods.Custom(lambda output, y: output), np.array([np.nan])),
]


@pytest.mark.parametrize("case", range(len(GOOD)))
def test_labels_that_are_allowed(case):
    likelihood, y = GOOD[case]
    likelihoods.check_labels(likelihood, y)


REFUSED = {
    "below 0": (
        Categorical(),
        changed(np.arange(9), 7, -1),
        "got -1 at example 7, .*: 0",
    ),
    "names": (
        Categorical(),
        np.array(["cat", "dog"]),
        r"got labels of dtype <U3, allowed: whole numbers .*unique\(labels",
    ),
    "objects": (Categorical(), np.array([None, 1]), "got labels of dtype object"),
    "floats": (
        Categorical(),
        np.arange(5.0),
        r"got labels of dtype float64, allowed: whole .*labels\.astype\(int\)",
    ),
    "column of floats": (
        Categorical(),
        np.array([[1.0], [0.0]]),
        r"got a sum of 0 at example 1, allowed: 1, of .*labels\.astype\(int\)",
    ),
    "sum": (
        Categorical(),
        changed(ROWS, 3, 0.2503),
        "got a sum of 1.0012 at example 3, allowed: 1,",
    ),
    "negative probability": (
        Categorical(),
        changed(ROWS, 2, [0.5, 0.7, -0.2, 0.0]),
        "got -0.2 at example 2, allowed: probabilities",
    ),
    "NaN probability": (
        Categorical(),
        changed(ROWS, 4, np.nan),
        "got nan at example 4",
    ),
    "signs": (
        Bernoulli(),
        np.array([1, 1, -1]),
        "got -1 at example 2, allowed: 0 and 1, .*labels == one",
    ),
    "ten classes": (
        Bernoulli(),
        np.arange(10) % 10,
        "got 2 at example 2, allowed",
    ),
    "no probability": (Bernoulli(), jnp.array([0.5, jnp.nan]), "got nan at example 1"),
    "yes and no": (
        Bernoulli(),
        ["yes", "no"],
        "got labels of dtype <U3, allowed: 0",
    ),
    "negative count": (
        Poisson(),
        changed(np.arange(9), 7, -1),
        "got -1 at example 7, allowed: whole numbers from 0, as counts",
    ),
    "half": (Poisson(), np.array([1.0, 2.5]), "got 2.5 at example 1, allowed: whole"),
    "infinite count": (Poisson(), np.array([np.inf]), "got inf at example 0"),
    "NaN": (Normal(), changed(np.ones((3, 2)), (1, 1), np.nan), "got nan at example 1"),
    "words": (Normal(), ["1.5"], "got labels of dtype <U3, allowed: numbers"),
    "complex": (Normal(), np.array([1j]), "got labels of dtype complex128"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_are_refused(name):
    likelihood, y, match = REFUSED[name]
    with pytest.raises(InputError, match=f"^y: {match}"):
        likelihoods.check_labels(likelihood, y, "y")


def test_booleans_are_classes():
    logits = jax.random.normal(jax.random.key(0), (4, 2))
    y = np.array([True, False, False, True])
    ours = Categorical().log_prob(logits, jnp.asarray(y))
    rows = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(ours, rows[np.arange(4), y.astype(int)], rtol=1e-6)


def test_classes_as_floats_are_told_by_their_type():
    with pytest.raises(InputError, match="labels: got dtype float32, allowed: whole"):
        Categorical().log_prob(jnp.zeros((4, 2)), jnp.zeros(4))

"""What cannot be trained on is refused before the first step, in words."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import mlp, mlp_problem

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import checks

BATCHES = np.arange(12, dtype=np.int32).reshape(3, 4)


def normal(output, targets):
    return -0.5 * (output[:, 0] - targets) ** 2


def refused(problem, data, rows, words):
    """Both calls that take data refuse these, and leave the state as it is."""
    inference, state, masks, _ = problem
    for function in (inference.inner_loop, inference.dense_gradient):
        with pytest.raises(InputError, match=words):
            function(state, masks, data, rows)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


# Rows ------------------------------------------------------------------------------

ROWS = {
    "one batch": (BATCHES[0], r"got shape \(4,\) of int32.*\(of one step: rows\[None"),
    "too deep": (BATCHES[None], r"got shape \(1, 3, 4\)"),
    "floats": (BATCHES.astype(float), r"got shape \(3, 4\) of float64"),
    "a mask": (BATCHES > 3, r"got shape \(3, 4\) of bool"),
    "a list": (BATCHES.tolist(), r"got shape \(3, 4\) of list"),
    "too far": (BATCHES + 1, "got rows from 1 to 12, allowed: 0 to 11"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_no_batches_are_refused(name):
    problem = mlp_problem()
    rows, words = ROWS[name]
    refused(problem, problem[3], rows, "^batch_index: " + words)


def test_inputs_and_labels_of_different_lengths_are_refused():
    problem = mlp_problem()
    x, labels = problem[3]
    words = r"data\[0\] has 4 rows, data\[1\] has 10 rows, needed: the same number"
    refused(problem, (x[:4], labels[:10]), BATCHES[:1], words)
    refused(problem, (x, labels[0]), BATCHES[:1], r"data\[1\] has no rows")


def test_every_array_of_the_inputs_has_all_rows():
    data = {"image": np.zeros((8, 3)), "age": np.zeros(7)}, np.zeros(8, np.int32)
    with pytest.raises(InputError, match=r"data\[0\]\['age'\] has 7 rows, "):
        checks.check_batches(data, np.zeros((1, 4), np.int32))


# Labels ----------------------------------------------------------------------------

LABELS = {
    "from 1": (np.arange(12) % 3 + 1, "from 1 to 3"),
    "negative": (np.arange(12) % 3 - 1, "from -1 to 1"),
    "unsigned": (np.full(12, 200, np.uint8), "from 200 to 200"),
    "on the device": (jnp.arange(12, dtype=jnp.int32), "from 0 to 11"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_the_network_has_no_output_for_are_refused(name):
    problem = mlp_problem()
    labels, words = LABELS[name]
    words = f"data: got labels {words}, allowed: 0 to 2, as the network has 3 outputs"
    refused(problem, (problem[3][0], labels), BATCHES, words)


def test_labels_are_looked_at_once(monkeypatch):
    asked, looked, local = [], [], checks._local

    def shape():
        asked.append(1)
        return (4, 3)

    monkeypatch.setattr(checks, "_local", lambda a: looked.append(1) or local(a))
    found, labels = checks.Labels(), np.arange(3)
    for _ in range(3):
        found.check(labels, shape)
    assert (len(asked), len(looked)) == (1, 1)
    with pytest.raises(InputError, match="labels from 1 to 3"):
        found.check(labels + 1, shape)
    assert (len(asked), len(looked)) == (1, 2)


def test_one_output_is_no_classifier():
    with pytest.raises(InputError, match="network: got one output, of which a softmax"):
        checks.Labels().check(np.zeros(3, int), lambda: (3, 1))


@pytest.mark.parametrize("labels", [np.eye(3), np.zeros(12), {"a": 1}])
def test_other_kinds_of_labels_are_the_likelihoods_affair(labels):
    checks.Labels().check(labels, lambda: pytest.fail("asked"))


# The likelihood --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        (lambda output, y: -((output - y) ** 2), r"\(4, 4\)"),
        (lambda output, y: -((output - y[:, None]) ** 2), r"\(4, 1\)"),
        (lambda output, y: -jnp.mean((output[:, 0] - y) ** 2), r"\(\)"),
    ],
)
def test_a_likelihood_that_is_not_one_an_example_is_refused(likelihood, shape):
    """Targets ``[n]`` less outputs ``[n, 1]`` are ``[n, n]``, if nobody looks."""

    def one_output(*args, **kwargs):
        output, model_state = mlp(*args, **kwargs)
        return output[:, :1], model_state

    # Rank promotion is an error in tests, but not where users work.
    with jax.numpy_rank_promotion("allow"):
        inference, state, masks, (x, _) = mlp_problem(likelihood=likelihood)
        inference = dataclasses.replace(inference, apply_fn=one_output)
        problem = inference, state, masks, None
        words = rf"^log_likelihood: got shape {shape} for a batch of 4, needed: \(4,\)"
        refused(problem, (x, np.linspace(0, 1, 12, dtype=np.float32)), BATCHES, words)


# NaN -------------------------------------------------------------------------------


@pytest.fixture
def debug_nans():
    with jax.debug_nans(True):
        yield


def test_a_regression_has_no_accuracy_and_no_nan(debug_nans):
    inference, state, masks, (x, _) = mlp_problem(likelihood=normal, tx=optax.sgd(0.1))
    targets = jnp.linspace(0, 1, 12)
    state, metrics = inference.inner_loop(state, masks, (x, targets), BATCHES)
    assert metrics.keys() == {"loss", "nll", "kl", "kl_weight"}
    assert np.isfinite(metrics["loss"]).all()


def test_a_nan_is_found_where_it_is():
    """`jax_debug_nans` runs what was jitted again without jit, on the user's arrays."""
    inference, state, masks, (x, labels) = mlp_problem(tx=optax.sgd(0.1))
    bad = state._replace(params=jax.tree.map(lambda a: a * np.nan, state.params))
    data: Any = np.array(x), np.array(labels)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="in scan"):
        inference.inner_loop(bad, masks, data, BATCHES)

"""Shortlists of an accelerator against the scores of every coordinate."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from swaps import filled, layers, random_gradients, swap
from tiny import assert_equal, host, mlp_problem

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import shortlist, subspace


@settings(max_examples=200)
@given(layers())
def test_a_shortlist_is_all_that_a_swap_needs(layer):
    """With ties at its end, and with more on it than is added."""
    mask, removal, addition, count = layer
    scores = {"a": jnp.asarray(addition)}
    listed = shortlist.shortlists(scores, {"a": mask}, {"a": count})["a"]
    assert len(listed.index) <= min(max(1, 2 * count), mask.size - mask.sum())
    found = subspace.swap_layer(mask, removal, listed, count)
    expected = subspace.swap_layer(mask, removal, addition, count)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def accelerator(monkeypatch):
    """Arrays are taken to lie on one."""
    monkeypatch.setattr(shortlist, "_is_on_host", lambda array: False)


def test_an_accelerator_sends_a_shortlist_and_swaps_the_same(request, monkeypatch):
    gradients = random_gradients(mlp_problem()[2])
    device = {path: jnp.asarray(each, jnp.float32) for path, each in gradients.items()}
    on_host = {path: np.asarray(each) for path, each in device.items()}
    *expected, swapped = swap(*filled(mlp_problem()), gradients=on_host)
    request.getfixturevalue("accelerator")
    sent = []
    monkeypatch.setattr(
        subspace, "_addition_scores", recorded(subspace._addition_scores, sent)
    )
    *found, number = swap(*filled(mlp_problem()), gradients=device)
    assert_equal(host(found), host(expected))
    assert number == swapped
    assert {type(each) for each in sent} == {shortlist.Shortlist}


def recorded(function, results):
    def call(*arguments):
        results.append(function(*arguments))
        return results[-1]

    return call


@pytest.mark.usefixtures("accelerator")
def test_an_accelerator_says_when_a_score_is_not_finite():
    state, masks = filled(mlp_problem())
    gradients = {
        path: jnp.ones(mask.shape).at[0].set(jnp.nan) for path, mask in masks.items()
    }
    with pytest.raises(InputError, match="not finite"):
        swap(state, masks, gradients=gradients)


@pytest.mark.usefixtures("accelerator")
def test_an_accelerator_says_when_a_shape_is_wrong():
    state, masks = filled(mlp_problem())
    gradients = {path: jnp.ones(mask.shape[::-1]) for path, mask in masks.items()}
    with pytest.raises(InputError, match="the kernel's full shape"):
        swap(state, masks, gradients=gradients)

"""Training and prediction as programs for other platforms, without a call to Python."""

from unittest import mock

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax.core import trees
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.networks.network import ImageNetwork
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior, predictive, shortlist
from ssvi_jax.vi.likelihoods import Categorical

PLATFORMS = ["cuda", "tpu"]


init = ImageNetwork.init


def zeros(network, key):
    """`ImageNetwork.init` without compiling it."""
    shapes = jax.eval_shape(lambda key: init(network, key), key)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def parts():
    """SSVI on a convolutional network, its state, subspace, data and rows, abstract."""
    with mock.patch.object(smoke_run, "_init", zeros):
        method = smoke_run.tiny_algorithm(model="convnet", width=0.1, backend="xla")
    assert isinstance(method, Swapping)
    network = method.problem.apply_fn
    state, masks = method.init(jax.random.key(0), np.random.default_rng(0))
    images = jax.ShapeDtypeStruct((100, 8, 8, 1), np.uint8)
    labels = jax.ShapeDtypeStruct((100,), np.int32)
    rows = jax.ShapeDtypeStruct((3, 16), np.int32)
    operands = (state, masks_lib.to_subspace(masks), (images, labels), rows)
    return network, method.inference, operands


def exported(function, *operands):
    """The text of a program for all platforms, in StableHLO."""
    found = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*operands)
    assert list(found.platforms) == PLATFORMS
    text = found.mlir_module()
    assert "callback" not in text.lower()
    return text


def test_the_inner_loop(parts):
    _, inference, operands = parts
    assert "stablehlo.while" in exported(inference.steps, *operands)


def test_the_dense_gradient(parts):
    _, inference, operands = parts
    growth = lambda *args: inference.growth(*args, "local_reparam")  # noqa: E731
    assert "stablehlo.while" in exported(growth, *operands)


def test_the_shortlists_of_a_swap():
    scores = {"a": jax.ShapeDtypeStruct((3, 3, 4, 8), np.float32)}
    selected = {"a": jax.ShapeDtypeStruct((20,), np.int32)}
    shortlists = lambda *args: shortlist._shortlists(*args, (16,))  # noqa: E731
    assert "top_k" in exported(shortlists, scores, selected)


def test_a_prediction(parts):
    network, _, (state, subspace, (images, _), _) = parts

    def prediction(weights, subspace, x, key):
        draws = posterior.sample(weights.posterior, subspace, key)
        params = trees.merge(weights.params, draws)
        return predictive._batch_features(
            network, Categorical(), params, None, weights.model_state, x
        )

    exported(prediction, state.weights, subspace, images, jax.random.key(0))


def test_a_callback_would_be_seen():
    def function(x):
        return jax.pure_callback(np.sin, x, x)

    with pytest.raises(NotImplementedError, match="callback"):
        exported(function, np.float32(1.0))

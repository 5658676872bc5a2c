"""What was trained, and what it predicts, in one line."""

import jax
import numpy as np
import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.types import Weights
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.vi import predictions


def test_a_trained_network_is_one_line(tmp_path):
    net = linen(mlp(10, 16), X)
    fit = ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.9), net, (X, Y), steps=20)
    # 64 × 16 and 16 × 10, of which a tenth is kept.
    kept = sum(int(mask.sum()) for mask in fit.masks.values())
    assert repr(fit) == (
        f"Fitted(ssvi, step 20, {1 - kept / 1184:.2%} sparse ({kept} of 1,184 weights "
        "kept), Categorical())"
    )
    fit.save(tmp_path / "model.ssvi")
    assert repr(ssvi_jax.load(tmp_path / "model.ssvi", mlp(10, 16))) == repr(fit)
    assert repr(fit.predict(X[:7], samples=3)) == (
        "Classification(inputs=7, classes=10, passes=3)"
    )


def test_a_dense_one_has_no_masks():
    fit = Fitted(linen(mlp(), X)[0], Weights({}, {}, {}), {}, ssvi_jax.Poisson(), {})
    assert repr(fit) == "Fitted(?, step ?, dense, Poisson())"


EACH = np.zeros((3, 500), np.float32)
LINES = {
    "Binary(inputs=500, passes=3)": predictions.Binary(EACH[0], EACH[0], EACH, EACH),
    "Regression(inputs=500, shape=[], passes=3)": predictions.Regression(EACH, EACH),
    "Regression(inputs=500, shape=[2], passes=3)": predictions.Regression(
        *jax.tree.map(lambda each: np.stack([each, each], -1), (EACH, EACH))
    ),
    "Counts(inputs=500, passes=3)": predictions.Counts(EACH),
    "Outputs([passes, inputs, ...]: [3, 500], [3, 500])": predictions.Outputs(
        {"a": EACH, "b": EACH}
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_predictions_are_one_line(line):
    assert repr(LINES[line]) == line

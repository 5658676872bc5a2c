"""What was trained, and what it predicts, in one line."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError
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


# Arguments of another kind ------------------------------------------------------------


def dense(likelihood: Any = ssvi_jax.Categorical(), outputs=10):  # noqa: B008
    """A network that was not trained, without a posterior."""
    apply_fn, params, model_state = linen(mlp(outputs, 4), X)
    weights = Weights({}, params, model_state)
    return Fitted(apply_fn, weights, {}, likelihood, {})


def calls(fit):
    data = {"x": X[:30], "y": Y[:30]}
    return {
        "predict": functools.partial(fit.predict, X[:30]),
        "evaluate": functools.partial(fit.evaluate, **data),
        "calibrate": functools.partial(fit.calibrate, **data),
    }


@pytest.mark.parametrize("call", ["predict", "evaluate", "calibrate"])
@pytest.mark.parametrize("name", ["samples", "batch_size"])
def test_counts_of_another_kind_are_named(call, name):
    for got, said in {
        2.5: "2.5",
        "3": "'3'",
        True: "True",
        0: "0",
        None: "None",
    }.items():
        words = f"^{name}: got {said}, allowed: a whole number above 0"
        with pytest.raises(InputError, match=words):
            calls(dense())[call](**{name: got})


@pytest.mark.parametrize("call", ["predict", "evaluate", "calibrate"])
def test_a_wrong_name_is_of_the_call_that_was_made(call):
    call_it: Any = calls(dense())[call]
    with pytest.raises(TypeError, match=rf"Fitted\.{call}\(\) got an .* 'sample'"):
        call_it(sample=2)


def test_an_unknown_backend_is_refused_of_a_dense_network_too():
    for call in ("predict", "evaluate"):
        with pytest.raises(InputError, match=r"^backend: got 'foo', allowed: auto"):
            calls(dense())[call](backend="foo")


def test_what_is_no_path_of_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit: Any = dense()
    for got in (".", "", "/", tmp_path):
        with pytest.raises(
            InputError, match=r"^path: got .*, a folder, allowed: a fil"
        ):
            fit.save(got)
    with pytest.raises(InputError, match=r"^path: got a NoneType, allowed: the path"):
        fit.save(None)
    for got in ("no", 0, None):
        with pytest.raises(InputError, match=r"^half: got .*, allowed: True or False"):
            fit.save("model.ssvi", half=got)
    assert list(tmp_path.iterdir()) == []
    assert fit.save("model.ssvi", half=np.False_) > 0


def test_numbers_of_numpy_can_be_saved(tmp_path):
    of_numpy: Any = np  # whose numbers are no int or float to a type checker
    labels: Any = Y
    net, y = linen(mlp(1, 4), X), np.float32(labels[:60, None])
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=of_numpy.float32(0.5)),
        net,
        (X[:60], y),
        steps=of_numpy.int64(4),
        inner_steps=of_numpy.int32(2),
        batch_size=of_numpy.int64(20),
        likelihood=ssvi_jax.Normal(of_numpy.float32(0.5)),
        folder=tmp_path / "run",
    )
    found = fit.calibrate(
        X[:60], y, samples=of_numpy.int64(2), batch_size=of_numpy.int64(60)
    )
    assert found.about["calibration"]["samples"] == 2
    found.save(tmp_path / "model.ssvi")
    assert ssvi_jax.load(tmp_path / "model.ssvi", mlp(1, 4)).about == found.about


def test_labels_of_another_shape_are_named():
    one, two, n = dense(ssvi_jax.Bernoulli(), 1), Y[:30] % 2, X[:30]
    assert one.evaluate(n, two[:, None]) == one.evaluate(n, two)  # as it is trained on
    refused = {
        (ssvi_jax.Categorical(), 10): (Y[:30, None], "a class each"),
        (ssvi_jax.Bernoulli(), 1): (np.stack([two, two], 1), "one each"),
        (ssvi_jax.Normal(0.5), 1): (np.ones((30, 3)), "that of the"),
        (ssvi_jax.Poisson(), 1): (np.ones((30, 3)), "that of the"),
    }
    for (likelihood, outputs), (y, words) in refused.items():
        with pytest.raises(InputError, match=rf"^y: got shape \[30, \d\], .*{words}"):
            dense(likelihood, outputs).evaluate(n, y)

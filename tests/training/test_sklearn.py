"""The estimators of `ssvi_jax.sklearn`; all of scikit-learn's own checks are in
benchmarks/sklearn_checks.py, which takes minutes."""

import inspect
from multiprocessing.reduction import ForkingPickler
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.sklearn import SparseBayesClassifier, SparseBayesRegressor

SMALL: dict[str, Any] = {"hidden": (16,), "epochs": 20, "sparsity": 0.5, "samples": 4}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3))
Y = 1e5 * X[:, 0] + 3e6


def test_a_search_in_a_pipeline_finds_names_of_classes():
    x, y = load_breast_cancer(return_X_y=True)
    names = np.array(["malignant", "benign"], object)[y]
    estimator = SparseBayesClassifier(**{**SMALL, "epochs": 100}, random_state=0)
    pipeline = make_pipeline(StandardScaler(), estimator)
    grid = {"sparsebayesclassifier__sparsity": [0.9]}
    rows = np.arange(len(x[::2]))
    once = [(rows, rows[:50])]  # as many as in the end, so nothing compiles again
    search = GridSearchCV(pipeline, grid, cv=once, scoring="neg_log_loss")
    search.fit(x[::2], names[::2])
    found = search.best_estimator_[-1]
    assert found.classes_.tolist() == ["benign", "malignant"]
    assert found.fitted_.sparsity == pytest.approx(0.9, abs=1e-2)
    probs = search.predict_proba(x[1::2])
    predicted = search.predict(x[1::2])
    assert (predicted == found.classes_[probs.argmax(axis=1)]).all()
    assert (predicted == names[1::2]).mean() > 0.93
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)
    true, said = calibration_curve(names[1::2] == "malignant", probs[:, 1], n_bins=2)
    np.testing.assert_allclose(true, said, atol=0.15)
    # A row's prediction is its own, whatever it is predicted with …
    np.testing.assert_array_equal(search.predict_proba(x[7:8]), probs[3:4])
    # … and in another process, to which a search sends it so.
    pickler: Any = ForkingPickler
    sent = bytes(pickler.dumps(search.best_estimator_))
    again = pickler.loads(sent).predict_proba(x[1::2])
    np.testing.assert_array_equal(again, probs)
    assert (search.best_estimator_[-1].mutual_information(x[:5]) >= 0).all()


def test_numbers_come_back_in_their_units():
    model: Any = SparseBayesRegressor(**{**SMALL, "epochs": 100}, random_state=1).fit(
        X, Y
    )
    mean, std = model.predict(X, return_std=True)
    assert model.score(X, Y) > 0.9
    assert 1e3 < std.mean() < 1e5
    assert (np.abs(mean - Y) < 3 * std).mean() > 0.95
    # The same in other units, of inputs and targets, is the same.
    again: Any = clone(model)
    scaled = again.fit(1000 * X + 7, Y / 1e5)
    np.testing.assert_allclose(1e5 * scaled.predict(1000 * X + 7), mean, rtol=1e-3)
    # Equal networks, which share what is compiled for them.
    assert scaled.fitted_.apply_fn == model.fitted_.apply_fn


def test_both_say_what_they_are_made_of():
    def names(kind):
        return [*inspect.signature(kind).parameters]

    assert names(SparseBayesRegressor) == [*names(SparseBayesClassifier), "noise"]


ONE = np.zeros(80, int)
TWO = np.arange(80) % 2


@pytest.mark.parametrize(
    ("settings", "y", "given", "words"),
    [
        ({}, ONE, {}, r"^y: got one class only \(0\), allowed: 2 classes"),
        ({}, TWO, {"sample_weight": ONE}, "^sample_weight: got weights of rows"),
        ({}, TWO, {"group": 1}, "^group: fit takes X and y only"),
        ({}, Y, {}, "Unknown label type: continuous"),
        ({}, TWO[:7], {}, "inconsistent numbers of samples"),
        ({"sparsity": 1.0}, TWO, {}, r"^sparsity: got 1.0, allowed: .*\[0, 1\)"),
        ({"epochs": 0}, TWO, {}, "^epochs: got 0, allowed: a finite number above 0"),
        ({"samples": 0}, TWO, {}, "^samples: got 0, allowed: a whole number above 0"),
        ({"hidden": (0,)}, TWO, {}, "^hidden: got 0, allowed: a whole number above 0"),
        ({"method": "ssvi"}, TWO, {}, "^method: got str, allowed: None, or a method"),
        (
            {"method": ssvi_jax.Deterministic()},
            TWO,
            {},
            "^sparsity: got 0.5 with Deterministic, which has no such setting",
        ),
        ({"module": nn.Dense(3)}, TWO, {}, r"^module: got outputs \(1, 3\) .* \(1, 2"),
    ],
)
def test_what_a_classifier_refuses(settings, y, given, words):
    with pytest.raises(ValueError, match=words):
        SparseBayesClassifier(**SMALL | settings).fit(X, y, **given)


def test_what_a_regressor_refuses_or_warns_of():
    with pytest.raises(InputError, match=r"^noise: got 'x', allowed: 'one' or 'rows'"):
        SparseBayesRegressor(noise="x").fit(X, Y)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        SparseBayesRegressor().fit(X, np.where(Y > Y[0], Y, np.nan))
    equal = SparseBayesRegressor(epochs=0)
    with (
        pytest.warns(UserWarning, match=r"^y: got one value only \(7\)"),
        pytest.raises(InputError, match=r"^epochs"),
    ):
        equal.fit(X, np.full(80, 7.0))

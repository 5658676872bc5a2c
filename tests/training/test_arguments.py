"""Arguments of `fit` and its neighbours that are of another kind: one error each."""

import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from digits_fits import KEY, X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError

NETWORK = linen(mlp(), X)


class Watch:
    """A class that looks like a function of a phase."""

    def __init__(self, phase):
        del phase


def fit(**changes):
    given = {
        "method": ssvi_jax.Static(sparsity=0.5),
        "network": NETWORK,
        "data": (X[:60], Y[:60]),
        "steps": 2,
        "batch_size": 20,
        **changes,
    }
    return ssvi_jax.fit(
        given.pop("method"), given.pop("network"), given.pop("data"), **given
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": ssvi_jax.SSVI}, r"method: got the class SSVI.*: SSVI\(\.\.\.\)"),
        ({"method": "ssvi"}, r"method: got 'ssvi', allowed: .* SSVI\(sparsity=0\.95\)"),
        ({"method": None}, "method: got a NoneType"),
        ({"network": mlp()}, "network: got a Sequential, allowed: what from_flax"),
        ({"network": NETWORK[:2]}, "network: got a tuple of 2, allowed: what from_fl"),
        ({"network": (mlp(), *NETWORK[1:])}, "got a Sequential as its function"),
        ({"network": (NETWORK[0], None, {})}, "got a NoneType as its parameters"),
        ({"key": 3}, r"^key: got 3, allowed: jax\.random\.key\(3\)"),
        ({"key": "3"}, r"^key: got a str, allowed: jax\.random\.key\(0\)"),
        ({"key": jax.random.split(KEY)}, r"^key: got an array key<fry>\[2\], allowed"),
        ({"steps": "2"}, "steps: got '2', allowed: a whole number above 0"),
        ({"steps": 2.5}, "steps: got 2.5, allowed: a whole number above 0"),
        ({"epochs": "1"}, "epochs: got '1', allowed: a number above 0"),
        ({"minutes": [1]}, "minutes: got a list, allowed: a number above 0"),
        ({"batch_size": 20.0}, "batch_size: got 20.0, allowed: a whole number"),
        ({"batch_size": True}, "batch_size: got True"),
        ({"inner_steps": 0}, "inner_steps: got 0"),
        ({"likelihood": ssvi_jax.Normal}, r"likelihood: got the class Normal, allow"),
        ({"likelihood": "normal"}, r"likelihood: got 'normal', allowed: Categorical"),
        ({"optimizer": "adam"}, r"optimizer: got 'adam', allowed: an optimizer of opt"),
        ({"optimizer": ssvi_jax.Sgd}, r"optimizer: got the class Sgd, allowed"),
        ({"augment": 3}, r"augment: got 3, allowed: a function \(inputs, key\)"),
        ({"start": "model.ssvi"}, r"start: got 'model\.ssvi', allowed: .*load\(path"),
        ({"start": NETWORK}, "start: got a tuple, allowed: .* the second"),
        ({"callbacks": print}, r"callbacks: got a builtin_f.*callbacks=\[\.\.\.\]"),
        ({"callbacks": ssvi_jax.ProgressBar()}, "callbacks: got a ProgressBar, allow"),
        ({"callbacks": [ssvi_jax.ProgressBar]}, "got the class ProgressBar, allowed"),
        ({"callbacks": [Watch]}, r"got the class Watch, .*, as Watch\(\.\.\.\)"),
        ({"execution": "sparse"}, r"execution: got 'sparse', allowed: Execution\("),
        ({"folder": 3}, "folder: got 3, allowed: the path of a folder"),
        ({"folder": __file__}, "folder: got .*, a file, allowed: a folder"),
    ],
)
def test_another_kind_is_named(change, match):
    with pytest.raises(InputError, match=match):
        fit(**change)


@pytest.mark.parametrize(
    "maker",
    [
        optax.sgd,
        functools.partial(optax.adam, b1=0.8),
        optax.inject_hyperparams(optax.adamw),
        optax.contrib.prodigy,
    ],
)
def test_a_maker_of_optimizers_is_not_a_function_of_the_steps(maker):
    with pytest.raises(InputError, match=r"optimizer: .* for its learning rate.*call"):
        fit(optimizer=maker)
    with pytest.raises(InputError, match=r"optimizer: got <lambda> \(too many"):
        fit(optimizer=lambda: maker(1e-3))


def test_numbers_of_numpy_are_taken():
    found = fit(steps=np.int64(2), batch_size=np.int32(20))
    assert found.about["total_steps"] == 2


def test_variables_are_told_from_parameters():
    variables = {"params": NETWORK[1], "batch_stats": {}}
    with pytest.raises(InputError, match=r'start: got variables .*pass v\["params"\]'):
        fit(start=variables)
    assert fit(start=variables["params"]).about["step"] == 2


def test_keys_of_from_flax_and_predictions():
    number: Any = 0
    with pytest.raises(InputError, match=r"^key: got 0, allowed: jax\.random\.key\("):
        ssvi_jax.from_flax(mlp(), X[:1], key=number)
    trained = fit()
    for call in (trained.predict, functools.partial(trained.evaluate, y=Y[:2])):
        with pytest.raises(InputError, match=r"^key: got 0, allowed: jax\.random\.key"):
            call(X[:2], key=number)


def test_a_trained_network_is_described_by_its_parts():
    trained: Any = fit()
    with pytest.raises(InputError, match=r"network: got a Fitted, .*\(fit\.apply_fn, "):
        ssvi_jax.describe(trained, X[:1])
    parts = (trained.apply_fn, trained.params, trained.weights.model_state)
    assert "0.4219" in ssvi_jax.describe(parts, X[:1], trained.masks)

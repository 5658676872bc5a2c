"""What is trained on and evaluated is looked at first, and its first fault named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.training import data_check
from ssvi_jax.vi.likelihoods import Bernoulli, Categorical, Poisson

SIGNS = np.where(Y > 4, 1, -1)
FIRST = int(np.argmin(SIGNS))


def fit(data, **options):
    options = {"likelihood": Bernoulli(), "steps": 2, "batch_size": 50, **options}
    outputs = 10 if options["likelihood"] == Categorical() else 1
    return ssvi_jax.fit(ssvi_jax.SSVI(), linen(mlp(outputs, 8), X), data, **options)


def test_labels_are_checked_before_the_first_step():
    with pytest.raises(InputError, match=f"data: got -1 at example {FIRST}, allowed"):
        fit((X, SIGNS), callbacks=[lambda phase: pytest.fail("a step was done")])
    with pytest.raises(InputError, match=f"validation: got -1 at example {FIRST}"):
        fit((X, Y > 4), validation=(X, SIGNS))
    with pytest.raises(InputError, match="network: got one output, of which a softm"):
        ssvi_jax.fit(
            ssvi_jax.SSVI(), linen(mlp(1, 8), X), (X, Y > 4), steps=2, batch_size=50
        )
    with pytest.raises(InputError, match="data: got labels of dtype float64, allowed"):
        fit((X, Y.astype(float)), likelihood=Categorical())


def test_labels_of_batches_are_checked_as_they_come():
    wrong = np.where(np.arange(1500) == 120, -1, Y > 4)

    def batches(epoch):
        y = wrong if epoch else Y > 4
        for start in range(0, 1500, 50):
            yield X[start : start + 50], y[start : start + 50]

    data = ssvi_jax.Batches(batches, num_data=1500)
    assert len(fit(data, steps=30).history) > 0
    match = "data, batch 2 of epoch 1: got -1 at example 20, allowed: 0 and 1"
    with pytest.raises(InputError, match=match):
        fit(data, steps=60)


def test_evaluation_refuses_the_same():
    found = fit((X, Y > 4))
    with pytest.raises(InputError, match=f"y: got -1 at example {FIRST}, allowed: 0"):
        found.evaluate(X, SIGNS)
    counts = fit((X, Y), likelihood=Poisson())
    with pytest.raises(InputError, match="y: got -1 at example 7, allowed: whole"):
        counts.evaluate(X, np.where(np.arange(1500) == 7, -1, Y))
    classes = fit((X, Y > 4), likelihood=Categorical())
    whole = classes.evaluate(X, (Y > 4).astype(int))
    assert classes.evaluate(X, Y > 4) == whole
    with pytest.raises(InputError, match="y: got a sum of 2 at example 0, allowed: 1"):
        classes.evaluate(X, np.full((1500, 10), 0.2))


INPUTS = np.ones((40, 3, 2))


def bad(row, value, array=INPUTS):
    array = np.array(array)
    array[row, -1] = value
    return array


NOT_FINITE = {
    "nan": (bad(12, np.nan), "data: input 12 is not finite"),
    "infinite": (bad(39, -np.inf), "data: input 39 is not finite"),
    "float32": (bad(3, np.inf).astype(np.float32), "data: input 3 is not finite"),
    "too large": (bad(5, 1e300), "data: input 5 is not finite"),
    "on a device": (jnp.asarray(bad(12, np.nan)), "data: input 12 is not finite"),
    "of several": ({"a": INPUTS, "b": bad(0, np.nan)}, r"input 0 of \['b'\] is not"),
}


@pytest.mark.parametrize("chunk", [1, 2**24])
@pytest.mark.parametrize("name", NOT_FINITE)
def test_inputs_that_are_not_finite_are_named(name, chunk, monkeypatch):
    monkeypatch.setattr(data_check, "_CHUNK", chunk)
    x, match = NOT_FINITE[name]
    with pytest.raises(InputError, match=match):
        data_check.checked((x, np.zeros(40, int)), None, Categorical())


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, bool])
def test_other_inputs_pass_as_they_are(dtype):
    data = (INPUTS.astype(dtype), np.zeros(40, int))
    assert data_check.checked(data, 0.5, Categorical()) is data


ASIDE = {
    "keys": jax.random.split(jax.random.key(0), 40),
    "a number": np.float32(np.nan),
    "no array": "a",
    "none": np.zeros((0, 3)),
}


@pytest.mark.parametrize("name", ASIDE)
def test_what_is_not_rows_of_numbers_is_others_affair(name):
    data = (ASIDE[name], np.zeros(40, int))
    assert data_check.checked(data, None, Categorical()) is data


def test_not_finite_inputs_of_fit():
    x = X.copy()
    x[700, 3] = np.nan
    with pytest.raises(InputError, match="data: input 700 is not finite, allowed"):
        fit((x, Y > 4))

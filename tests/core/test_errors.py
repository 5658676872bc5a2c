"""Checks of input: what passes, what does not, and what the reader is told."""

import math

import numpy as np
import pytest

from ssvi_jax.core import errors
from ssvi_jax.core.errors import InputError

REFUSED = [
    (
        errors.check_rows,
        ("index", np.array([[3, -1]]), 4),
        "index: .* -1 to 3, .* 0 to 3",
    ),
    (errors.check_rows, ("index", np.array([4]), 4), "from 4 to 4"),
    (errors.check_choice, ("model", "vgg", ["b", "a"]), "model: got 'vgg', .* a, b."),
    (errors.check_choice, ("model", "", {"a": 1}), "model: got ''"),
    (errors.check_fraction, ("sparsity", 1.0), r"sparsity: got 1.0, .*\[0, 1\)"),
    (errors.check_fraction, ("sparsity", -1e-9), "sparsity"),
    (errors.check_fraction, ("sparsity", math.nan), "nan"),
    (errors.check_positive, ("std", 0.0), "std: got 0.0, .* above 0"),
    (errors.check_positive, ("std", -1), "std"),
    (errors.check_positive, ("std", math.inf), "inf"),
    (errors.check_positive, ("std", math.nan), "nan"),
    (errors.check_positive, ("std", "0.1"), "std: got '0.1', allowed: a finite num"),
    (errors.check_positive, ("std", None), "std: got None, allowed: a finite number"),
    (errors.check_fraction, ("rate", [0.5]), r"rate: got \[0.5\], allowed: a number"),
    (errors.check_count, ("samples", 2.5), "samples: got 2.5, .* a whole number above"),
    (errors.check_count, ("samples", "3"), "samples: got '3'"),
    (errors.check_count, ("samples", True), "samples: got True"),
    (errors.check_count, ("samples", np.int64(0)), "samples: got 0"),
    (errors.check_flag, ("half", "no"), "half: got 'no', allowed: True or False"),
    (errors.check_flag, ("half", 1), "half: got 1"),
]


@pytest.mark.parametrize(("check", "arguments", "message"), REFUSED)
def test_bad_values_are_refused_by_name(check, arguments, message):
    with pytest.raises(InputError, match=message):
        check(*arguments)


def test_good_values_pass():
    errors.check_choice("model", "a", ["b", "a"])
    errors.check_fraction("sparsity", 0.0)
    errors.check_fraction("sparsity", 0.999)
    errors.check_fraction("rate", 1.0, one_allowed=True)
    errors.check_positive("std", 1e-30)
    assert type(errors.check_count("samples", np.int64(3))) is int
    assert errors.check_flag("half", np.True_) is True
    errors.check_rows("index", np.array([[0, 3]]), 4)
    errors.check_rows("index", np.zeros((0, 5), int), 0)


def test_one_is_a_fraction_only_where_it_is_allowed():
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        errors.check_fraction("rate", 1.0 + 1e-9, one_allowed=True)


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError)

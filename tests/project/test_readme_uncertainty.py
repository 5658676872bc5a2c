"""What the library's page says of the uncertainty of README's example."""

import re
from pathlib import Path

import pytest
from digits_fits import TEST_X, TEST_Y, X, Y, linen, mlp

import ssvi_jax

PAGE = (Path(__file__).parents[2] / "docs" / "fit.md").read_text()
VISIBLE = re.search(r"take `SSVI\((.*)\)` and\s`epochs=(\d+)`", PAGE)


def fitted(epochs, **settings):
    method = ssvi_jax.SSVI(**settings)
    fit = ssvi_jax.fit(method, linen(mlp(10, 256), X), (X, Y), epochs=epochs)
    return fit.evaluate(TEST_X, TEST_Y)


@pytest.mark.slow  # three trainings of the README's size
def test_a_posterior_that_is_not_cold_shows_its_uncertainty():
    assert VISIBLE is not None
    settings = dict(pair.split("=") for pair in VISIBLE[1].split(", "))
    settings = {name: float(value) for name, value in settings.items()}
    cold = fitted(40, sparsity=0.95)
    visible = fitted(int(VISIBLE[2]), **settings)
    assert cold["mutual_information"] < 1e-3
    assert visible["mutual_information"] > 0.1
    assert visible["accuracy"] > cold["accuracy"] - 0.02
    # With the default prior it loses more than that.
    del settings["prior_std"]
    assert fitted(int(VISIBLE[2]), **settings)["accuracy"] < cold["accuracy"] - 0.02

"""Schedules against their formulas, on the host and inside jit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi.schedules import (
    LEARNING_RATE,
    REPLACEMENT,
    Drops,
    kl_weight,
    learning_rate,
    prune_step,
    replacement_rate,
)


def values(schedule, num_steps):
    """The schedule at steps 0, 1, ... inside one jitted scan."""
    steps = jnp.arange(num_steps)
    compute = jax.jit(lambda: jax.lax.map(lambda s: jnp.float32(schedule(s)), steps))
    return np.asarray(compute())


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("cosine", lambda t: 0.3 / 2 * (1 + math.cos(math.pi * t / 75))),
        ("linear", lambda t: 0.3 * (1 - t / 75)),
        ("constant", lambda t: 0.3),
    ],
)
def test_replacement_rate(name, formula):
    rate = replacement_rate(name, 0.3, 75)
    for step in range(75):
        assert rate(step) == pytest.approx(formula(step), abs=1e-15)
    assert rate(0) == 0.3
    assert type(rate(10)) is float
    assert [rate(75), rate(76), rate(10**9)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", sorted(REPLACEMENT))
def test_replacement_rate_of_static_masks(name):
    assert replacement_rate(name, 0.3, 0)(0) == 0.0
    assert replacement_rate(name, 0.0, 100)(0) == 0.0


def test_kl_weight_is_that_of_the_authors():
    got = values(kl_weight(0.01, 1000), 1001)
    expected = [0.01 * min(2 * step / 1000, 1) for step in range(1001)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert got[0] == 0


def test_kl_weight_warm_up_fraction():
    np.testing.assert_allclose(values(kl_weight(2.0, 50, 0.0), 60), 2.0)
    np.testing.assert_allclose(values(kl_weight(0.0, 50), 60), 0.0)
    whole = values(kl_weight(2.0, 50, 1.0), 60)
    expected = 2.0 * np.minimum(np.arange(60) / 50, 1)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    assert values(kl_weight(2.0, 1, 0.1), 1)[0] == 2.0  # a warm-up of no whole step


def test_cosine_learning_rate():
    got = values(learning_rate("cosine", 0.1, 200), 220)
    steps = np.minimum(np.arange(220), 200)
    expected = 0.05 * (1 + np.cos(np.pi * steps / 200))
    np.testing.assert_allclose(got, expected, atol=1e-7)


@pytest.mark.parametrize("peak_fraction", [0.1, 0.3, 0.999])
def test_onecycle_learning_rate(peak_fraction):
    got = values(learning_rate("onecycle", 0.2, 200, peak_fraction), 220)
    peak = round(200 * peak_fraction)
    knots = [0, peak, max(200, peak + 1)]
    expected = np.interp(np.arange(220), knots, [0.008, 0.2, 0.0])
    np.testing.assert_allclose(got, expected, atol=1e-7)
    assert got[peak] == got.max() == np.float32(0.2)


def test_onecycle_without_a_way_up():
    got = values(learning_rate("onecycle", 0.2, 10, 0.0), 11)
    np.testing.assert_allclose(got, np.linspace(0.2, 0.0, 11), atol=1e-7)


def test_constant_learning_rate():
    np.testing.assert_allclose(values(learning_rate("constant", 0.2, 10), 20), 0.2)


def test_steps_learning_rate():
    drops = Drops((0.4, 0.8, 0.9), 0.2)
    got = values(learning_rate("steps", 0.1, 50, drops=drops), 60)
    expected = [0.1 * 0.2 ** sum(t >= at for at in (20, 40, 45)) for t in range(60)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_drops_that_round_to_one_step_are_all_made_there():
    got = values(learning_rate("steps", 1.0, 20, drops=Drops((0.6, 0.62, 0.9))), 20)
    expected = [0.1 ** (2 * (t >= 12) + (t >= 18)) for t in range(20)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LEARNING_RATE))
def test_a_warm_up_multiplies_every_schedule(name):
    drops = Drops((0.5,), 0.1)
    plain = values(learning_rate(name, 0.2, 40, drops=drops), 50)
    warm = values(learning_rate(name, 0.2, 40, warmup=0.25, drops=drops), 50)
    factor = np.minimum(np.arange(50) / 10, 1)
    np.testing.assert_allclose(warm, plain * factor, rtol=1e-5, atol=1e-8)
    assert warm[1] > 0


@pytest.mark.parametrize("name", sorted(LEARNING_RATE))
def test_learning_rate_of_one_step_is_positive(name):
    assert values(learning_rate(name, 0.2, 1), 1)[0] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replacement_rate("step", 0.3, 9), "got 'step', allowed: constant, "),
        (lambda: replacement_rate("cosine", 1.5, 9), "replacement rate: got 1.5"),
        (lambda: kl_weight(-1.0, 9), "KL scale: got -1.0"),
        (lambda: kl_weight(math.nan, 9), "KL scale: got nan"),
        (lambda: kl_weight(math.inf, 9), "KL scale: got inf"),
        (lambda: kl_weight(1.0, 0), "total steps: got 0"),
        (lambda: kl_weight(1.0, 9, 2.0), "KL warm-up fraction: got 2.0"),
        (lambda: learning_rate("step", 0.1, 9), "got 'step', allowed: constant, "),
        (lambda: learning_rate("cosine", 0.0, 9), "learning rate: got 0.0"),
        (lambda: learning_rate("cosine", 0.1, 0), "total steps: got 0"),
        (lambda: learning_rate("onecycle", 0.1, 9, 1.0), "peak fraction: got 1.0"),
        (lambda: learning_rate("cosine", 0.1, 9, warmup=1.0), "warm-up fraction: got"),
        (
            lambda: learning_rate("steps", 0.1, 9, drops=Drops((0.5, 0.5))),
            r"decay fractions: got \(0.5, 0.5\), allowed: rising, above 0, below 1",
        ),
        (
            lambda: learning_rate("steps", 0.1, 9, drops=Drops((0.0,))),
            "decay fractions: got",
        ),
        (
            lambda: learning_rate("steps", 0.1, 9, drops=Drops((math.nan,))),
            "decay fractions: got",
        ),
        (
            lambda: learning_rate("steps", 0.1, 9, drops=Drops((0.5,), 0.0)),
            "decay factor: got 0.0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("phases", [2, 3, 8])
@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.3, 0.5, 0.51, 0.9, 0.999])
def test_pruning_comes_between_two_phases(phases, fraction):
    starts = [10 * phase for phase in range(phases)]
    due = [start for start in starts[1:] if start >= fraction * 10 * phases]
    expected = min([*due, starts[-1]]) if fraction else 0
    assert prune_step(fraction, 10 * phases, 10) == expected


def test_pruning_needs_two_phases():
    assert prune_step(0.0, 10, 10) == 0
    with pytest.raises(InputError, match=r"^inner_steps: got 10 for 10 steps in all"):
        prune_step(0.5, 10, 10)
    with pytest.raises(InputError, match=r"prune fraction: got 1\.0"):
        prune_step(1.0, 20, 10)

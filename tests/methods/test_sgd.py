"""The optimizer against the authors' update rule, written out in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods.algorithms.sgd import Sgd, sgd
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import Trainable, schedules

LEAVES = ("mean", "rho", "bias")


def trainable(mean, rho, bias):
    posterior = {"dense/kernel": Gaussian(jnp.array(mean), jnp.array(rho))}
    return Trainable(posterior, {"dense": {"bias": jnp.array(bias)}})


def leaves(tree):
    gaussian = tree.posterior["dense/kernel"]
    values = (gaussian.mean, gaussian.rho, tree.params["dense"]["bias"])
    return dict(zip(LEAVES, map(np.asarray, values), strict=True))


def run(tx, num_steps=4):
    """Values of every leaf before each step, and after the last; gradients a step."""
    rng = np.random.default_rng(0)
    params = trainable(*(rng.normal(size=3).astype(np.float32) for _ in LEAVES))
    grads = [
        trainable(*(rng.normal(size=3).astype(np.float32) for _ in LEAVES))
        for _ in range(num_steps)
    ]
    state, values = tx.init(params), [leaves(params)]
    for gradient in grads:
        updates, state = tx.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        values.append(leaves(params))
    return values, [leaves(gradient) for gradient in grads]


def by_hand(values, grads, name, rates, *, momentum, decay, nesterov):
    """θ ← θ − rate·v, v ← momentum·v + g + decay·θ (Nesterov: g + decay·θ + m·v)."""
    theta, velocity = values[0][name].astype(np.float64), 0.0
    for rate, gradient in zip(rates, grads, strict=True):
        g = gradient[name] + decay * theta
        velocity = momentum * velocity + g
        theta = theta - rate * (g + momentum * velocity if nesterov else velocity)
    return theta


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("sigma_rate", [None, 0.02])
def test_sigmas_have_a_rate_of_their_own_and_no_decay(sigma_rate, nesterov):
    tx = sgd(
        0.1,
        sigma_learning_rate=sigma_rate,
        momentum=0.8,
        nesterov=nesterov,
        weight_decay=0.3,
    )
    values, grads = run(tx)
    for name in LEAVES:
        is_sigma = name == "rho"
        rate = (sigma_rate or 0.1) if is_sigma else 0.1
        expected = by_hand(
            values,
            grads,
            name,
            4 * [rate],
            momentum=0.8,
            decay=0.0 if is_sigma else 0.3,
            nesterov=nesterov,
        )
        np.testing.assert_allclose(values[-1][name], expected, rtol=1e-5, atol=1e-6)


def test_a_configuration_says_where_rates_rise_and_fall():
    config = Config.of(
        {
            "schedule": "steps",
            "warmup": 0.2,
            "decay_at": (0.5, 0.8),
            "decay_factor": 0.1,
        }
    )
    schedule = config.training.optimizer().rate(10, 0.4)
    got = [np.asarray(schedule(step)).item() for step in range(10)]
    expected = [0.0, 0.2, 0.4, 0.4, 0.4, 0.04, 0.04, 0.04, 0.004, 0.004]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


SETTINGS = {
    "learning_rate": 0.2,
    "schedule": "cosine",
    "momentum": 0.7,
    "nesterov": False,
    "weight_decay": 0.1,
}


@pytest.mark.parametrize("sigma_rate", [None, 0.05])
def test_a_configuration_sets_rates_schedule_momentum_and_decay(sigma_rate):
    sgd = Config.of(SETTINGS).training.optimizer()
    assert sgd == Sgd(**SETTINGS)
    values, grads = run(sgd.transformation(4, sigma_rate))
    for name in LEAVES:
        peak = (sigma_rate or 0.2) if name == "rho" else 0.2
        schedule = schedules.learning_rate("cosine", peak, 4)
        expected = by_hand(
            values,
            grads,
            name,
            [np.asarray(schedule(step)).item() for step in range(4)],
            momentum=0.7,
            decay=0.0 if name == "rho" else 0.1,
            nesterov=False,
        )
        np.testing.assert_allclose(values[-1][name], expected, rtol=1e-5, atol=1e-6)


def test_trainings_of_equal_settings_share_their_optimizer():
    """By its identity JAX finds the programs that it compiled."""
    one, same, other = (Sgd(learning_rate=rate) for rate in (0.1, 0.1, 0.2))
    assert one.transformation(10) is same.transformation(10)
    assert one.transformation(10) is not other.transformation(10)
    assert one.transformation(10) is not one.transformation(20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, r"^learning_rate: got 0\.0, .*above 0"),
        ({"learning_rate": "0.1"}, "^learning_rate: got '0.1', .*a finite number"),
        ({"schedule": "step"}, "^schedule: got 'step', .*constant, cosine, onecycle"),
        ({"warmup": 1.0}, r"^warmup: got 1\.0, .*\[0, 1\)"),
        ({"momentum": 1.5}, r"^momentum: got 1\.5, .*\[0, 1\)"),
        ({"momentum": None}, "^momentum: got 'None', .*a finite number"),
        ({"nesterov": 1}, "^nesterov: got '1', .*true or false"),
        ({"weight_decay": -1.0}, r"^weight_decay: got -1\.0, .*0 or more"),
        ({"weight_decay": float("nan")}, "^weight_decay: got nan, .*0 or more"),
        ({"decay_factor": 0.0}, r"^decay_factor: got 0\.0, .*above 0"),
        ({"decay_at": 0.5}, "^decay_at: got '0.5', .*a list of finite numbers"),
        ({"decay_at": (0.5,)}, r"^decay_at: got \[0\.5\] with schedule onecycle"),
        ({"schedule": "steps"}, r"^decay_at: got \[\] with schedule steps"),
        (
            {"schedule": "steps", "decay_at": (0.8, 0.5)},
            r"^decay fractions: got \(0\.8, 0\.5\), allowed: rising",
        ),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Sgd(**values)


def test_settings_of_numpy_and_lists_are_taken():
    falls: Any = list(np.array([0.5, 0.8]))
    got = Sgd(np.float64(0.25), schedule="steps", decay_at=falls)
    plain = Sgd(0.25, schedule="steps", decay_at=(0.5, 0.8))
    assert got == plain
    assert got.rate(10) is plain.rate(10)

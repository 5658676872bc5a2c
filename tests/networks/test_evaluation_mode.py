"""Whatever way a model is told that it does not train, or that it cannot be told."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import KEY

from ssvi_jax.core.errors import InputError
from ssvi_jax.networks import adapters

X = jax.random.normal(KEY, (5, 3))


class ByField(nn.Module):
    """Flax's own how-to."""

    train: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=not self.train)(x)
        return nn.Dropout(0.5, deterministic=not self.train)(x)


class ByOtherField(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, x, scale=1.0):
        return scale * ByField(not self.deterministic)(x)


class NnxByField(nnx.Module):
    def __init__(self, *, training):
        self.training = training
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x, use_running_average=not self.training)


class ScannedNorm(nn.Module):
    """Statistics that a lifted transform stacks."""

    @nn.compact
    def __call__(self, x, train: bool):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
                return x, None

        options: Any = {"params": 0, "batch_stats": 0}
        lift = nn.scan(
            nn.remat(Block),
            variable_axes=options,
            split_rngs={"params": True},
            length=2,
        )
        return lift()(x, None)[0]


TOLD = {
    "field": lambda: ByField(),
    "field, off": lambda: ByField(train=False),
    "other field": lambda: ByOtherField(deterministic=False),
    "nnx field": lambda: NnxByField(training=True),
    "nnx field, off": lambda: NnxByField(training=False),
    "scanned": lambda: ScannedNorm(),
}


@pytest.mark.parametrize("name", TOLD)
def test_predictions_do_not_depend_on_their_batch_and_training_does(name):
    net, params, state = adapters.from_flax(TOLD[name](), X, key=KEY)

    def run(x, *, train):
        return net(params, state, x, train=train, key=KEY)

    alone, _ = run(X[:1], train=False)
    among, same = run(X, train=False)
    np.testing.assert_allclose(among[:1], alone, rtol=1e-5, atol=1e-6)
    assert same is state
    trained, moved = run(X, train=True)
    assert np.abs(trained - among).max() > 0.1
    for before, after in zip(*map(jax.tree.leaves, (state, moved)), strict=True):
        assert np.any(before != after)


class Around(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.inner(x))


class OwnNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1])
        mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return x - mean.value[None]


class NnxAlways(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x, use_running_average=False)


WRITING = {
    "part's field": (lambda: Around(ByField()), "/inner/BatchNorm_0"),
    "in a sequence": (
        lambda: nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)]),
        "/layers_1",
    ),
    "own norm": (lambda: OwnNorm(), "mean"),
    "nnx": (NnxAlways, "BatchStat"),
}


@pytest.mark.parametrize("name", WRITING)
def test_statistics_written_in_evaluation_are_refused(name):
    build, where = WRITING[name]
    with pytest.raises(InputError, match=rf"train=False it writes .*{where}.*allowed"):
        adapters.from_flax(build(), X, key=KEY)


def test_nnx_statistics_are_refused_without_an_example_too():
    net, params, state = adapters.from_flax(NnxAlways())
    net(params, state, X, train=True, key=KEY)
    with pytest.raises(InputError, match="writes running statistics"):
        net(params, state, X, train=False, key=KEY)


class Dropping(nn.Module):
    """Whatever it is told."""

    layer: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        return self.layer(nn.Dense(4)(x))


class NnxDropping(nnx.Module):
    def __init__(self):
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.drop(x, deterministic=False)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


def scanned(*, deterministic):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(3)(x)), None

    options: Any = {"params": 0}
    rngs: Any = {"params": True, "dropout": True}
    lift = nn.scan(nn.remat(Block), variable_axes=options, split_rngs=rngs, length=2)

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            return lift()(x, None)[0]

    return Scanned()


DRAWING = {
    "linen": lambda: Dropping(nn.Dropout(0.5, deterministic=False)),
    "scanned": lambda: scanned(deterministic=False),
    "noise": lambda: Noisy(),
    "nnx": NnxDropping,
}


@pytest.mark.parametrize("name", DRAWING)
def test_random_predictions_are_refused(name):
    match = r"train=False it draws random numbers.*allowed: .*MCDropout"
    with pytest.raises(InputError, match=match):
        adapters.from_flax(DRAWING[name](), X, key=KEY)


class Drawn(nn.Module):
    """Draws, but not what it returns, and not by its key."""

    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "noise", jax.random.normal(self.make_rng("a"), (3,)))
        return x + jax.random.normal(jax.random.key(1), x.shape)


CERTAIN = {
    "rate 0": lambda: Dropping(nn.Dropout(0.0, deterministic=False)),
    "scanned": lambda: scanned(deterministic=True),
    "same numbers each time": lambda: Drawn(),
    "told": lambda: ByField(),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_what_does_not_draw_is_not_refused(name):
    net, params, state = adapters.from_flax(CERTAIN[name](), X, key=KEY)
    first, second = (
        net(params, state, X, train=False, key=jax.random.key(i))[0] for i in range(2)
    )
    np.testing.assert_array_equal(first, second)


class Unknown(nn.Module):
    """Its switch has a name that nobody knows."""

    @nn.compact
    def __call__(self, x, evaluate: bool = True):
        x = nn.BatchNorm(use_running_average=evaluate)(nn.Dense(4)(x))
        return nn.Dropout(0.5, deterministic=evaluate)(x)


class NnxUnknown(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x, evaluate: bool = True):
        return self.norm(x, use_running_average=evaluate)


STILL = {
    "linen": (lambda: Unknown(), r"batch_stats/BatchNorm_0/mean, .*var"),
    "nnx": (NnxUnknown, r"norm/mean, norm/var"),
}


@pytest.mark.parametrize("name", STILL)
def test_statistics_that_training_leaves_are_warned_of(name):
    build, where = STILL[name]
    match = rf"train=True it does not move its running statistics \({where}\).*named"
    with pytest.warns(UserWarning, match=match) as warned:
        adapters.from_flax(build(), X, key=KEY)
    assert [w.filename for w in warned] == [__file__]


class Constant(nn.Module):
    """A state that is no running statistics, and stays as it is."""

    @nn.compact
    def __call__(self, x):
        return x * self.variable("constants", "scale", jnp.ones, 3).value[None]


def test_other_state_may_stay():
    adapters.from_flax(Constant(), X, key=KEY)  # warnings are errors


def mixing(function):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(nn.Dense(4)(x))

    return Model()


MIXING = {
    "centered": lambda x: x - x.mean(0, keepdims=True),
    "normalized": lambda x: x / jnp.linalg.norm(x),
    "attention over the batch": lambda x: jax.nn.softmax(x @ x.T) @ x,
    "ranked": lambda x: jnp.sort(x, axis=0),
    "inside jit": jax.jit(lambda x: x - x.max(0, keepdims=True)),
    "in a loop": lambda x: jax.lax.fori_loop(
        0, 3, lambda _, x: x - x.mean(0, keepdims=True), x
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_outputs_that_depend_on_other_inputs_are_refused(name):
    with pytest.raises(InputError, match=r"depends on the others in the batch"):
        adapters.from_flax(mixing(MIXING[name]), X, key=KEY)


def one_size(x):
    assert len(x) == 5
    return x.sum(0, keepdims=True) + x


APART = {
    "normalized": lambda x: x - x.mean(1, keepdims=True),
    "softmax": jax.nn.softmax,
    "batch merged with another axis": lambda x: x.reshape(-1, 2).sum(1).reshape(-1, 2),
    "a mean that nobody reads": lambda x: (x.mean(), x)[1],
    "scan over time": lambda x: jax.lax.scan(lambda c, y: (c + y, c), x * 0, x[None])[
        0
    ],
    "examples one by one": lambda x: jax.lax.map(jnp.sum, x),
    "joined": lambda x: jnp.concatenate([x, x], axis=1),
    "of one size": one_size,  # cannot be judged
}


@pytest.mark.parametrize("name", APART)
def test_what_keeps_examples_apart_is_not_refused(name):
    net, params, state = adapters.from_flax(mixing(APART[name]), X, key=KEY)
    net(params, state, X, train=False, key=KEY)

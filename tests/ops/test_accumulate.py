"""A step computed in parts of its batch against the same step at once."""

import dataclasses
import functools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import assert_close, jit

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.data.augment import crop_and_flip
from ssvi_jax.methods.algorithms.member_batches import MemberBound, Tiled
from ssvi_jax.networks import adapters, rank1_factors
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.networks.rank1_priors import FastPrior
from ssvi_jax.ops import accumulate, custom_calls, shard
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.execution import Execution
from ssvi_jax.vi.likelihoods import Categorical

BATCH, PARTS = 12, 3
KEY = jax.random.key(5)


class Net(nn.Module):
    """A convolution and a dense layer on every pixel."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        """Maps ``[batch, 6, 6, 1]`` to logits ``[batch, 3]``."""
        x = nn.Conv(4, (3, 3), name="conv")(jnp.asarray(x, jnp.float32))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(3, name="pixels")(nn.tanh(x)).mean((1, 2))


@functools.cache
def initial(norm):
    """A model, and its parameters and running statistics."""
    model = adapters.LinenModel(Net(norm))
    return model, *model.init(KEY, jnp.zeros((1, 6, 6, 1)))


def problem(
    *, wrap=None, norm=False, points=False, backend="xla", accumulate=1, **options
):
    """Inference, a function that makes its state, masks, and data."""
    x = jax.random.normal(KEY, (40, 6, 6, 1))
    labels = jax.random.randint(KEY, (40,), 0, 3)
    model, params, model_state = initial(norm)
    apply_fn = network = model if wrap is None else wrap(model)
    if isinstance(network, rank1_factors.Rank1):
        params = network.add(params, model_state, x[:1], KEY)
        prior = FastPrior("cauchy", 0.5)
        options["params_kl"] = lambda params, key: network.kl(prior, params, key)
    if options.pop("tile", False):
        apply_fn = Tiled(network, 3)
        options["likelihood"] = MemberBound(Categorical(), "mixture")
    inference = vi.VI(
        apply_fn,
        optax.sgd(0.3, momentum=0.9),
        num_data=40,
        augment=partial(crop_and_flip, pad=1, flip=True),
        execution=Execution(backend, accumulate=accumulate),
        **options,
    )
    shapes = inference.kernel_shapes(params)
    masks = masks_lib.create(shapes, 0.4, np.random.default_rng(0))
    init = partial(
        *(inference.init, KEY, params, model_state, masks),
        sigma_init=None if points else (0.3, 0.1),
    )
    return inference, init, masks, (x, labels)


def in_parts_of(inference, number):
    """The same training step, computed in so many parts."""
    execution = dataclasses.replace(inference.execution, accumulate=number)
    return dataclasses.replace(inference, execution=execution)


def outcome(inference, init, masks, data):
    """State and metrics of two steps."""
    rows = np.arange(2 * BATCH, dtype=np.int32).reshape(2, BATCH)
    steps = jit(lambda state: inference.steps(state, subspace, data, rows))
    subspace = masks_lib.to_subspace(masks)
    state, traces = steps(init())
    return state._replace(key=jax.random.key_data(state.key)), traces


class Dropping:
    """A network with the library's own dropout."""

    def __init__(self, model):
        self.model = model

    def __call__(self, params, model_state, x, *, train, key, kernels=None):
        """See `types.ApplyFn`."""
        options = {"kernels": kernels, "dropout": Dropout(0.3, key)}
        return self.model(params, model_state, x, train=train, key=key, **options)


def members(posterior):
    return lambda model: rank1_factors.Rank1(
        model, rank1_factors.Rank1Spec(3, posterior)
    )


POINTS = {"points": True, "estimator": "weight_sample"}
CASES = {
    "local_reparam": {},
    "flipout": {"estimator": "flipout"},
    "weight_sample": {"estimator": "weight_sample"},
    "dropout": {"wrap": Dropping, **POINTS},
    "rank1": {"wrap": members("gaussian"), **POINTS},
    "batch_ensemble": {"wrap": members("point"), **POINTS},
    "tile": {"wrap": members("cauchy"), "tile": True, **POINTS},
    "noisy tile": {"wrap": members("point"), "tile": True},
}
if custom_calls.available():
    CASES["sparse"] = {"backend": "sparse"}


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_parts_is_that_at_once(case):
    inference, *operands = problem(**CASES[case])
    in_parts = in_parts_of(inference, PARTS)
    assert_close(outcome(in_parts, *operands), outcome(inference, *operands), 2e-6)


def test_a_dense_gradient_in_parts_is_that_at_once():
    inference, init, masks, data = problem()
    rows = np.arange(2 * BATCH).reshape(2, BATCH)
    state, subspace = init(), masks_lib.to_subspace(masks)
    found = [
        jit(in_parts_of(inference, number).growth, static_argnums=4)(
            state, subspace, data, rows, "local_reparam"
        )
        for number in (1, PARTS)
    ]
    assert_close(found[1], found[0], 1e-6)


class LinenDropout(nn.Module):
    """Half of the inputs."""

    @nn.compact
    def __call__(self, x, *, train):
        """Maps ``[batch, n]`` to the same shape."""
        return nn.Dropout(0.5, deterministic=not train)(x)


class NnxDropout(nnx.Module):
    """The same in the other library."""

    def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        """Maps ``[batch, n]`` to the same shape."""
        return self.dropout(x)


@pytest.mark.parametrize(
    "model",
    [adapters.LinenModel(LinenDropout()), adapters.NnxModel(NnxDropout())],
    ids=["linen", "nnx"],
)
def test_no_two_parts_drop_the_same_with_flax(model):
    @jit
    def dropped(i):
        with shard.part(i, 2):
            return model({}, {}, jnp.ones((2, 64)), train=True, key=KEY)[0]

    first, again, second = (np.asarray(dropped(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.3 < np.mean(first != second) < 0.7


def test_batch_norm_is_that_of_parts():
    inference, init, masks, (x, labels) = problem(norm=True, points=True)
    plain = dataclasses.replace(inference, augment=None, estimator="weight_sample")
    subspace, state = masks_lib.to_subspace(masks), init()
    trainable = vi.Trainable(state.posterior, state.params)
    batch = x[:BATCH], labels[:BATCH]

    @jit
    def one(batch):
        operands = (trainable, state.model_state, subspace, batch, KEY, state.step)
        return plain.negative_elbo(*operands)

    parts = [
        one((x[i : i + BATCH // PARTS], labels[i : i + BATCH // PARTS]))
        for i in range(0, BATCH, BATCH // PARTS)
    ]
    in_parts = in_parts_of(plain, PARTS)
    new, metrics = jit(in_parts.update)(state, subspace, batch)
    loss, aux = jax.tree.map(lambda *v: np.mean(v, axis=0), *parts)
    assert_close((metrics, new.model_state), aux, 1e-6)
    assert abs(float(loss - one(batch)[0])) > 1e-4


def test_it_needs_less_memory():
    def temporaries(number):
        model = adapters.LinenModel(Net())
        params, model_state = model.init(KEY, jnp.zeros((1, 16, 16, 1)))
        execution = Execution("xla", accumulate=number)
        inference = vi.VI(model, optax.sgd(0.1), 99, execution=execution)
        masks = masks_lib.create(
            inference.kernel_shapes(params), 0.5, np.random.default_rng(0)
        )
        state = inference.init(KEY, params, model_state, masks)
        subspace = masks_lib.to_subspace(masks)
        data = jnp.zeros((128, 16, 16, 1), jnp.uint8), jnp.zeros(128, jnp.int32)
        rows = np.zeros((2, 128), np.int32)
        sizes = []
        for function in (inference._scan, inference._dense_gradient):
            options = ("local_reparam",) * (len(sizes) == 1)
            lowered = function.lower(inference, state, subspace, data, rows, *options)
            memory: Any = lowered.compile().memory_analysis()
            sizes.append(memory.temp_size_in_bytes)
        return np.array(sizes)

    at_once, in_parts = temporaries(1), temporaries(8)
    # The batch itself, 32 kB, is not cut.
    assert (in_parts - 2**15 < 0.2 * at_once).all(), (at_once, in_parts)


def test_integers_are_not_averaged():
    def count(part):
        return {"number": jnp.int32(len(part)), "mean": part.mean(0)}

    batch = jnp.arange(12.0).reshape(6, 2)
    found = accumulate.mean(count, batch, 3)
    np.testing.assert_array_equal(found["mean"], [5.0, 6.0])
    assert (found["number"], found["number"].dtype) == (2, jnp.int32)


@pytest.mark.parametrize("number", [1, 3])
def test_what_each_example_gets_stays_in_order(number):
    batch = jnp.arange(12.0)
    found = accumulate.each(lambda part: part + shard.numbers(len(part)), batch, number)
    np.testing.assert_array_equal(found, 2 * batch)


def test_parts_that_do_not_divide_a_batch_are_refused():
    inference, init, masks, data = problem(accumulate=5)
    rows = np.zeros((1, BATCH), np.int32)
    message = r"^accumulate: got 5 parts of a batch of 12, allowed: .* divides"
    for function in (inference.inner_loop, inference.dense_gradient):
        with pytest.raises(InputError, match=message):
            function(init(), masks, data, rows)
    with pytest.raises(InputError, match="accumulate: got 0"):
        in_parts_of(inference, 0)

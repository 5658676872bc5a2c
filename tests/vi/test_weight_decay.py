"""Weight decay acts on means; sigma is left to the prior."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from tiny import assert_close, assert_equal, host, jit, mlp_params, mlp_problem

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Point
from ssvi_jax.methods.algorithms import ivon_step as ivon
from ssvi_jax.vi import Trainable, means_only
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.weight_decay import seen

WARMUP = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)


def stepped(tx, **options):
    """A posterior after three steps as `vi.VI.update` makes them, by any gradient."""
    _, state, _, _ = mlp_problem(tx=tx, **options)
    trainable, opt_state = Trainable(state.posterior, state.params), state.opt_state
    update, rng = jit(tx.update), np.random.default_rng(0)
    for _ in range(3):
        grads = jax.tree.map(
            lambda a: jnp.array(rng.normal(size=a.shape), a.dtype), trainable
        )
        given = seen(trainable, hides_rho=state.traits.hides_rho)
        updates, opt_state = update(grads, opt_state, given)
        trainable = jax.tree.map(jnp.add, trainable, updates)
    return host(trainable).posterior


def l2(mask=None):
    return optax.add_decayed_weights(0.1, mask)


DECAYING = {  # mask of the decay → optimizer
    "adamw": lambda mask: optax.adamw(0.1, weight_decay=0.1, mask=mask),
    "a rate from 0": lambda mask: optax.adamw(WARMUP, weight_decay=0.1, mask=mask),
    "lion": lambda mask: optax.lion(0.1, weight_decay=0.1, mask=mask),
    "sgd": lambda mask: optax.chain(l2(mask), optax.sgd(0.1, momentum=0.9)),
    "clipped": lambda mask: optax.chain(
        optax.clip_by_global_norm(1.0), l2(mask), optax.sgd(0.1), optax.clip(0.01)
    ),
    "wrapped": lambda mask: optax.MultiSteps(optax.adamw(0.1, mask=mask), 2),
    "conditional": lambda mask: optax.apply_if_finite(optax.adamw(0.1, mask=mask), 2),
    "injected": lambda mask: optax.inject_hyperparams(
        lambda rate: optax.adamw(rate, weight_decay=0.1, mask=mask)
    )(rate=0.1),
    "ademamix": lambda mask: contrib.ademamix(0.1, weight_decay=0.1, mask=mask),
}


@pytest.mark.parametrize("name", DECAYING)
def test_decay_is_that_of_the_means(name):
    without, with_mask = (stepped(DECAYING[name](mask)) for mask in (None, means_only))
    assert_equal(without, with_mask)
    everything = stepped(DECAYING[name](None), decay_sigma=True)
    for path, packed in without.items():
        assert (everything[path].rho != packed.rho).any()  # it would decay, if asked


def test_sigma_trains_as_it_does_without_decay():
    found = []
    for decay in (0.0, 0.5):
        tx = optax.adamw(0.1, weight_decay=decay)
        inference, state, masks, data = mlp_problem(tx=tx)
        start, update = host(state.posterior), jit(inference.update)
        found.append(update(state, masks_lib.to_subspace(masks), data)[0].posterior)
    for path, before in start.items():
        plain, decayed = (posterior[path] for posterior in found)
        np.testing.assert_array_equal(decayed.rho, plain.rho)
        pull = 0.1 * 0.5 * before.mean
        np.testing.assert_allclose(plain.mean - decayed.mean, pull, atol=1e-6)


def test_points_decay():
    inference, full, masks, _ = mlp_problem(tx=optax.adamw(0.1))
    state = inference.init(
        jax.random.key(0), mlp_params(), full.model_state, masks, sigma_init=None
    )
    assert isinstance(state.posterior["a/kernel"], Point)
    assert not state.traits.hides_rho  # it has none


IVON = ivon.Ivon(lambda step: 0.1, ess=12).transformation()
NEEDING = {
    "parameter scale": optax.adafactor(0.1),
    "trust ratio": optax.lamb(0.1),
    "copies": contrib.schedule_free_sgd(0.1),
    "distance": contrib.dog(1.0),
    "hessian": IVON,
}


@pytest.mark.parametrize("name", NEEDING)
def test_an_optimizer_that_needs_rho_gets_it(name):
    _, state, _, _ = mlp_problem(tx=NEEDING[name])
    assert not state.traits.hides_rho


def test_the_step_is_the_optimizers_own():
    """Of Adafactor, which scales the step of rho by the size of rho."""
    tx = optax.adafactor(0.1)
    inference, state, masks, data = mlp_problem(tx=tx)
    trainable = Trainable(state.posterior, state.params)
    sub = masks_lib.to_subspace(masks)

    @jit
    def by_hand(trainable):
        key = jax.random.split(jax.random.fold_in(state.key, state.step))[1]
        loss = jax.grad(inference.negative_elbo, has_aux=True)
        grads, _ = loss(trainable, state.model_state, sub, data, key, state.step)
        updates, _ = tx.update(grads, tx.init(trainable), trainable)
        return optax.apply_updates(trainable, updates)

    new, _ = jit(inference.update)(state, sub, data)
    assert_close((new.posterior, new.params), tuple(by_hand(trainable)), 1e-6)


REFUSED = {  # with decay, needs rho for more than that: mask of the decay → optimizer
    "before moments": lambda mask: optax.chain(l2(mask), optax.adam(0.1)),
    "trust ratio": lambda mask: optax.lamb(0.1, weight_decay=0.1, mask=mask),
    "parameter scale": lambda mask: optax.adafactor(
        0.1, weight_decay_rate=0.1, weight_decay_mask=mask or True
    ),
    "a rate from 0": lambda mask: optax.chain(l2(mask), optax.adam(WARMUP)),
    "copies": lambda mask: contrib.schedule_free(
        optax.chain(l2(mask), optax.sgd(0.1)), 0.1
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_decay_that_cannot_be_left_out_is_refused(name):
    make = REFUSED[name]
    with pytest.raises(InputError, match=r"^tx: its weight decay .* vi.means_only"):
        mlp_problem(tx=make(None))
    mlp_problem(tx=make(means_only))
    mlp_problem(tx=make(None), decay_sigma=True)


def test_the_mask_is_of_rhos_only():
    _, state, _, _ = mlp_problem()
    mask = means_only(Trainable(state.posterior, state.params))
    assert all(packed == (True, False) for packed in mask.posterior.values())
    assert all(jax.tree.leaves(mask.params))

"""Any optimizer's state follows its coordinates, or is refused before they move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from tiny import host, mlp_problem

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.methods.algorithms import sgd as optimizers
from ssvi_jax.vi import Trainable, means_only, subspace

BATCHES = np.arange(12, dtype=np.int32).reshape(3, 4)


def swap(state, masks, rate=0.5):
    rng = np.random.default_rng(0)
    rule = subspace.Rule(addition="random")
    return subspace.removal_addition(state, masks, None, rate=rate, rng=rng, rule=rule)


def filled(state):
    """The state with random numbers for everything that the optimizer keeps."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.array(rng.normal(size=leaf.shape), leaf.dtype)

    return state._replace(opt_state=jax.tree.map(fill, state.opt_state))


def flat(tree):
    """Path in the tree → leaf on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(host(tree))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


OPTIMIZERS = {  # and how many leaves of a kernel it has, of mean and rho together
    "moments": (optax.adam(0.1), 4),
    "moments in half": (optax.adam(0.1, mu_dtype=jnp.bfloat16), 4),
    "partition": (optimizers.sgd(0.1, sigma_learning_rate=0.01), 2),
    "masked": (optax.masked(optax.adam(0.1), means_only), 2),
    "wrapped": (optax.MultiSteps(optax.adam(0.1), 2), 6),
    "accumulator from 0.1": (optax.adagrad(0.1), 2),
    "accumulator from 1e-6": (optax.yogi(0.1), 4),
    "step sizes": (optax.rprop(0.3), 4),
    "copy": (contrib.schedule_free_adamw(0.1), 4),
    "copy in half": (
        contrib.schedule_free_sgd(0.1, state_dtype=jnp.bfloat16),
        2,
    ),
    "first point": (contrib.dog(0.1), 2),
    "copy and moments": (contrib.prodigy(0.1), 8),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_coordinate_finds_what_it_would_have_started_with(name):
    """What `tx.init` gives on the new posterior; all others keep what they have."""
    tx, number = OPTIMIZERS[name]
    _, state, masks, _ = mlp_problem(tx=tx)
    state = filled(state)
    before, old_masks = flat(state.opt_state), masks
    state, masks, _ = swap(state, masks)
    after = flat(state.opt_state)
    fresh = flat(tx.init(Trainable(state.posterior, state.params)))
    assert before.keys() == after.keys() == fresh.keys()
    for path, mask in masks.items():
        own = [where for where in after if f"posterior['{path}']" in where]
        assert len(own) == number
        old, new = (np.flatnonzero(m) for m in (old_masks[path], mask))
        place = {int(flat): rank for rank, flat in enumerate(old)}
        assert any(int(flat) not in place for flat in new)
        for where in own:
            for rank, flat_index in enumerate(map(int, new)):
                if flat_index in place and state.posterior[path].mean[rank] != 0:
                    assert after[where][rank] == before[where][place[flat_index]]
                else:
                    assert after[where][rank] == fresh[where][rank]
    others = [where for where in after if "posterior" not in where]
    for where in others:
        np.testing.assert_array_equal(after[where], before[where])


def test_sigma_stays_what_it_is_under_schedule_free():
    """Its step goes from a copy of the parameters, which must follow a swap."""
    rate = 1e-7
    tx = contrib.schedule_free_adamw(rate)
    inference, state, masks, data = mlp_problem(tx=tx)
    for _ in range(3):
        state, _ = inference.inner_loop(state, masks, data, BATCHES)
        state, masks, _ = swap(state, masks)
    start = jax.tree.map(np.array, state.posterior)
    state, _ = inference.inner_loop(state, masks, data, BATCHES)
    for path, packed in state.posterior.items():
        before = start[path]
        assert isinstance(packed, Gaussian)
        assert isinstance(before, Gaussian)
        # Three steps of Adam change rho by little more than three rates.
        np.testing.assert_allclose(packed.rho, before.rho, atol=10 * rate + 1e-6)
        np.testing.assert_allclose(packed.mean, before.mean, atol=10 * rate + 1e-6)


LOST = {
    "flat moments": (optax.flatten(optax.adam(0.1)), r"ScaleByAdamState \(at \[0\].mu"),
    "flat momentum": (optax.flatten(optax.sgd(0.1, 0.9)), r"TraceState"),
    "stacked histories": (
        optax.chain(optax.scale_by_lbfgs(memory_size=3), optax.scale(-0.1)),
        r"ScaleByLBFGSState",
    ),
    "lists of accumulators": (optax.sm3(0.1), r"ScaleBySM3State"),
    "what is no copy": (
        optax.GradientTransformation(
            lambda params: optax.TraceState(jax.tree.map(jnp.abs, params)),
            lambda updates, state, params=None: (updates, state),
        ),
        r"TraceState \(at .trace",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_a_state_that_cannot_follow_is_refused_at_a_swap(name):
    tx, words = LOST[name]
    _, state, masks, _ = mlp_problem(tx=tx)  # it may train
    with pytest.raises(InputError, match="tx: got an optimizer with " + words):
        swap(state, masks)
    with pytest.raises(InputError, match=words):
        subspace.prune(state, masks, masks)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "tx",
    [
        optax.sgd(0.1),
        optax.flatten(optax.sgd(0.1)),  # it keeps nothing
        optax.sgd(optax.cosine_decay_schedule(0.1, 10)),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
        optax.noisy_sgd(0.1, key=0),
    ],
)
def test_counts_and_numbers_are_no_obstacle(tx):
    _, state, masks, _ = mlp_problem(tx=tx)
    _, new, _ = swap(state, masks)
    assert any((new[path] != masks[path]).any() for path in masks)


UNUSABLE = {
    "other parameters": (optax.lookahead(optax.sgd(0.1), 5, 0.5), "AttributeError"),
    "line search": (optax.lbfgs(), "value_fn"),
    "other updates": (
        optax.GradientTransformation(
            lambda params: optax.EmptyState(),
            lambda updates, state, params=None: (updates.params, state),
        ),
        "needed: that of vi.Trainable",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_optimizer_of_something_else_is_refused_at_once(name):
    tx, words = UNUSABLE[name]
    with pytest.raises(InputError, match=rf"^tx: .*{words}"):
        mlp_problem(tx=tx)


def test_the_state_of_another_optimizer_is_refused():
    _, state, masks, _ = mlp_problem(tx=optax.sgd(0.1))
    _, other, _, _ = mlp_problem(tx=optax.adam(0.1))
    with pytest.raises(InputError, match=r"state.opt_state: got the state of another"):
        swap(state._replace(opt_state=other.opt_state), masks)
    swap(state._replace(opt_state=other.opt_state, traits=other.traits), masks)


def test_a_placeholder_is_not_taken_for_a_kernel_of_one_weight():
    """Adafactor keeps ``[1]`` where it does not factor."""
    inference, state, masks, _ = mlp_problem(tx=optax.adafactor(0.1))
    masks = {path: np.zeros_like(mask) for path, mask in masks.items()}
    for mask in masks.values():
        mask[0, 0] = True
    params = {
        name: {"kernel": jnp.zeros(masks[f"{name}/kernel"].shape), **rest}
        for name, rest in state.params.items()
    }
    state = inference.init(jax.random.key(0), params, state.model_state, masks)
    state = filled(state)
    before = flat(state.opt_state)
    assert {before[w].shape for w in before if "v_row.posterior" in w} == {(1,)}
    state, _, _ = swap(state, masks, rate=1.0)
    after = flat(state.opt_state)
    for where in before:
        if ".v_row.posterior" in where:
            np.testing.assert_array_equal(after[where], before[where])


def test_states_of_equal_optimizers_are_alike():
    """What is known of an optimizer is compared by value, so trees line up."""
    one, two = (mlp_problem(tx=contrib.schedule_free_adamw(0.1))[1] for _ in range(2))
    assert one.traits == two.traits
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert one.traits != mlp_problem(tx=optax.adamw(0.1))[1].traits

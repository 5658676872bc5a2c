"""Layers to swap in, and whole swaps of a small problem."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssvi_jax.vi import subspace

TIED = st.sampled_from([-0.0, 0.0, 0.5, 1.0, np.inf])


@st.composite
def layers(draw):
    """A mask, removal and addition scores with many ties, and a possible count."""
    shape = draw(st.sampled_from([(1, 1), (3, 4), (2, 2, 1, 3), (7, 2)]))
    mask = draw(hnp.arrays(bool, shape))
    kept = int(mask.sum())
    removal = draw(hnp.arrays(np.float64, kept, elements=TIED))
    finite = st.sampled_from([0.0, 0.25, 1.0])
    addition = draw(hnp.arrays(np.float32, shape, elements=finite))
    return mask, removal, addition, draw(st.integers(0, min(kept, mask.size - kept)))


def filled(problem, seed=0):
    """The problem's state with a number of its own in every place."""
    _, state, masks, _ = problem
    leaves, tree = jax.tree.flatten((state.posterior, state.opt_state))
    rng = np.random.default_rng(seed)
    leaves = [
        jnp.array(rng.normal(size=leaf.shape), leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for leaf in leaves
    ]
    posterior, opt_state = jax.tree.unflatten(tree, leaves)
    return state._replace(posterior=posterior, opt_state=opt_state), masks


def random_gradients(masks, seed=0):
    rng = np.random.default_rng(seed)
    return {path: rng.random(mask.shape) for path, mask in masks.items()}


def swap(state, masks, *, rate=0.5, gradients=None, rng=0, **rule):
    gradients = random_gradients(masks) if gradients is None else gradients
    return subspace.removal_addition(
        state,
        masks,
        gradients,
        rate=rate,
        rule=subspace.Rule(**rule),
        rng=np.random.default_rng(rng),
    )

"""Rank-1 factors around kernels of which only some weights are stored."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rank1_networks import POINT, Net, one, pictures, wrapped
from tiny import KEY, assert_close, jit, random_weights

from ssvi_jax.core import trees
from ssvi_jax.core.types import Weights
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi.forward import forward


def test_sparse_kernels_are_multiplied_where_they_are_kept():
    x = pictures()
    _, params, net, more, state = wrapped(Net(), x, num_members=2, **POINT)
    packed, sub = random_weights(params, state, sigma=0.3)
    _, rest = trees.split(more)
    full = {
        path: jnp.zeros(shape)
        .at[np.unravel_index(sub.index[path], shape)]
        .set(packed.posterior[path].mean)
        for path, shape in sub.shapes
    }
    thin = one(net, Weights(packed.posterior, rest, state), 1, sub=sub)
    dense = one(net, Weights({}, trees.merge(rest, full), state), 1)
    flat = trees.flatten(dense.params)
    for path in sub.index:
        factor = np.asarray(thin.posterior[path].mean / packed.posterior[path].mean)
        sigma = np.logaddexp(0, thin.posterior[path].rho)
        np.testing.assert_allclose(sigma, 0.3 * np.abs(factor), rtol=1e-4)
        values = flat[path].reshape(-1)[sub.index[path]]
        assert_close(thin.posterior[path].mean, values)


@pytest.mark.skipif(
    not custom_calls.available(), reason="the sparse kernels do not run here"
)
def test_the_sparse_kernels_take_factors_too():
    """Loss and gradients of factors and kept weights are those of dense products."""
    x = pictures()
    _, params, net, more, state = wrapped(Net(), x, num_members=2)
    packed, sub = random_weights(params, state, sigma=0.3)
    _, rest = trees.split(more)

    def loss(rest, packed, backend):
        weights = Weights(packed, rest, state)
        options = {"estimator": "local_reparam", "train": True, "backend": backend}
        logits, _ = forward(net, weights, sub, x, key=KEY, **options)
        return jnp.sum(jnp.sin(logits))

    grad = jax.value_and_grad(loss, argnums=(0, 1))
    dense, ours = (
        jit(partial(grad, backend=name))(rest, packed.posterior)
        for name in ("xla", "sparse")
    )
    assert_close(dense, ours, 1e-4)

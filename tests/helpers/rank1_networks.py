"""A small network with rank-1 members, and its pieces."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from tiny import KEY, from_flax, jit

from ssvi_jax.core.types import Subspace
from ssvi_jax.networks.rank1_factors import Rank1, Rank1Spec

NOWHERE = Subspace({}, ())


POINT = {"posterior": "point", "init": "normal"}


class Net(nn.Module):
    """A convolution, batch norm and a dense layer, each with a bias."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(6, (3, 3), strides=2, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(3, name="out")(x.reshape(x.shape[0], -1))


def wrapped(module, x, **spec):
    """(plain network, its parameters, K members, their parameters, running state)."""
    plain, params, model_state = from_flax(module, x)
    net = Rank1(plain, Rank1Spec(**spec))
    more = jit(partial(net.add, x=x))(params, model_state, key=KEY)
    return plain, params, net, more, model_state


def one(net, weights, member, key=None, sub=NOWHERE):
    """The weights of one member, jitted."""
    return jit(net.one)(weights, sub, member, key)[0]


def pictures(number=4, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(number, 6, 7, 4)), jnp.float32)

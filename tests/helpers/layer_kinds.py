"""Layers of every kind, by whether they have the local reparameterization."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from ssvi_jax.core import trees


def call(function):
    """A linen module of a function of the inputs, which may make submodules."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(x)

    return Model


def scanned(x):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return nn.tanh(nn.Dense(6)(carry)), None

    lift = nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )
    return lift()(x, None)[0]


def shared_vmap(x):
    lift = nn.vmap(
        nn.Dense, variable_axes={"params": None}, split_rngs={"params": False}
    )
    return lift(2)(x)


def triangle(shape):
    return jnp.tril(jnp.ones(shape))


PICTURE, LINE, ROW = (6, 7, 4), (8, 4), (6,)


LOCAL = {  # layers that have the local reparameterization
    "dense": (lambda: nn.Dense(3), ROW),
    "dense on a sequence": (lambda: nn.Dense(3, use_bias=False), LINE),
    "general": (lambda: nn.DenseGeneral((2, 3), axis=(-2, -1)), LINE),
    "attention": (lambda: nn.MultiHeadDotProductAttention(2), LINE),
    "conv": (lambda: nn.Conv(3, (3, 3)), PICTURE),
    "strided": (lambda: nn.Conv(3, (3, 2), strides=(2, 3)), PICTURE),
    "valid": (lambda: nn.Conv(3, (3, 3), padding="VALID"), PICTURE),
    "circular": (lambda: nn.Conv(3, (3, 3), padding="CIRCULAR"), PICTURE),
    "reflect": (lambda: nn.Conv(3, (3, 3), padding="REFLECT"), PICTURE),
    "padded": (lambda: nn.Conv(3, (3, 3), padding=((0, 2), 1)), PICTURE),
    "dilated": (lambda: nn.Conv(3, (2, 2), kernel_dilation=(2, 3)), PICTURE),
    "grouped": (lambda: nn.Conv(6, (3, 3), feature_group_count=2), PICTURE),
    "conv over a line": (lambda: nn.Conv(3, (3,), padding="CAUSAL"), LINE),
    "conv in space": (lambda: nn.Conv(2, (2, 2, 2)), (3, 3, 3, 2)),
    "conv on a sequence": (lambda: nn.Conv(2, (3,)), (2, 5, 3)),
    "named layers": (lambda: nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(3)]), ROW),
    "half precision": (lambda: nn.Dense(3, dtype=jnp.bfloat16), ROW),
    "half conv": (lambda: nn.Conv(3, (3,), dtype=jnp.bfloat16), LINE),
}


SAMPLED = {  # layers that see the sampled weights
    "general, inner axis": (lambda: nn.DenseGeneral(3, axis=1), LINE),
    "einsum": (lambda: nn.Einsum((4, 3), "abc,cd->abd"), LINE),
    "transposed": (lambda: nn.ConvTranspose(3, (3, 3)), PICTURE),
    "upsampled": (lambda: nn.Conv(3, (3,), 1, 1, input_dilation=2), LINE),
    "unshared": (lambda: nn.ConvLocal(3, (3,)), LINE),
    "masked": (lambda: nn.Conv(3, (3,), mask=triangle((3, 4, 3))), LINE),
    "scanned": (lambda: call(scanned)(), ROW),
    "vectorized": (lambda: call(shared_vmap)(), ROW),
    "remat": (lambda: nn.remat(nn.Dense)(3), ROW),
    "jit": (lambda: nn.jit(nn.Dense)(3), ROW),
    "weight norm": (lambda: nn.WeightNorm(nn.Dense(3)), ROW),
    "recurrent": (lambda: nn.RNN(nn.SimpleCell(3)), LINE),
    "own product": (lambda: nn.Dense(3, dot_general=jax.lax.dot_general), ROW),
    "own product class": (
        lambda: nn.Dense(3, dot_general_cls=lambda: jax.lax.dot_general),
        ROW,
    ),
}


class NnxConvs(nnx.Module):
    """Convolutions whose results are added."""

    def __init__(self, rngs):
        options = [{}, {"kernel_dilation": 2}, {"feature_group_count": 2}]
        self.convs = nnx.List([nnx.Conv(4, 2, (3, 3), **o, rngs=rngs) for o in options])

    def __call__(self, x):
        return sum(conv(x) for conv in self.convs)


class NnxVectorized(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return nnx.vmap(lambda m, row: m(row), in_axes=(None, 0))(self.layer, x)


class NnxScanned(nnx.Module):
    def __init__(self, rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))
        self.layers = make(rngs.split(3))

    def __call__(self, x):
        step = nnx.scan(
            lambda x, m: nnx.tanh(m(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
        )
        return step(x, self.layers)


def nnx_weight_norm():
    rngs = nnx.Rngs(0)
    return nnx.WeightNorm(nnx.Linear(6, 3, rngs=rngs), rngs=rngs)


def nnx_attention():
    return nnx.MultiHeadAttention(2, 4, 4, decode=False, rngs=nnx.Rngs(0))


KINDS = {name: (*entry, True) for name, entry in LOCAL.items()}


def plain_output(module, params, x):
    """What Flax itself computes."""
    if isinstance(module, nn.Module):
        return module.apply({"params": params}, x)
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        variable.set_value(trees.flatten(params)[trees.join(path)])
    return module(x)


LOCAL |= {
    "nnx linear": (lambda: nnx.Linear(6, 3, rngs=nnx.Rngs(0)), ROW),
    "nnx general": (
        lambda: nnx.LinearGeneral((8, 4), (2, 3), axis=(-2, -1), rngs=nnx.Rngs(0)),
        LINE,
    ),
    "nnx attention": (nnx_attention, LINE),
    "nnx convs": (lambda: NnxConvs(nnx.Rngs(0)), PICTURE),
    "nnx half": (lambda: nnx.Linear(6, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), ROW),
}
SAMPLED |= {
    "nnx masked": (
        lambda: nnx.Conv(4, 3, (3,), mask=triangle((3, 4, 3)), rngs=nnx.Rngs(0)),
        LINE,
    ),
    "nnx einsum": (
        lambda: nnx.Einsum("abc,cd->abd", (4, 3), (3,), rngs=nnx.Rngs(0)),
        LINE,
    ),
    "nnx weight norm": (nnx_weight_norm, ROW),
    "nnx vectorized": (lambda: NnxVectorized(nnx.Rngs(0)), ROW),
    "nnx scanned": (lambda: NnxScanned(nnx.Rngs(0)), ROW),
    "nnx own product": (
        lambda: nnx.Linear(
            6, 3, dot_general=lambda *a, **k: jax.lax.dot_general(*a), rngs=nnx.Rngs(0)
        ),
        ROW,
    ),
}
KINDS |= {name: (*entry, False) for name, entry in SAMPLED.items()}

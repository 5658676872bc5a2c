"""How networks apply their kernels: which axes of which, how often, and in which order.

What is right was counted by hand, from what each layer is documented to compute.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tiny import KEY

from ssvi_jax.networks import adapters

ROW, LINE, PICTURE = (6,), (5, 6), (4, 5, 6)


def model(function):
    """A linen module of a function of the inputs, which may make submodules."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(self, x)

    return Model()


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(6)(x)), None


def scanned(axis):
    options = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
    return model(lambda _, x: nn.scan(Block, length=3, **options)()(x, None)[0])


def vectorized(layer, *args, axis, **options):
    """An ensemble of four: the layer has a kernel for each, the input is one."""
    axes: Any = {"in_axes": None, "variable_axes": {"params": axis}}
    lift = nn.vmap(layer, axis_size=4, split_rngs={"params": True}, **axes)
    return model(lambda _, x: lift(*args, **options)(x))


def by_hand(self, x):
    """Kernels that no layer owns: a transposed one, and the second of a stack."""
    init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (7, 6))
    stack = self.param("stack", init, (3, 7, 2))
    return x @ kernel.T @ stack[1]


def tied(self, x):
    embed = nn.Embed(9, 6)
    y = embed(jnp.argmax(x, axis=-1))
    return embed.attend(y)


def latent(self, x):
    """Learned queries, so a product of parameters with parameters."""
    queries = self.param("queries", nn.initializers.normal(), (2, 6))
    queries = jnp.broadcast_to(queries, (len(x), 2, 6))
    return nn.MultiHeadDotProductAttention(3)(queries, x)


def learned_start(self, x):
    """A recurrent cell by hand, whose first state is a parameter."""
    init = nn.initializers.lecun_normal()
    first = self.param("first", init, (1, 3))
    into, again = (self.param(f"from{n}", init, (n, 3)) for n in (6, 3))

    def step(state, inputs):
        return jnp.tanh(inputs @ into + state @ again), None

    start = jnp.broadcast_to(first, (len(x), 3))
    return jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[0]


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.SpectralNorm(nn.Dense(4, name="spectral"))(x, update_stats=train)
        return nn.WeightNorm(nn.Dense(3, name="weight"))(x)


LINEN = {  # what runs, its input, and (full shape, of one product, positions) of each
    "scan": (scanned(0), ROW, [((3, 6, 6), (6, 6), 1)]),
    "scan, middle axis": (scanned(1), ROW, [((6, 3, 6), (6, 6), 1)]),
    "vmap": (vectorized(nn.Dense, 2, axis=0), LINE, [((4, 6, 2), (6, 2), 5)]),
    "vmap, middle axis": (
        vectorized(nn.Dense, 2, axis=1),
        LINE,
        [((6, 4, 2), (6, 2), 5)],
    ),
    "vmap of a convolution": (
        vectorized(nn.Conv, 2, (3, 3), axis=0),
        PICTURE,
        [((4, 3, 3, 6, 2), (3, 3, 6, 2), 4 * 5)],
    ),
    "heads": (
        model(lambda _, x: nn.MultiHeadDotProductAttention(3)(x)),
        LINE,
        [*[((6, 3, 2), (6, 6), 5)] * 3, ((3, 2, 6), (6, 6), 5)],
    ),
    "general": (nn.DenseGeneral(2, axis=(-2, -1)), LINE, [((5, 6, 2), (30, 2), 1)]),
    "depthwise": (
        nn.Conv(6, (3, 3), feature_group_count=6),
        PICTURE,
        [((3, 3, 1, 6), (3, 3, 1, 6), 4 * 5)],
    ),
    "local": (
        nn.ConvLocal(2, (3, 3), padding="VALID"),
        PICTURE,
        [((2, 3, 54, 2), (54, 2), 1)],
    ),
    "transposed": (
        nn.ConvTranspose(2, (3,), strides=(2,)),
        LINE,
        [((3, 6, 2), (3, 6, 2), 10)],
    ),
    "einsum by head": (
        nn.Einsum((5, 6, 2), "bti,tio->bto"),
        LINE,
        [((5, 6, 2), (6, 2), 1)],
    ),
    "einsum, outputs first": (
        nn.Einsum((2, 6), "bti,oi->bto", use_bias=False),
        LINE,
        [((2, 6), (6, 2), 5)],
    ),
    "by hand": (
        model(by_hand),
        ROW,
        [((7, 6), (6, 7), 1), ((3, 7, 2), (7, 2), None)],
    ),
    "recurrent": (
        nn.RNN(nn.SimpleCell(3)),
        LINE,
        [((6, 3), (6, 3), 5), ((3, 3), (3, 3), 5)],
    ),
    "fused kernels": (
        nn.RNN(nn.OptimizedLSTMCell(3)),
        LINE,
        [*[((3, 3), (3, 3), 5)] * 4, *[((6, 3), (6, 3), 5)] * 4],
    ),
    "tied": (model(tied), LINE, [((9, 6), (6, 9), None)]),
    "table": (
        model(lambda _, x: nn.Embed(9, 6)(jnp.argmax(x, axis=-1))),
        LINE,
        [((9, 6), (6, 9), None)],
    ),
    "learned start": (
        model(learned_start),
        LINE,
        [((6, 3), (6, 3), None), ((3, 3), (3, 3), None)],
    ),
    "latent": (
        model(latent),
        LINE,
        [
            *[((6, 3, 2), (6, 6), positions) for positions in (2, 5, 5)],
            ((3, 2, 6), (6, 6), 2),
        ],
    ),
    "normalized": (Normalized(), ROW, [((6, 4), (6, 4), 1), ((4, 3), (4, 3), 1)]),
    "remat and jit": (
        model(lambda _, x: nn.jit(nn.remat(nn.Dense))(2)(x)),
        ROW,
        [((6, 2), (6, 2), 1)],
    ),
}


def seen(net, params, state, x):
    """(full shape, of one product, positions; None: not called "kernel") of each."""
    positions = {layer.path: layer.positions for layer in net.layers(params, state, x)}
    return [
        (shape, shape.applied, positions.get(path))
        for path, shape in net.kernel_shapes.items()
    ]


@pytest.mark.parametrize("name", LINEN)
def test_kernels_are_seen_as_their_layers_apply_them(name):
    module, shape, expected = LINEN[name]
    x = jnp.ones((2, *shape))
    assert seen(*adapters.from_flax(module, x, key=KEY), x) == expected


class NnxNet(nnx.Module):
    """Names and definitions are not in the order of application."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        many = nnx.split_rngs(splits=3)(
            nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))
        )
        self.stem = nnx.Conv(6, 6, 3, feature_group_count=2, rngs=rngs)
        self.heads = nnx.MultiHeadAttention(3, 6, 6, decode=False, rngs=rngs)
        self.blocks = many(rngs)
        self.ends = nnx.List([nnx.Linear(6, 2, rngs=rngs) for _ in range(11)])

    def __call__(self, x):
        x = self.heads(self.stem(x))
        step = nnx.scan(
            lambda x, m: nnx.tanh(m(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
        )
        x = step(x, self.blocks)
        return sum(end(x) for end in self.ends)


NNX = {
    "stem/kernel": ((3, 3, 6), (3, 3, 6)),
    **{f"heads/{n}/kernel": ((6, 3, 2), (6, 6)) for n in ("query", "key", "value")},
    "heads/out/kernel": ((3, 2, 6), (6, 6)),
    "blocks/kernel": ((3, 6, 6), (6, 6)),
    **{f"ends/{i}/kernel": ((6, 2), (6, 2)) for i in range(11)},
}


@pytest.mark.parametrize("x", [jnp.ones((2, *LINE)), None])
def test_kernels_of_nnx_modules_are_seen_with_an_example_and_without(x):
    net, _, _ = adapters.from_flax(NnxNet(), x)
    shapes = net.kernel_shapes.items()
    assert [(path, (s, s.applied)) for path, s in shapes] == list(NNX.items())


def test_an_example_shows_the_order_that_definitions_do_not():
    class Reverse(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.a(self.b(x))

    net, params, state = adapters.from_flax(Reverse(), jnp.ones((1, 6)))
    assert list(net.kernel_shapes) == ["b/kernel", "a/kernel"]
    layers = net.layers(params, state, jnp.ones((4, 6)))
    assert [(layer.path, layer.positions) for layer in layers] == [
        ("b/kernel", 1),
        ("a/kernel", 1),
    ]

"""Where training starts: the scale that each layer needs, or trained means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits
from tiny import KEY

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, KernelShape
from ssvi_jax.networks import adapters
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior

# The scale of a layer ----------------------------------------------------------------


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(self.width, name="dense")(x)), None


class Deep(nn.Module):
    """Eight equal layers, scanned or one after the other."""

    scanned: bool
    width: int = 64

    @nn.compact
    def __call__(self, x):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        if self.scanned:
            x, _ = nn.scan(Block, length=8, **options)(self.width, name="blocks")(
                x, None
            )
        else:
            for i in range(8):
                x, _ = Block(self.width, name=f"block{i}")(x, None)
        return nn.Dense(10, name="out")(x)


def start(module, x, density, rule="erk"):
    """A VI, its first state, and the masks."""
    net, params, model_state = adapters.from_flax(module, x[:1], key=KEY)
    inference = vi.VI(net, optax.adam(2e-3), len(x))
    shapes, rng = inference.kernel_shapes(params), np.random.default_rng(0)
    masks = masks_lib.create(shapes, 1 - density, rng, rule)
    return inference, inference.init(KEY, params, model_state, masks), masks


def test_a_scanned_network_learns_as_the_looped_one_does():
    """That one reaches 0.85; with the fan-in of all layers together it stays at 0.1."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = jnp.asarray(images[order] / 8 - 1, jnp.float32)
    labels = jnp.asarray(labels[order])
    inference, state, masks = start(Deep(scanned=True), x, 0.5)
    rows = np.random.default_rng(1).integers(0, 1400, (400, 32))
    state, _ = inference.inner_loop(state, masks, (x[:1400], labels[:1400]), rows)
    params = inference.sample(state, masks, KEY)
    output, _ = inference.apply_fn(params, {}, x[1400:], train=False, key=KEY)
    assert np.mean(output.argmax(-1) == labels[1400:]) > 0.7


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(4, name="heads")(x)
        x = nn.Einsum((8, 32, 32), "bti,tio->bto", name="einsum")(x)
        return nn.ConvLocal(32, (3,), padding="VALID", name="local")(x)


class NnxStack(nnx.Module):
    def __init__(self):
        make = nnx.vmap(lambda rngs: nnx.Linear(32, 32, rngs=rngs))
        self.stack = nnx.split_rngs(splits=8)(make)(nnx.Rngs(0))

    def __call__(self, x):
        step = nnx.scan(lambda x, m: m(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return step(x, self.stack)


SCALES = {  # module, shape of an input, and the inputs that an output sums over
    "scan": (
        Deep(True, 32),
        (32,),
        {"blocks/dense/kernel": 32, "out/kernel": 32},
    ),
    "heads": (
        Heads(),
        (8, 32),
        {
            **{f"heads/{n}/kernel": 32 for n in ("query", "key", "value", "out")},
            "einsum/kernel": 32,
            "local/kernel": 3 * 32,
        },
    ),
    "nnx stack": (NnxStack(), (32,), {"stack/kernel": 32}),
    "depthwise": (
        nn.Conv(512, (3, 3), feature_group_count=512),
        (4, 4, 512),
        {"kernel": 9},
    ),
}


@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("name", SCALES)
def test_initial_means_preserve_the_variance_of_relus_in_any_layer(name, density):
    """Var(mean) · selected inputs of an output = 2, within 5 standard errors."""
    module, shape, inputs = SCALES[name]
    x = jnp.ones((2, *shape))
    for given in (x, None) if isinstance(module, nnx.Module) else (x,):
        net, params, state = adapters.from_flax(module, given, key=KEY)
        inference = vi.VI(net, optax.adam(1e-3), 1)
        shapes = inference.kernel_shapes(params)
        by_hand = {path: density for path in shapes}
        rng = np.random.default_rng(0)
        masks = masks_lib.create(shapes, None, rng, by_hand)
        started = inference.init(KEY, params, state, masks).posterior
        assert set(started) == set(inputs)
        for path, packed in started.items():
            variance = np.mean(np.square(packed.mean, dtype=np.float64))
            error = np.sqrt(2 / packed.mean.size)
            relative = variance * density * inputs[path] / 2
            assert relative == pytest.approx(1, abs=5 * error)


def test_a_plain_shape_is_that_of_a_dense_or_conv_kernel():
    mask = np.random.default_rng(0).random((3, 3, 8, 16)) < 0.5
    sub = masks_lib.to_subspace({"k": mask})
    plain = posterior.init(KEY, sub)["k"].mean
    for shape in (mask.shape, KernelShape(mask.shape)):
        same = posterior.init(KEY, sub, shapes={"k": shape})["k"].mean
        np.testing.assert_array_equal(same, plain)
    stacked = KernelShape(mask.shape, (8, 16))
    other = posterior.init(KEY, sub, shapes={"k": stacked})["k"].mean
    np.testing.assert_allclose(other, 3 * plain, rtol=1e-6)  # 9 times fewer inputs


# Densities ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["uniform", "er", "erk"])
def test_a_scanned_network_is_as_sparse_as_the_looped_one(rule):
    x, found = jnp.ones((2, 64)), []
    for scanned in (True, False):
        _, _, masks = start(Deep(scanned), x, 0.05, rule)
        total = sum(np.count_nonzero(mask) for mask in masks.values())
        found.append((np.count_nonzero(masks["out/kernel"]), total))
    assert found[0][0] == pytest.approx(found[1][0], abs=1)  # counts are whole
    assert found[0][1] == pytest.approx(found[1][1], abs=8)


class TwoConvs(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="stem")(x)
        return nn.Conv(8, (3, 3), name="block1")(x)


def test_uniform_keeps_the_convolution_dense_that_the_network_applies_first():
    _, _, masks = start(TwoConvs(), jnp.ones((2, 4, 4, 3)), 0.05, "uniform")
    assert masks["stem/kernel"].all()
    assert masks["block1/kernel"].mean() == pytest.approx(0.05, abs=0.001)


def test_uniform_takes_heads_for_no_convolution():
    _, _, masks = start(Heads(), jnp.ones((2, 8, 32)), 0.05, "uniform")
    for mask in masks.values():
        assert mask.mean() == pytest.approx(0.05, abs=0.001)


# Trained means -----------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(6, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


@pytest.mark.parametrize("sigma_init", [(6e-4, 5e-4), None])
def test_a_trained_network_is_a_start(sigma_init):
    trained = NnxNet()
    net, params, model_state = adapters.from_flax(trained)
    inference = vi.VI(net, optax.adam(1e-3), 1)
    shapes = inference.kernel_shapes(params)
    everything = {path: np.ones(shape, bool) for path, shape in shapes.items()}
    options = {"sigma_init": sigma_init, "means": params}
    state = inference.init(KEY, params, model_state, everything, **options)
    sub = masks_lib.to_subspace(everything)
    full = posterior.sample(state.posterior, sub, None)
    x = jax.random.normal(KEY, (5, 4))
    mean_network = trees.merge(state.params, full)
    output, _ = net(mean_network, model_state, x, train=False, key=KEY)
    np.testing.assert_allclose(output, trained(x), rtol=1e-6)


def test_kept_weights_of_trained_means_are_theirs_and_the_deviations_as_ever():
    net, params, model_state = adapters.from_flax(NnxNet())
    inference = vi.VI(net, optax.adam(1e-3), 1)
    shapes = inference.kernel_shapes(params)
    masks = masks_lib.create(shapes, 0.5, np.random.default_rng(0))
    given = inference.init(KEY, params, model_state, masks, means=params).posterior
    drawn = inference.init(KEY, params, model_state, masks).posterior
    for path, mask in masks.items():
        layer, name = path.split("/")
        a, b = given[path], drawn[path]
        assert isinstance(a, Gaussian)
        assert isinstance(b, Gaussian)
        np.testing.assert_array_equal(a.mean, params[layer][name][mask])
        assert np.all(b.mean != a.mean)
        np.testing.assert_array_equal(a.rho, b.rho)


@pytest.mark.parametrize(
    ("means", "options", "message"),
    [
        ({}, {}, r"means\['hidden/kernel'\]: got nothing, allowed: .* \(4, 6\)"),
        ({"hidden": {"kernel": jnp.ones(3)}}, {}, r"got shape \(3,\), allowed"),
        ({}, {"mean_std": 0.1}, r"mean_std: got 0.1 together with means"),
    ],
)
def test_means_that_do_not_fit_are_refused(means, options, message):
    net, params, model_state = adapters.from_flax(NnxNet())
    inference = vi.VI(net, optax.adam(1e-3), 1)
    masks = {p: np.ones(s, bool) for p, s in inference.kernel_shapes(params).items()}
    with pytest.raises(InputError, match=message):
        inference.init(KEY, params, model_state, masks, means=means, **options)

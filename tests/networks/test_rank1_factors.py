"""Networks of K members that share kernels up to rank-1 factors."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import layer_kinds
import numpy as np
import pytest
from flax import nnx
from rank1_networks import POINT, Net, one, pictures, wrapped
from tiny import KEY, assert_close, assert_equal, jit

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Weights
from ssvi_jax.networks import models, rank1_factors
from ssvi_jax.networks.adapters import LinenModel
from ssvi_jax.networks.rank1_factors import Rank1, Rank1Spec
from ssvi_jax.networks.rank1_priors import FastPrior


def run(net, params, state, x, *, key=KEY, train=False):
    """Logits and new running statistics, jitted."""
    return jit(partial(net, train=train))(params, state, x, key=key)


def kl(net, prior, params):
    """The KL of the factors, jitted."""
    return jit(partial(net.kl, prior))(params, KEY)


def with_factors(params, change):
    """Parameters with change(path, leaf) in place of every factor's mean and rho."""
    flat = trees.flatten(params)
    return trees.unflatten(
        {
            p: change(p, leaf) if rank1_factors.is_factor(p) else leaf
            for p, leaf in flat.items()
        }
    )


def score(apply_fn, params, model_state, x):
    logits, state = apply_fn(params, model_state, x, train=True, key=KEY)
    return jnp.sum(jnp.sin(logits)), (logits, state)


@pytest.mark.parametrize("members", [1, 2])
def test_unit_factors_are_the_plain_network(members):
    """Logits, running statistics, and gradients; those of biases sum over members."""
    x = pictures()
    plain, params, net, more, state = wrapped(Net(), x, num_members=members, **POINT)
    more = with_factors(more, lambda path, leaf: jnp.ones_like(leaf))
    ours, theirs = (
        jit(partial(jax.value_and_grad(partial(score, fn), has_aux=True)))(p, state, x)
        for fn, p in ((net, more), (plain, params))
    )
    assert_close(ours[0], theirs[0])
    grads = trees.flatten(ours[1])
    for path, expected in trees.flatten(theirs[1]).items():
        got = grads[path].sum(0) if path.endswith(("v/bias", "t/bias")) else grads[path]
        assert_close(got, expected, 1e-4)


def by_hand(kind, x):
    """A model's parameters for members 0 and 1, each with its own kernels."""
    module = kind()
    plain, _, net, more, state = wrapped(module, x, num_members=2, **POINT)
    flat = trees.flatten(more)
    noise = np.random.default_rng(3)
    for path in flat:
        if path.endswith("bias"):
            flat[path] = jnp.asarray(noise.normal(size=flat[path].shape), jnp.float32)
    return plain, net, trees.unflatten(flat), state


LAYERS = (
    "dense on a sequence",
    "general",
    "attention",
    "strided",
    "circular",
    "grouped",
)
LAYERS += ("conv on a sequence", "half conv", "nnx general", "nnx convs")


@pytest.mark.parametrize("name", LAYERS)
def test_members_have_kernels_of_their_own(name):
    """Factors around the product = the kernel times r sᵀ in NumPy, member by member."""
    kind, shape = layer_kinds.LOCAL[name]
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(4, *shape)), jnp.float32)
    plain, net, params, state = by_hand(kind, x)
    tolerance = 1e-2 if "half" in name else 1e-5
    together = run(net, params, state, x)[0]
    for member in (0, 1):
        weights = one(net, Weights({}, params, state), member)
        flat = {path: np.array(v) for path, v in trees.flatten(params).items()}
        own = {}
        for path, leaf in trees.flatten(weights.params).items():
            r = flat.get(path.removesuffix("kernel") + "rank1_r/mean")
            if r is None or not path.endswith("kernel"):
                own[path] = flat[path][member] if path.endswith("bias") else leaf
                continue
            s = flat[path.removesuffix("kernel") + "rank1_s/mean"]
            own[path] = spread(flat[path], r[member], s[member])
        assert_close(weights.params, trees.unflatten(own))
        alone = run(plain, weights.params, state, x[2 * member :][:2])
        assert_close(together[2 * member :][:2], alone[0], tolerance)


def spread(kernel, r, s):
    """The kernel times its factors, entry by entry."""
    out = kernel.copy()
    for at in np.ndindex(kernel.shape):
        if kernel.shape == r.shape + s.shape:
            out[at] *= r[at[: r.ndim]] * s[at[r.ndim :]]
        else:
            group = at[-1] // (kernel.shape[-1] * kernel.shape[-2] // r.size)
            out[at] *= r[group * kernel.shape[-2] + at[-2]] * s[at[-1]]
    return out


@pytest.mark.parametrize(
    "name", ["scanned", "remat", "jit", "own product", "masked", "weight norm"]
)
def test_a_layer_that_does_not_multiply_by_its_parameter_stays_plain(name):
    kind, shape = layer_kinds.SAMPLED[name]
    x = jnp.ones((4, *shape))
    plain, params, net, more, state = wrapped(kind(), x, num_members=2)
    assert_equal(more, params)
    outputs = [run(f, params, state, x)[0] for f in (plain, net)]
    assert_equal(*outputs)


def test_equal_members_are_one_member():
    x = pictures(4)
    _, _, single, more, state = wrapped(Net(), x, num_members=1)
    _, _, four, _, _ = wrapped(Net(), x, num_members=4)
    flat = trees.flatten(more)
    same = {
        p: jnp.repeat(v, 4, 0) if rank1_factors.is_factor(p) or p in OWN_BIASES else v
        for p, v in flat.items()
    }
    same = trees.unflatten(same)
    prior = FastPrior()
    assert_close(kl(four, prior, same), 4 * kl(single, prior, more))
    for member in range(4):
        weights = [
            one(net, Weights({}, p, state), number, KEY)
            for net, p, number in ((single, more, 0), (four, same, member))
        ]
        assert_equal(*weights)
    certain = with_factors(
        same, lambda p, v: jnp.full_like(v, -30.0) if p.endswith("rho") else v
    )
    sure = with_factors(
        more, lambda p, v: jnp.full_like(v, -30.0) if p.endswith("rho") else v
    )
    assert_close(
        run(four, certain, state, x, train=True),
        run(single, sure, state, x, train=True),
    )


OWN_BIASES = {"conv/bias", "out/bias"}


def test_a_perturbed_layer_has_the_covariance_of_the_theorem():
    """Cov of the kernel W ∘ (r sᵀ) is W W' · (E[r_i r_j] E[s_k s_l] - their means).

    With independent Gaussian r and s around means m and t, E r_i r_j = m_i m_j +
    σ_i² [i = j], so pre-activations of an input x have the covariance that Dusenberry
    et al. (theorem 1) derive: outputs share the noise of r, each has one of s.
    """
    x = np.array([[0.5, -1.0, 2.0]])
    _, _, net, params, state = wrapped(nn.Dense(2), jnp.asarray(x), num_members=1)
    rng = np.random.default_rng(2)
    params = trees.unflatten(
        {
            p: jnp.asarray(rng.normal(size=v.shape) + (v.ndim == 1), jnp.float32)
            for p, v in trees.flatten(params).items()
        }
    )
    flat = {p: np.asarray(v, np.float64) for p, v in trees.flatten(params).items()}
    number = 1 << 16
    tiled = jnp.tile(jnp.asarray(x, jnp.float32), (number, 1))
    got = np.float64(run(net, params, state, tiled)[0])
    m, t = (flat[f"rank1_{name}/mean"][0] for name in "rs")
    var_r, var_s = (np.logaddexp(0, flat[f"rank1_{n}/rho"][0]) ** 2 for n in "rs")
    terms = x[0][:, None] * flat["kernel"]  # [in, out]
    second_r = np.outer(m, m) + np.diag(var_r)
    second_s = np.outer(t, t) + np.diag(var_s)
    moment = np.einsum("ik,jl,ij,kl->kl", terms, terms, second_r, second_s)
    mean = t * (m @ terms)
    centred = got - got.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / math.sqrt(number)
    assert (
        np.abs(products.mean(0) - (moment - np.outer(mean, mean))) < 5 * error
    ).all()
    expected, error = mean + flat["bias"][0], got.std(0) / math.sqrt(number)
    assert (np.abs(got.mean(0) - expected) < 5 * error).all()


def test_cauchy_factors_have_cauchy_quartiles_and_are_cut():
    _, _, net, params, state = wrapped(
        nn.Dense(1, use_bias=False), jnp.ones((1, 1)), num_members=1, posterior="cauchy"
    )
    values = {"kernel": 1.0, "rank1_r/mean": 2.0, "rank1_r/rho": 0.0}
    values |= {"rank1_s/mean": 1.0, "rank1_s/rho": -30.0}
    params = {p: jnp.full(v.shape, values[p]) for p, v in trees.flatten(params).items()}
    x = jnp.ones((1 << 15, 1))
    drawn = run(net, trees.unflatten(params), state, x)[0]
    drawn = np.sort(np.asarray(drawn)[:, 0])
    scale, number = np.log(2), len(drawn)
    for fraction, expected in ((0.25, 2 - scale), (0.5, 2.0), (0.75, 2 + scale)):
        density = 1 / (np.pi * scale * (1 + ((expected - 2) / scale) ** 2))
        error = math.sqrt(fraction * (1 - fraction) / number) / density
        assert drawn[int(fraction * number)] == pytest.approx(expected, abs=5 * error)
    assert (drawn[0], drawn[-1]) == (-rank1_factors.LIMIT, rank1_factors.LIMIT)


def test_noise_is_per_example_in_training_and_per_network_in_prediction():
    x = jnp.repeat(pictures(1), 4, axis=0)
    plain, _, net, params, state = wrapped(Net(), x, num_members=2, sigma_init=0.3)
    logits = run(net, params, state, x)[0]
    assert len(np.unique(np.asarray(logits), axis=0)) == 4
    weights = Weights({}, params, state)
    a, b, other = (
        one(net, weights, member, jax.random.key(seed))
        for member, seed in ((0, 5), (0, 5), (1, 5))
    )
    assert_equal(a, b)
    assert (a.params["out"]["kernel"] != other.params["out"]["kernel"]).all()
    same = run(plain, a.params, state, x)[0]
    assert_close(same[0], same[1])


def test_initial_factors_are_what_the_specification_says():
    x = jnp.ones((1, 1))
    number = 20_000
    make = partial(wrapped, nn.Dense(number), x, num_members=2)
    signs = make(init="sign", sign_probability=0.75, sigma_init=0.05)[3]["rank1_s"]
    assert set(np.unique(signs["mean"])) == {-1.0, 1.0}
    assert not any(leaf.weak_type for leaf in signs.values())  # else steps recompile
    share = np.mean(signs["mean"] == 1)
    assert share == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 2 / number))
    centre = np.log(np.expm1(0.05))
    assert np.abs(signs["rho"] - centre).max() <= 2 * rank1_factors.RHO_SPREAD + 1e-6
    assert np.mean(signs["rho"]) == pytest.approx(centre, abs=5e-3)
    normal = make(init="normal", init_std=0.3, posterior="point")[3]["rank1_s"]
    assert normal.keys() == {"mean"}
    error = 0.3 / math.sqrt(2 * number)
    assert np.mean(normal["mean"]) == pytest.approx(1.0, abs=5 * error)
    assert np.std(normal["mean"]) == pytest.approx(0.3, abs=5 * error)


def test_relative_sigma_is_a_multiple_of_the_mean():
    x = jnp.ones((1, 1))
    _, _, net, params, _ = wrapped(nn.Dense(1), x, num_members=1, relative=True)
    _, _, plain, _, _ = wrapped(nn.Dense(1), x, num_members=1)
    small = with_factors(params, lambda p, v: v * 0 + (0.2 if "mean" in p else -1.0))
    sigma = 0.2 * np.logaddexp(0, -1.0)
    rho = float(np.log(np.expm1(sigma)))
    same = with_factors(params, lambda p, v: v * 0 + (0.2 if "mean" in p else rho))
    assert_close(kl(net, FastPrior(), small), kl(plain, FastPrior(), same), 1e-4)


def test_kl_is_the_sum_over_layers_factors_and_members():
    x = pictures()
    _, _, net, params, _ = wrapped(Net(), x, num_members=3, sigma_init=0.07)
    total = 0.0
    for path, leaf in trees.flatten(params).items():
        if path.endswith("mean") and rank1_factors.is_factor(path):
            rho = trees.flatten(params)[path.removesuffix("mean") + "rho"]
            sigma, m = np.logaddexp(0, np.float64(rho)), np.float64(leaf) - 1
            total += np.sum(
                np.log(0.1 / sigma) + (sigma**2 + m**2) / (2 * 0.1**2) - 0.5
            )
    assert float(kl(net, FastPrior(), params)) == pytest.approx(total, rel=1e-5)
    _, _, point, params, _ = wrapped(Net(), x, **POINT)
    assert float(kl(point, FastPrior(), params)) == 0.0


@pytest.mark.slow
def test_parameters_of_a_resnet50():
    """Σ in + out over its layers: 0.2 % of all a member, 0.4 % with σ; and a bias."""
    net = LinenModel(models.build("resnet50", num_classes=1000, width=1.0))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params, state = jax.eval_shape(net.init, KEY, x)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    kernels = {layer.path: layer.shape for layer in net.layers(params, state, x)}
    channels = sum(shape[-2] + shape[-1] for shape in kernels.values())
    for members, posterior, each in (
        (1, "point", 1),
        (4, "point", 1),
        (4, "cauchy", 2),
    ):
        wide = Rank1(net, Rank1Spec(num_members=members, posterior=posterior))
        more = jax.eval_shape(partial(wide.add, x=x, key=KEY), params, state)
        added = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(more)) - count
        assert added == members * each * channels + (members - 1) * 1000
    assert 0.0015 < channels / count < 0.0025


def test_nnx_models_have_members_too():
    module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    x = jnp.ones((4, 4))
    plain, _, net, more, state = wrapped(module, x, num_members=2, **POINT)
    assert more["rank1_r"]["mean"].shape == (2, 4)
    assert more["bias"].shape == (2, 3)
    member = one(net, Weights({}, more, state), 1)
    assert_close(
        run(net, more, state, x)[0][2:],
        run(plain, member.params, state, x[2:])[0],
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_members": 0}, "num_members: got 0, allowed: a finite number above 0"),
        ({"posterior": "x"}, "posterior: got 'x', allowed: cauchy, gaussian, point"),
        ({"init": "x"}, "init: got 'x', allowed: normal, sign"),
        ({"sign_probability": 1.1}, "sign_probability: got 1.1, allowed: a number in"),
        ({"sigma_init": 0.0}, "sigma_init: got 0.0, allowed: a finite number above 0"),
    ],
)
def test_bad_specifications_say_so(values, words):
    with pytest.raises(InputError, match=words):
        Rank1Spec(**values)


@pytest.mark.parametrize("posterior", ["point", "gaussian"])
def test_a_batch_must_divide_among_the_members(posterior):
    x = pictures(5)
    _, _, net, params, state = wrapped(Net(), x, num_members=2, posterior=posterior)
    with pytest.raises(InputError, match="batch: got 5 examples for 2 members"):
        net(params, state, x, train=True, key=KEY)

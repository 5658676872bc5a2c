"""Rank-1 Bayesian networks and BatchEnsemble (Dusenberry et al., arXiv 2005.07186).

K members share every kernel W; member k multiplies it by a rank-1 factor of its own::

    W_k = W ∘ (r_k s_kᵀ),   computed as  y = s_k ∘ (W (r_k ∘ x)) + b_k

r_k has an entry for each input channel of a layer, s_k for each output channel. In
BatchEnsemble they are numbers, in a rank-1 network a mixture of K Gaussian or Cauchy
distributions. Biases are a member's own, everything else is shared, batch norm too.

`Rank1` wraps a network of either Flax library. The factors are ordinary parameters
that lie beside their kernel::

    {"conv1": {"kernel": W, "bias": [K, out], "rank1_r": {"mean": [K, in], "rho": …},
               "rank1_s": {"mean": [K, out], "rho": …}}}

so a training step, an optimizer, a checkpoint or a model file need not know of them.
W may be dense, or a sparse posterior of `vi.VI`.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ssvi_jax.core import trees
from ssvi_jax.core.errors import (
    InputError,
)
from ssvi_jax.core.rows import num_rows
from ssvi_jax.core.structure import Rank1Spec
from ssvi_jax.core.types import ModelState, PackedKernel, Params, Subspace, Weights
from ssvi_jax.networks import rank1_priors
from ssvi_jax.networks.layers import Factors, Layer
from ssvi_jax.networks.rank1_priors import FastPrior
from ssvi_jax.ops import shard
from ssvi_jax.vi import posterior as posterior_lib

LIMIT = 10.0
"""Drawn factors are cut at this size, as in the authors' code: Cauchy has no mean."""

RHO_SPREAD = 0.1
"""Initial rho differ by this standard deviation, cut at twice of it."""

_FACTORS = ("rank1_r", "rank1_s")
_BIAS = "bias"


Example = jax.Array | jax.ShapeDtypeStruct
"""An input ``[batch, ...]`` of which only shape and type are read."""


class FactoredNetwork(Protocol):
    """A network whose layers take factors: the adapters of `networks.adapters`."""

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
        factors: Mapping[str, Factors] | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`."""
        ...

    def channels(
        self, params: Params, model_state: ModelState, x: Example
    ) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Kernel path → shapes of r and s, of every layer that takes factors."""
        ...

    def layers(
        self, params: Params, model_state: ModelState, x: Example
    ) -> list[Layer]:
        """The products of one forward pass in the order they run."""
        ...


Leaf = Mapping[str, jax.Array]
"""``{"mean": [K, *n], "rho": [K, *n]}``; without rho the factors are the means."""


class _Fast(NamedTuple):
    """The factors of one layer; see `products.Factors`."""

    r: Leaf
    s: Leaf
    bias: jax.Array | None


class Rank1:
    """A network of K members as a `types.ApplyFn` and a `types.MemberNetwork`.

    In training a batch is cut into K equal blocks, one a member, and each example gets
    a draw of its factors. Prediction goes through `one`.

    Args:
      network: the network of one member.
      spec: what its factors are.
    """

    def __init__(self, network: FactoredNetwork, spec: Rank1Spec):
        self.network = network
        self.spec = spec

    @property
    def num_members(self) -> int:
        """K."""
        return self.spec.num_members

    @property
    def is_random(self) -> bool:
        """Whether factors are drawn."""
        return self.spec.posterior != "point"

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`; parameters without factors are a plain network's."""
        plain, fast = _separate(params)
        options: dict[str, Any] = {"kernels": kernels} if kernels else {}
        if fast:
            number = num_rows(x)
            options["factors"] = {
                path: Factors(
                    self._rows(layer.r, _key(key, path, 0), number),
                    self._rows(layer.s, _key(key, path, 1), number),
                    None if layer.bias is None else _of_examples(layer.bias, number),
                )
                for path, layer in fast.items()
            }
        return self.network(plain, model_state, x, train=train, key=key, **options)

    def add(
        self, params: Params, model_state: ModelState, x: Example, key: jax.Array
    ) -> Params:
        """The parameters of one network with K members' factors and biases added.

        Args:
          params: full parameters of the network.
          model_state: its running statistics.
          x: an example input ``[batch, ...]``.
          key: random key of the initial factors.
        """
        channels = self.network.channels(params, model_state, x)
        flat, number = trees.flatten(params), self.num_members
        for path, shapes in channels.items():
            for i, (name, shape) in enumerate(zip(_FACTORS, shapes, strict=True)):
                values = self._initial(_key(key, path, i), (number, *shape))
                for part, value in values.items():
                    flat[_beside(path, f"{name}/{part}")] = value
            bias = _beside(path, _BIAS)
            if bias in flat:
                flat[bias] = jnp.repeat(flat[bias][None], number, axis=0)
        return trees.unflatten(flat)

    def layers(
        self, params: Params, model_state: ModelState, x: Example
    ) -> list[Layer]:
        """The products of one member's forward pass in the order they run."""
        plain, _ = jax.eval_shape(_separate, params)
        return self.network.layers(plain, model_state, x)

    def one(
        self,
        weights: Weights,
        subspace: Subspace,
        member: jax.typing.ArrayLike,
        key: jax.Array | None,
    ) -> tuple[Weights, Subspace]:
        """One member as a plain network, its factors multiplied into the kernels.

        Args:
          weights: of all members.
          subspace: where the packed kernels sit.
          member: 0 to K - 1.
          key: random key of one draw of the factors; None: their means.
        """
        plain, fast = _separate(weights.params)
        flat, posterior = trees.flatten(plain), dict(weights.posterior)
        for path, layer in fast.items():
            leaves = jax.tree.map(lambda leaf: leaf[member][None], (layer.r, layer.s))
            r, s = (
                leaf["mean"] if key is None else self._rows(leaf, _key(key, path, i), 1)
                for i, leaf in enumerate(leaves)
            )
            if layer.bias is not None:
                flat[_beside(path, _BIAS)] = layer.bias[member]
            if path in posterior:
                shape = dict(subspace.shapes)[path]
                factor = _product(r[0], s[0], shape).reshape(-1)
                packed = factor[subspace.index[path] % factor.size]
                posterior[path] = posterior_lib.scaled(posterior[path], packed)
            else:
                factor, kernel = _product(r[0], s[0], flat[path].shape), flat[path]
                blocks = kernel.reshape(-1, *factor.shape) * factor[None]
                flat[path] = blocks.reshape(kernel.shape)
        params = trees.unflatten(flat)
        return Weights(posterior, params, weights.model_state), subspace

    def kl(self, prior: FastPrior, params: Params, key: jax.Array) -> jax.Array:
        """Σ KL(q ‖ prior) in nats over the factors of all layers and members.

        Args:
          prior: of a factor's distance from 1.
          params: parameters with factors.
          key: random key, for priors that are sampled.
        """
        total = jnp.zeros(())
        for path, layer in _separate(params)[1].items() if self.is_random else ():
            for i, leaf in enumerate((layer.r, layer.s)):
                total += prior.kl(
                    self.spec.posterior,
                    leaf["mean"] - 1.0,
                    self._sigma(leaf),
                    _key(key, path, i),
                )
        return total

    def _sigma(self, leaf: Leaf) -> jax.Array:
        sigma = posterior_lib.to_sigma(leaf["rho"])
        return sigma * jnp.abs(leaf["mean"]) if self.spec.relative else sigma

    def _rows(self, leaf: Leaf, key: jax.Array, rows: int) -> jax.Array:
        """Draws ``[rows, *n]``, equal blocks of rows of each of the leaf's members."""
        mean = _of_examples(leaf["mean"], rows)
        if not self.is_random:
            return mean
        if rows % len(mean):
            raise _uneven(rows, len(mean))
        sigma = _of_examples(self._sigma(leaf), rows)
        blocks = (len(mean), rows // len(mean), *mean.shape[1:])
        draw = partial(rank1_priors.standard, self.spec.posterior, key)
        drawn = shard.noise(draw, blocks, rows)
        values = mean[:, None] + sigma[:, None] * drawn
        return jnp.clip(values, -LIMIT, LIMIT).reshape(rows, *mean.shape[1:])

    def _initial(self, key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        spec = self.spec
        key_mean, key_rho = jax.random.split(key)
        if spec.init == "sign":
            positive = jax.random.bernoulli(key_mean, spec.sign_probability, shape)
            # Of no weak type, or a training step would compile twice.
            mean = jnp.where(positive, 1.0, -1.0).astype(jnp.float32)
        else:
            drawn = jax.random.normal(key_mean, shape, jnp.float32)
            mean = 1.0 + spec.init_std * drawn
        if not self.is_random:
            return {"mean": mean}
        drawn = jax.random.truncated_normal(key_rho, -2.0, 2.0, shape, jnp.float32)
        rho = posterior_lib.to_rho(jnp.full(shape, spec.sigma_init, jnp.float32))
        return {"mean": mean, "rho": rho + RHO_SPREAD * drawn}


def _of_examples(values: jax.Array, examples: int) -> jax.Array:
    """What serves equal blocks of these examples, from each member's ``[K, *n]``.

    That is what comes, unless the examples are a part of a batch: its members' blocks
    are those of the whole one, and each example gets a row of its own.
    """
    if not shard.is_part():
        return values
    tiles, whole, _ = shard.among(examples)
    if tiles * whole % len(values):
        raise _uneven(tiles * whole, len(values))
    member = shard.numbers(examples) // (tiles * whole // len(values))
    # Not a gather, whose gradient would be a scatter: slow, and on a GPU in any order.
    chosen = jax.nn.one_hot(member, len(values), dtype=values.dtype)
    return jnp.tensordot(chosen, values, 1, precision=jax.lax.Precision.HIGHEST)


def _uneven(rows: int, members: int) -> InputError:
    return InputError(
        f"batch: got {rows} examples for {members} members, allowed: a multiple of "
        "their number."
    )


def is_factor(path: str) -> bool:
    """Whether a parameter's path is that of a factor's mean or rho."""
    return path.split("/")[-2:-1] in ([_FACTORS[0]], [_FACTORS[1]])


def _separate(params: Params) -> tuple[Params, dict[str, _Fast]]:
    """The parameters of a plain network, and kernel path → factors.

    Biases that are a member's own are 0 in the plain network: they are added to its
    products.
    """
    flat = trees.flatten(params)
    fast: dict[str, _Fast] = {}
    plain = {path: leaf for path, leaf in flat.items() if not is_factor(path)}
    mean_of_r = f"{_FACTORS[0]}/mean"
    for path in flat:
        if not (is_factor(path) and path.endswith(mean_of_r)):
            continue
        layer = path.removesuffix(mean_of_r)
        r, s = (_leaf(flat, f"{layer}{name}") for name in _FACTORS)
        bias = plain.get(f"{layer}{_BIAS}")
        if bias is not None:
            plain[f"{layer}{_BIAS}"] = jnp.zeros(bias.shape[1:], bias.dtype)
        fast[f"{layer}kernel"] = _Fast(r, s, bias)
    return trees.unflatten(plain), fast


def _leaf(flat: Mapping[str, jax.Array], path: str) -> Leaf:
    parts = ("mean", "rho")
    return {part: flat[f"{path}/{part}"] for part in parts if f"{path}/{part}" in flat}


def _product(r: jax.Array, s: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns r sᵀ in the trailing axes of a kernel of this shape.

    A dense kernel ``[*in, *out]`` has all axes; of a convolution's
    ``[*window, in / groups, out]`` the window is left out.
    """
    if r.shape + s.shape == shape:
        return jnp.tensordot(r, s, 0)
    inputs, outputs = shape[-2:]
    groups = r.size // inputs
    r, s = r.reshape(groups, inputs), s.reshape(groups, outputs // groups)
    return jnp.einsum("gi,go->igo", r, s).reshape(inputs, outputs)


def _beside(kernel_path: str, name: str) -> str:
    """The path of a parameter of the layer that owns a kernel."""
    layer, slash, _ = kernel_path.rpartition("/")
    return f"{layer}{slash}{name}"


def _key(key: jax.Array, path: str, number: int) -> jax.Array:
    layer = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return jax.random.fold_in(layer, number)

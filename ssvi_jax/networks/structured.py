"""A network with the structure that a method gives it: members, factors, dropout."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import (
    ApplyFn,
    Masks,
    ModelState,
    PackedKernel,
    Params,
    Subspace,
    Weights,
)
from ssvi_jax.networks import members, precision
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.networks.layers import Layer
from ssvi_jax.networks.rank1_factors import Rank1
from ssvi_jax.networks.rank1_priors import FastPrior

_MEMBERS_STREAM = 0x6D656D62  # separates the factors' initialization from the kernels'

_DRAW = "dropout_draw"
"""Where the running statistics of one forward pass hold the key of what it drops."""


class PlainModel(Protocol):
    """What a structure is put on: the adapters of `networks.adapters`."""

    def init(self, key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        """Full parameters and running statistics for inputs like `x`."""
        ...

    def layers(self, params: Params, model_state: ModelState, x: Any) -> list[Layer]:
        """The products of one forward pass in the order they run."""
        ...

    def __call__(self, *args: Any, **options: Any) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`, with `factors` and `dropout` besides."""
        ...


class Structured:
    """An `ApplyFn` and a `types.MemberNetwork`, of one member unless there are more.

    Args:
      plain: the model.
      structure: what is made of it.
      example: inputs ``[1, ...]``, or only their shapes and types.
      training_precision: see `precision.train_in`.
    """

    def __init__(
        self,
        plain: Any,
        structure: Structure,
        example: Any,
        *,
        training_precision: str = "float32",
    ):
        self.structure = structure
        self.training_precision = training_precision
        self._plain = plain
        rank1 = structure.rank1
        self._members = None if rank1 is None else Rank1(plain, rank1)
        self._apply = precision.train_in(training_precision, self._members or plain)
        self._example = example

    @property
    def kernel_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See `types.ApplyFn`; those of stacked copies are not told."""
        if self.structure.copies is not None:
            return {}
        return getattr(self._plain, "kernel_shapes", {})

    @property
    def dirac(self) -> bool:
        """See `FlaxModel`."""
        return getattr(self._plain, "dirac", False)

    @property
    def num_members(self) -> int:
        """See `types.MemberNetwork`."""
        if self._members is not None:
            return self._members.num_members
        return self.structure.copies or 1

    @property
    def is_random(self) -> bool:
        """See `types.MemberNetwork`."""
        drawn = self._members is not None and self._members.is_random
        return drawn or self.structure.dropout > 0

    def one(
        self,
        weights: Weights,
        subspace: Subspace,
        member: jax.typing.ArrayLike,
        key: jax.Array | None,
    ) -> tuple[Weights, Subspace]:
        """See `types.MemberNetwork`."""
        copies = self.structure.copies
        if self._members is not None:
            weights, subspace = self._members.one(weights, subspace, member, key)
        if copies is not None:
            weights, subspace = members.one(weights, subspace, member, copies)
        if self.structure.dropout > 0 and key is not None:
            drawn = {**weights.model_state, _DRAW: key}
            weights = weights._replace(model_state=drawn)
        return weights, subspace

    def init(self, key: jax.Array) -> tuple[Params, ModelState]:
        """Initial parameters and running statistics.

        Raises:
          InputError: several copies of a model whose parameters cannot be drawn anew.
        """
        copies = self.structure.copies
        if copies is None:
            return self._init(key)
        if copies > 1 and not getattr(self._plain, "draws", True):
            raise InputError(
                "network: got an nnx module, whose parameters are drawn once, for "
                f"{copies} networks that each begin elsewhere, allowed: a linen module."
            )
        return jax.vmap(self._init)(members.keys(key, copies))

    def _init(self, key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = self._plain.init(key, self._zeros())
        return self.with_factors(params, model_state, key), model_state

    def _zeros(self) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._example)

    def with_factors(
        self, params: Params, model_state: ModelState, key: jax.Array
    ) -> Params:
        """Parameters of the plain model, with those of the members' factors."""
        if self._members is None:
            return params
        key = jax.random.fold_in(key, _MEMBERS_STREAM)
        return self._members.add(params, model_state, self._example, key)

    def layers(self, params: Params, model_state: ModelState) -> list[Layer]:
        """The products in the order they run.

        Of one rank-1 member, but of all `copies`, as their kernels are stacked.
        """
        model, copies = self._members or self._plain, self.structure.copies
        if copies is None:
            return model.layers(params, model_state, self._example)
        params, model_state = members.first((params, model_state))
        each = model.layers(params, model_state, self._example)
        return [layer._replace(shape=(copies, *layer.shape)) for layer in each]

    def refusals(
        self, params: Params, model_state: ModelState, masks: Masks
    ) -> dict[str, str]:
        """See `FlaxModel.refusals`; of copies the first member's.

        Factors do not count, so it is the plain model that is asked.
        """
        if not hasattr(self._plain, "refusals"):
            return {}
        if self.structure.copies is not None:
            masks = members.unstack(masks, self.structure.copies)[0]
        if self.structure.copies is not None or self._members is not None:
            key, zeros = jax.random.key(0), self._zeros()
            params, model_state = jax.eval_shape(self._plain.init, key, zeros)
        return self._plain.refusals(params, model_state, masks, self._example)

    def kl(self, prior: FastPrior, params: Params, key: jax.Array) -> jax.Array:
        """KL of the members' factors, see `rank1_factors.Rank1.kl`; 0 without any."""
        return self._members.kl(prior, params, key) if self._members else jnp.zeros(())

    def prepare(self, x: Any) -> Any:
        """What is done to inputs first: nothing."""
        return x

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
        """See `types.ApplyFn`. Of an ensemble it takes one member's parameters."""
        x = self.prepare(x)
        if self.structure.dropout > 0:
            return self._with_dropout(params, model_state, x, train=train, key=key)
        options = {"train": train, "key": key, "kernels": kernels}
        return self._apply(params, model_state, x, **options)

    def _with_dropout(self, params, model_state, x, *, train, key):
        rest = {name: v for name, v in model_state.items() if name != _DRAW}
        drop, rate = None, self.structure.dropout
        if train:
            drop = Dropout(rate, key)
        elif _DRAW in model_state:
            drop = Dropout(rate, model_state[_DRAW], is_shared=True)
        options = {"train": train, "key": key, "dropout": drop}
        return self._apply(params, rest, x, **options)


def kl_of(network: ApplyFn) -> Callable[[FastPrior, Params, jax.Array], jax.Array]:
    """The KL of the factors of a network that has some.

    Raises:
      InputError: it has none: a method was built on the wrong network.
    """
    kl = getattr(network, "kl", None)
    if kl is None:
        raise InputError(
            "network: got one without rank-1 factors, needed: one with the method's "
            "structure (see `networks.structured`)."
        )
    return kl

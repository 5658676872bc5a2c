"""A network with one more parameter: the noise of its labels, learned with it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssvi_jax.core.types import ApplyFn, ModelState, Params

NOISE = "likelihood_noise"
"""Name of the parameter ρ; the noise's standard deviation is softplus(ρ)."""


class WithNoise:
    """An `ApplyFn` whose output is (that of the network, ρ in its shape).

    Args:
      network: the network; its parameters have one more, `NOISE`.
    """

    def __init__(self, network: ApplyFn):
        self.network = network
        self.__wrapped__ = network  # whose signature counts

    def __eq__(self, other: object) -> bool:
        """Equal if the networks are."""
        return isinstance(other, WithNoise) and self.network == other.network

    def __hash__(self) -> int:
        """Of the network."""
        return hash((WithNoise, self.network))

    def __getattr__(self, name: str) -> Any:
        """Whatever else the network has, as its members."""
        if name == "network":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.network, name)

    def with_noise(self, params: Params, copies: int | None = None) -> Params:
        """Parameters of the network and ρ, which starts at a deviation of 0.5.

        Args:
          params: of the network.
          copies: see `Structure`: each has a ρ of its own.
        """
        shape = () if copies is None else (copies,)
        return {**params, NOISE: jnp.full(shape, math.log(math.expm1(0.5)))}

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        train: bool,
        key: jax.Array,
        **options: Mapping[str, Any],
    ) -> tuple[tuple[jax.Array, jax.Array], ModelState]:
        """See `types.ApplyFn`."""
        own = {name: value for name, value in params.items() if name != NOISE}
        output, model_state = self.network(
            own,
            model_state,
            x,
            train=train,
            key=key,
            **options,  # type: ignore[arg-type]
        )
        return (output, jnp.broadcast_to(params[NOISE], output.shape)), model_state

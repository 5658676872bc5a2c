"""The state of a training: what the optimizer sees, and the rest."""

import dataclasses
from collections.abc import Hashable
from typing import NamedTuple

import jax
import optax

from ssvi_jax.core.types import ModelState, Params, Posterior, Weights


class Trainable(NamedTuple):
    """What the optimizer sees: the packed posterior and the deterministic rest."""

    posterior: Posterior
    params: Params


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Traits:
    """What is known of the optimizer (static, no arrays); see `optimizer_state`.

    Attributes:
      structure: of its state.
      starts: what each leaf of the state begins with where a coordinate is new: a
        number, or `optimizer_state.COPY`; None: the leaf holds no coordinates.
      lost: what holds coordinates in a way that cannot be moved; "": nothing does.
      hides_rho: whether it is given 0 for every rho; see `weight_decay`.
    """

    structure: Hashable
    starts: tuple[float | str | None, ...]
    lost: str
    hides_rho: bool


class State(NamedTuple):
    """Training state; every Bayesian leaf, moments included, is packed to ``[s]``.

    Attributes:
      posterior: packed Gaussians or points.
      params: deterministic parameters, nested.
      model_state: running statistics, nested.
      opt_state: optimizer state over `Trainable`.
      step: int32 scalar, the number of steps taken.
      key: base random key; step t uses ``fold_in(key, t)``.
      traits: what is known of the optimizer.
    """

    posterior: Posterior
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array
    traits: Traits

    @property
    def weights(self) -> Weights:
        """What prediction needs of the state."""
        return Weights(self.posterior, self.params, self.model_state)


def is_packed(path: str) -> bool:
    """Whether a leaf of a state, by its path, has one value a selected weight.

    Only such leaves change their size, where a training prunes.
    """
    return "posterior" in path.split("/")

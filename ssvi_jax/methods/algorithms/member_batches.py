"""Networks of K members in training: who sees which examples, and what is maximized."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssvi_jax.core.rows import num_rows
from ssvi_jax.core.types import ApplyFn, ModelState, PackedKernel, Params
from ssvi_jax.ops import shard
from ssvi_jax.vi.likelihoods import Likelihood


@dataclasses.dataclass(frozen=True)
class Tiled:
    """An `ApplyFn` that gives every example to every one of K members.

    Attributes:
      network: cuts its batch into K equal blocks, one a member.
      num_members: K.
    """

    network: ApplyFn
    num_members: int

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
    ) -> tuple[Any, ModelState]:
        """See `types.ApplyFn`, but for outputs ``[batch, K, ...]``."""
        options = {"kernels": kernels} if kernels else {}
        number, batch = self.num_members, num_rows(x)
        tiled = jax.tree.map(
            lambda leaf: jnp.tile(leaf, (number, *(1,) * (leaf.ndim - 1))), x
        )
        with shard.tiled(number):
            output, model_state = self.network(
                params, model_state, tiled, train=train, key=key, **options
            )

        def by_example(leaf: jax.Array) -> jax.Array:
            return leaf.reshape(number, batch, *leaf.shape[1:]).swapaxes(0, 1)

        return jax.tree.map(by_example, output), model_state


def times_seen(apply_fn: ApplyFn) -> int:
    """How many members see each example of a batch in training."""
    return apply_fn.num_members if isinstance(apply_fn, Tiled) else 1


@dataclasses.dataclass(frozen=True)
class MemberBound:
    """A likelihood of K members' outputs ``[batch, K, ...]``.

    Attributes:
      likelihood: of one output.
      bound: "average": mean over members of log p(y | output); "mixture": log of the
        mean of p(y | output), which is at least that.
    """

    likelihood: Likelihood
    bound: str

    def log_prob(self, output: Any, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`."""
        batch, number = jax.tree.leaves(output)[0].shape[:2]
        flat = jax.tree.map(lambda o: o.reshape(batch * number, *o.shape[2:]), output)
        labels = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, axis=0), y)
        each = self.likelihood.log_prob(flat, labels).reshape(batch, number)
        if self.bound == "average":
            return jnp.mean(each, axis=-1)
        return jax.nn.logsumexp(each, axis=-1) - jnp.log(number)

    def metrics(self, output: Any, y: jax.Array) -> dict[str, jax.Array]:
        """Mean over members of the likelihood's."""
        each = jax.vmap(self.likelihood.metrics, in_axes=(1, None))(output, y)
        return jax.tree.map(jnp.mean, each)

    def features(self, output: Any) -> Any:
        """The likelihood's: predictions take one member at a time."""
        return self.likelihood.features(output)

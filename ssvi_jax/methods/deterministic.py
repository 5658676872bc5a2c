"""A dense point estimate: the same loop with no Bayesian weight at all."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.dense import Dense
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class Deterministic(Method):
    """A dense point estimate; it has no settings of its own."""

    name: ClassVar[str] = "deterministic"

    def build(self, problem: "Problem") -> "Dense":
        """See `Method.build`; also the sparse backend."""
        from ssvi_jax.methods.algorithms.dense import dense

        return dense(problem)

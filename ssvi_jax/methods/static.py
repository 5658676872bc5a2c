"""Sparse point estimates on random masks that stay: the control of every swap."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class Static(Sparsity, Method):
    """Sparse from the start on random masks that never change."""

    name: ClassVar[str] = "static"
    sparse_from_start: ClassVar[bool] = True

    def build(self, problem: "Problem") -> "Swapping":
        """See `Method.build`; also densities that do not fit the network."""
        from ssvi_jax.methods.algorithms import swapping

        return swapping.Swapping(
            problem,
            swapping.points(problem),
            counts=swapping.counts(self, problem),
            sigma_init=None,
            mean_init=self.mean_init,
        )

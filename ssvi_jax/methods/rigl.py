"""RigL: sparse point estimates that follow the gradient (Evci et al., ICML 2020).

The masks live as SSVI's do: random at first with the density rule's counts; between
phases of M steps the smallest abs(w) leave, and those with the largest abs(dense
gradient) enter at 0 with no momentum. By default r_t is the authors',
0.3/2 · (1 + cos), until 75 % of the steps.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Growth, Replacement, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class RigL(Growth, Replacement, Sparsity, Method):
    """Sparse from the start: the smallest weights out, the largest gradients in."""

    name: ClassVar[str] = "rigl"
    sparse_from_start: ClassVar[bool] = True

    def build(self, problem: "Problem") -> "Swapping":
        """See `Method.build`; also densities that do not fit the network."""
        from ssvi_jax.methods.algorithms import swapping
        from ssvi_jax.vi.subspace import Rule

        return swapping.Swapping(
            problem,
            swapping.points(problem),
            counts=swapping.counts(self, problem),
            sigma_init=None,
            mean_init=self.mean_init,
            rule=Rule(removal="mean"),
            rate=swapping.rate(self, problem),
            grow_batches=self.grow_batches,
        )

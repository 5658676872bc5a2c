"""SET, sparse evolutionary training (Mocanu et al., Nature Communications 9, 2018).

The smallest abs(w) leave, random ones enter, at RigL's r_t, as Evci et al. (ICML 2020)
compare them.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Replacement, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class SET(Replacement, Sparsity, Method):
    """Sparse from the start: the smallest weights out, random ones in."""

    name: ClassVar[str] = "set"
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
            rule=Rule(removal="mean", addition="random"),
            rate=swapping.rate(self, problem),
        )

"""Dense training, then one pruning by magnitude: the dense-to-sparse control.

Before the first phase that begins at or after the fraction `prune_at` of the steps, the
weights of largest abs(w) are kept, as many in each layer as the density rule says, or
with `densities` "global" as many as there are in all, whatever their layers (Han et
al., "Learning both Weights and Connections", NIPS 2015, prune once in this way). The
rest of the training, with the same schedule of the learning rate, tunes what is kept.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.core.errors import InputError
from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Pruning, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.pruning import DenseToSparse, Keep
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class Magnitude(Pruning, Sparsity, Method):
    """Dense at first, then the largest weights are kept and trained on."""

    name: ClassVar[str] = "magnitude"
    fixed: ClassVar[tuple[str, ...]] = ("prune_at",)

    densities: str = "erk"
    """uniform, er, erk, sqrt_erk, or a .json file {path: density} for sparsity too;
    global: whatever layers the largest weights are in."""

    def build(self, problem: "Problem") -> "DenseToSparse":
        """See `Method.build`; also densities that do not fit, no step to prune at."""
        from ssvi_jax.methods.algorithms import pruning, swapping

        return pruning.DenseToSparse(
            problem,
            swapping.points(problem),
            keep=self._keep(problem),
            prune_step=pruning.prune_step(self.prune_at, problem),
            sigma_init=None,
            mean_init=self.mean_init,
        )

    def _keep(self, problem: "Problem") -> "Keep":
        from ssvi_jax.methods.algorithms import pruning, swapping

        if self.densities != "global":
            return pruning.keep_counts(swapping.counts(self, problem))
        total, least = problem.num_weights, len(problem.layers)
        count = round((1 - self.sparsity) * total)
        if count < least:
            raise InputError(
                f"sparsity: got {self.sparsity}, which keeps {count} of {total} "
                f"weights, allowed: at most what leaves {least}, one a kernel."
            )
        return pruning.keep_largest(count)

"""Sparse Subspace Variational Inference (Li et al., arXiv 2402.11025).

A Gaussian posterior over s of d weights; between phases of M gradient steps the weights
with the lowest removal score leave the subspace and those with the largest dense
gradient enter it. With sparsity 0 this is dense mean-field VI.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import (
    Criteria,
    Gaussians,
    Growth,
    NewWeights,
    Prior,
    Replacement,
    Sparsity,
)

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class SSVI(
    Gaussians, Prior, NewWeights, Growth, Criteria, Replacement, Sparsity, Method
):
    """Sparse Subspace Variational Inference: a Gaussian posterior on a subspace."""

    name: ClassVar[str] = "ssvi"
    sparse_from_start: ClassVar[bool] = True

    grow_at_mean: bool = False
    """Take that gradient at the mean network instead of the sampled one."""

    def build(self, problem: "Problem") -> "Swapping":
        """See `Method.build`; also densities that do not fit the network."""
        from ssvi_jax.methods.algorithms import gaussians, swapping
        from ssvi_jax.vi.subspace import Rule

        return swapping.Swapping(
            problem,
            gaussians.inference(self, problem, gaussians.prior(self)),
            counts=swapping.counts(self, problem),
            sigma_init=gaussians.initial_sigma(self),
            mean_init=self.mean_init,
            rule=Rule(
                self.removal, self.addition, self.growth_init, self.removal_lambda
            ),
            rate=swapping.rate(self, problem),
            grow_batches=self.grow_batches,
            grow_at_mean=self.grow_at_mean,
        )

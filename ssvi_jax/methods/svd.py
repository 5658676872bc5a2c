"""Sparse variational dropout (Molchanov et al., ICML 2017, arXiv 1701.05369).

Dense mean-field VI with a log-uniform prior, in the paper's additive parameterization
θ ~ N(μ, σ²), α = σ²/μ². The prior drives most α to infinity; at the fraction `prune_at`
of the steps the weights with log α > 3 are pruned, as in the paper, and the rest of the
training tunes the others. The sparsity is an outcome: `kl_scale` and the length of the
training decide it.

The paper trains with Adam; here it is the optimizer of every other method.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ssvi_jax.core.settings import fraction, not_negative, positive, setting
from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Gaussians, Pruning

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.pruning import DenseToSparse
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class SVD(Pruning, Gaussians, Method):
    """Sparse variational dropout: how sparse it becomes is up to its prior."""

    name: ClassVar[str] = "svd"
    fixed: ClassVar[tuple[str, ...]] = ("prune_at", "kl_scale", "sigma_init")
    # The prior shrinks the means already.
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}

    prune_at: float = setting(0.9, fraction)
    """Fraction of the steps that are dense."""
    kl_scale: float = setting(1.0, not_negative)
    """β: weight of the KL; more prunes more."""
    sigma_init: float = setting(6.7e-3, positive)
    """Mean of the initial standard deviations (log σ² = -10, as in the paper)."""
    mean_init: float = setting(0.0, not_negative)
    """Standard deviation of the initial means; 0: He initialization by fan-in."""

    def build(self, problem: "Problem") -> "DenseToSparse":
        """See `Method.build`; also no step to prune at."""
        from ssvi_jax.methods.algorithms import gaussians, pruning
        from ssvi_jax.vi.priors import LogUniformPrior

        return pruning.DenseToSparse(
            problem,
            gaussians.inference(self, problem, LogUniformPrior()),
            keep=pruning.keep_certain,
            prune_step=pruning.prune_step(self.prune_at, problem),
            sigma_init=gaussians.initial_sigma(self),
            mean_init=self.mean_init,
        )

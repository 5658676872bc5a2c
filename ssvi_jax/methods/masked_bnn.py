"""A masked Bayesian network: masks sampled by Metropolis-Hastings between phases.

After Kong et al., "Masked Bayesian Neural Networks: Theoretical Guarantee and its
Posterior Inference", ICML 2023, arXiv 2305.14765. What differs from the paper: it masks
nodes, whose number is random, and samples the weights by HMC or SGLD; here weights are
masked, their number in a layer is fixed, as packed arrays need, and given a mask their
distribution is a mean-field Gaussian, trained as SSVI's. See `algorithms.mask_moves`.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import part, positive, setting
from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Gaussians, NewWeights, Replacement, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.mask_moves import MaskMoves
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class MaskedBNN(Gaussians, NewWeights, Replacement, Sparsity, Method):
    """A Gaussian posterior on masks that a Markov chain samples."""

    name: ClassVar[str] = "masked_bnn"
    fixed: ClassVar[tuple[str, ...]] = (
        "replacement_rate",
        "replacement_schedule",
        "grow_batches",
    )
    sparse_from_start: ClassVar[bool] = True

    replacement_rate: float = setting(0.01, part)
    """Largest fraction of a layer's weights that one move swaps; 0: static masks."""
    replacement_schedule: Literal["cosine", "linear", "constant"] = "constant"
    """How that fraction falls."""
    grow_batches: int = setting(10, positive)
    """Moves between two phases."""
    prior_std: float = setting(0.1, positive)
    """τ: standard deviation of the Gaussian prior of kept weights, the slab."""
    spike_std: float = setting(3e-3, positive)
    """ψ: size of weights that enter, and of those likely to leave."""

    def build(self, problem: "Problem") -> "MaskMoves":
        """See `Method.build`; also densities that do not fit, or a batch of one."""
        from ssvi_jax.methods.algorithms import gaussians, mask_moves, swapping
        from ssvi_jax.vi.priors import GaussianPrior
        from ssvi_jax.vi.subspace import Rule

        if problem.batch_size < 2 < problem.num_data:
            raise InputError(
                f"batch_size: got {problem.batch_size}, allowed with masked_bnn: 2 or "
                "more, of which a variance can be estimated."
            )
        prior = GaussianPrior(self.prior_std)
        return mask_moves.MaskMoves(
            problem,
            gaussians.inference(self, problem, prior),
            counts=swapping.counts(self, problem),
            sigma_init=gaussians.initial_sigma(self),
            mean_init=self.mean_init,
            rule=Rule(growth_init=self.growth_init),
            rate=swapping.rate(self, problem),
            grow_batches=self.grow_batches,
            slab_std=self.prior_std,
            spike_std=self.spike_std,
        )

"""Ensembles: K networks trained in one run, each with everything of its own.

* `DeepEnsemble`: deterministic networks (Lakshminarayanan et al., "Simple and scalable
  predictive uncertainty estimation using deep ensembles", NIPS 2017, without their
  adversarial examples).
* `SSVIEnsemble`: SSVI's posteriors, each with its own masks and swaps.
* `SSVIMixture`: the posterior is q = 1/K Σ_k N(μ_k, σ_k²), all components on the same s
  coordinates. Each maximizes its own ELBO, and the mean of these is a lower bound of
  the mixture's: its expected log-likelihood is their mean, and KL(q ‖ p) is at most the
  mean of KL(q_k ‖ p), by at most log K, because it is convex. A swap is one for all:
  removal goes by the mean of the components' scores, addition by the mean of their abs
  dense gradients.
* `SSVIIvonEnsemble` and `SSVIIvonMixture`: the same of IVON's posteriors (see `ivon`),
  whose own spread comes to that between the networks.
"""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Copies
from ssvi_jax.methods.ivon import SSVIIvon
from ssvi_jax.methods.ssvi import SSVI

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.copies import Ensemble
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class DeepEnsemble(Copies, Method):
    """K dense point estimates of their own."""

    name: ClassVar[str] = "ensemble"

    def build(self, problem: "Problem") -> "Ensemble":
        """See `Method.build`; also data that is streamed."""
        from ssvi_jax.methods.algorithms.copies import Ensemble
        from ssvi_jax.methods.algorithms.dense import dense

        return Ensemble.of(dense, self, problem)


@register
@dataclasses.dataclass(frozen=True)
class SSVIEnsemble(Copies, SSVI):
    """K Gaussian posteriors of their own, each on a subspace of its own."""

    name: ClassVar[str] = "ssvi_ensemble"

    def build(self, problem: "Problem") -> "Ensemble":  # type: ignore[override]
        """See `Method.build`; also data that is streamed."""
        from ssvi_jax.methods.algorithms.copies import Ensemble

        return Ensemble.of(partial(SSVI.build, self), self, problem)


@register
@dataclasses.dataclass(frozen=True)
class SSVIMixture(SSVIEnsemble):
    """A mixture of K Gaussian posteriors on one subspace."""

    name: ClassVar[str] = "ssvi_mixture"

    def build(self, problem: "Problem") -> "Ensemble":  # type: ignore[override]
        """See `Method.build`; also data that is streamed."""
        from ssvi_jax.methods.algorithms.mixtures import Mixture

        return Mixture.of(partial(SSVI.build, self), self, problem)


@register
@dataclasses.dataclass(frozen=True)
class SSVIIvonEnsemble(Copies, SSVIIvon):
    """K of IVON's posteriors, each on a subspace of its own."""

    name: ClassVar[str] = "ssvi_ivon_ensemble"

    def build(self, problem: "Problem") -> "Ensemble":  # type: ignore[override]
        """See `SSVIIvon.build`; also data that is streamed."""
        from ssvi_jax.methods.algorithms.copies import Ensemble

        return Ensemble.of(partial(SSVIIvon.build, self), self, problem)


@register
@dataclasses.dataclass(frozen=True)
class SSVIIvonMixture(SSVIIvonEnsemble):
    """A mixture of K of IVON's posteriors on one subspace."""

    name: ClassVar[str] = "ssvi_ivon_mixture"

    def build(self, problem: "Problem") -> "Ensemble":  # type: ignore[override]
        """See `SSVIIvon.build`; also data that is streamed."""
        from ssvi_jax.methods.algorithms.mixtures import Mixture

        return Mixture.of(partial(SSVIIvon.build, self), self, problem)

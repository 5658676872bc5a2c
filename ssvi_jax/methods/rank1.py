"""Rank-1 Bayesian networks and BatchEnsemble (Dusenberry et al., arXiv 2005.07186).

K members share their kernels up to rank-1 factors, which are the network's affair
(`networks.rank1_factors`). So training is that of another method with two terms
changed: the KL of the factors, and the likelihood of K members. Dense kernels are
trained as by `Deterministic`; with a sparsity they are points on a subspace, of which
the smallest leave and those with the largest gradient enter.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import (
    Settings,
    fraction,
    not_negative,
    optional,
    part,
    positive,
    setting,
)
from ssvi_jax.core.structure import Rank1Spec, Structure
from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Criteria, Growth, Replacement, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.dense import Dense
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@dataclasses.dataclass(frozen=True)
class Factors(Settings):
    """The factors of K members, and what of a batch each of them sees."""

    members: int = setting(4, positive)
    """K."""
    member_batch: Literal["split", "tile"] = "split"
    """split: each member sees batch-size / K of a batch; tile: each sees all of it, at
    K times the cost of a step."""
    bound: Literal["average", "mixture"] = "average"
    """average: of the members' log-likelihoods; mixture: log of their mean likelihood
    (needs tile)."""
    fast_init_std: float = setting(0.1, not_negative)
    """Standard deviation of initial factors around 1; 0: they are random signs."""
    fast_sign_probability: float = setting(0.5, part)
    """Probability that such a sign is +."""
    fast_rate_scale: float = setting(1.0, positive)
    """Learning rate of the factors' means over that of the kernels."""


@dataclasses.dataclass(frozen=True)
class _Shared(Factors, Growth, Criteria, Replacement, Sparsity, Method):
    """What both methods have."""

    fixed: ClassVar[tuple[str, ...]] = ("sparsity", "removal")

    sparsity: float = setting(0.0, fraction)
    """Fraction of kernel weights that are exactly zero, in [0, 1); 0 is dense."""
    removal: Literal[
        "abs_snr", "snr", "mean", "abs_mean", "exp_abs_mean", "exp_abs_snr"
    ] = "mean"
    """Score whose lowest weights go, if it is sparse."""

    @property
    def _initial(self) -> dict[str, Any]:
        """How the factors begin, in the words of `Rank1Spec`."""
        if self.fast_init_std:
            return {"init": "normal", "init_std": self.fast_init_std}
        return {"init": "sign", "sign_probability": self.fast_sign_probability}

    @property
    def _rates(self) -> dict[str, float | None]:
        """See `Problem.transformation`."""
        return {"fast_rate_scale": self.fast_rate_scale}

    def _base(self, problem: "Problem") -> "Dense | Swapping":
        """The training of the kernels."""
        from ssvi_jax.methods.algorithms import dense, swapping
        from ssvi_jax.vi.subspace import Rule

        if not (self.sparsity or self.densities.endswith(".json")):
            return dense.dense(problem, **self._rates)
        return swapping.Swapping(
            problem,
            swapping.points(problem, **self._rates),
            counts=swapping.counts(self, problem),
            sigma_init=None,
            mean_init=self.mean_init,
            rule=Rule(self.removal, self.addition, lam=self.removal_lambda),
            rate=swapping.rate(self, problem),
            grow_batches=self.grow_batches,
        )

    def _likelihood(self, problem: "Problem") -> dict[str, Any]:
        """What changes of the training step where every member sees all examples."""
        from ssvi_jax.methods.algorithms.member_batches import MemberBound, Tiled

        tile = self.member_batch == "tile"
        if not tile and problem.batch_size % self.members:
            raise InputError(
                f"batch_size: got {problem.batch_size} for {self.members} members, "
                "allowed: a multiple of it (or member_batch tile)."
            )
        if self.bound == "mixture" and not tile:
            raise InputError(
                "bound: got mixture with member_batch split, allowed: tile (every "
                "member must see every example)."
            )
        if not tile:
            return {}
        return {
            "apply_fn": Tiled(problem.apply_fn, self.members),
            "likelihood": MemberBound(problem.likelihood, self.bound),
        }

    def _changed(
        self, problem: "Problem", changes: Mapping[str, Any]
    ) -> "Dense | Swapping":
        base = self._base(problem)
        changes = {**self._likelihood(problem), **changes}
        inference = dataclasses.replace(base.inference, **changes)
        return dataclasses.replace(base, inference=inference)


@register
@dataclasses.dataclass(frozen=True)
class Rank1(_Shared):
    """K members: point estimates times rank-1 Gaussian or Cauchy factors."""

    name: ClassVar[str] = "rank1"
    fixed: ClassVar[tuple[str, ...]] = (*_Shared.fixed, "kl_scale", "kl_warmup")

    fast_posterior: Literal["gaussian", "cauchy"] = "gaussian"
    """Posterior of the factors."""
    fast_prior: Literal["gaussian", "cauchy", "half_cauchy", "inverse_gamma"] = (
        "gaussian"
    )
    """Prior of the factors around 1; the last two are priors of its scale."""
    fast_prior_scale: float = setting(0.1, positive)
    """Its standard deviation or scale."""
    fast_sigma_init: float = setting(0.0316, positive)
    """Initial standard deviation of the factors."""
    fast_relative_sigma: bool = False
    """Make it a multiple of the factor's abs mean, as Gaussian dropout does."""
    kl_scale: float = setting(1.0, not_negative)
    """β: weight of the KL of the factors; 1 is the exact ELBO."""
    kl_warmup: float = setting(0.8, part)
    """Fraction of the steps over which β grows from 0."""
    sigma_learning_rate: float | None = setting(None, optional(positive))
    """Peak learning rate of the standard deviations' parameters; None: as of means."""

    @property
    def _rates(self) -> dict[str, float | None]:
        return {**super()._rates, "sigma_learning_rate": self.sigma_learning_rate}

    @property
    def structure(self) -> Structure:
        """See `Method.structure`."""
        spec = Rank1Spec(
            num_members=self.members,
            posterior=self.fast_posterior,
            relative=self.fast_relative_sigma,
            **self._initial,
            sigma_init=self.fast_sigma_init,
        )
        return Structure(rank1=spec)

    def build(self, problem: "Problem") -> "Dense | Swapping":
        """See `Method.build`; also a batch that the members cannot share."""
        from ssvi_jax.methods.algorithms.gaussians import kl_weight
        from ssvi_jax.networks.rank1_priors import FastPrior, check_pair
        from ssvi_jax.networks.structured import kl_of

        check_pair(self.fast_posterior, self.fast_prior)
        prior = FastPrior(self.fast_prior, self.fast_prior_scale)
        weight = kl_weight(self.kl_scale, problem.total_steps, self.kl_warmup)
        changes = {
            "params_kl": partial(kl_of(problem.apply_fn), prior),
            "kl_weight": weight,
        }
        return self._changed(problem, changes)


@register
@dataclasses.dataclass(frozen=True)
class BatchEnsemble(_Shared):
    """K members: point estimates times rank-1 factors that are numbers."""

    name: ClassVar[str] = "batch_ensemble"
    fixed: ClassVar[tuple[str, ...]] = (*_Shared.fixed, "fast_rate_scale")

    fast_rate_scale: float = setting(0.5, positive)
    """Learning rate of the factors' means over that of the kernels."""

    @property
    def structure(self) -> Structure:
        """See `Method.structure`."""
        spec = Rank1Spec(
            num_members=self.members,
            posterior="point",
            **self._initial,
        )
        return Structure(rank1=spec)

    def build(self, problem: "Problem") -> "Dense | Swapping":
        """See `Method.build`; also a batch that the members cannot share."""
        return self._changed(problem, {})

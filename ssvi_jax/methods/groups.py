"""Settings that several methods share."""

import dataclasses
from typing import Literal

from ssvi_jax.core.settings import (
    Settings,
    fraction,
    not_negative,
    optional,
    part,
    positive,
    setting,
)
from ssvi_jax.core.structure import Structure


@dataclasses.dataclass(frozen=True)
class Sparsity(Settings):
    """How many weights there are, and how they start."""

    sparsity: float = setting(0.95, fraction)
    """Fraction of kernel weights that are exactly zero, in [0, 1); 0 is dense."""
    densities: str = "erk"
    """uniform, er, erk, sqrt_erk, or a .json file {path: density} for sparsity too."""
    mean_init: float = setting(0.0, not_negative)
    """Standard deviation of the initial means; 0: He initialization by fan-in."""


@dataclasses.dataclass(frozen=True)
class Replacement(Settings):
    """How many weights are swapped between two phases."""

    replacement_rate: float = setting(0.3, part)
    """Fraction of a layer's weights swapped at the first swap; 0: static masks."""
    replacement_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How that fraction falls."""
    replacement_end: float = setting(0.75, part)
    """Fraction of the steps after which masks stay as they are."""


@dataclasses.dataclass(frozen=True)
class Growth(Settings):
    """Of what new weights are chosen."""

    grow_batches: int = setting(1, positive)
    """Batches that the dense gradient is averaged over."""


@dataclasses.dataclass(frozen=True)
class Criteria(Settings):
    """Which weights go and which come."""

    removal: Literal[
        "abs_snr", "snr", "mean", "abs_mean", "exp_abs_mean", "exp_abs_snr"
    ] = "abs_snr"
    """Score whose lowest weights go."""
    removal_lambda: float = setting(1.0, positive)
    """λ of the exponential removal scores; sensible: 1 / size of a typical weight."""
    addition: Literal["gradient", "random"] = "gradient"
    """What decides which weights come."""


@dataclasses.dataclass(frozen=True)
class Gaussians(Settings):
    """How the mean-field Gaussians of kernels are trained."""

    estimator: Literal["local_reparam", "flipout", "weight_sample"] = "local_reparam"
    """Gradient estimator."""
    kl_scale: float = setting(0.01, not_negative)
    """β: weight of the KL; 1 is the exact ELBO, below 1 a cold posterior."""
    kl_warmup: float = setting(0.5, part)
    """Fraction of the steps over which β grows from 0."""
    sigma_init: float = setting(6e-4, positive)
    """Mean of the initial standard deviations; their spread is 5/6 of it."""
    sigma_learning_rate: float | None = setting(None, optional(positive))
    """Peak learning rate of the standard deviations' parameters; None: as of means."""


@dataclasses.dataclass(frozen=True)
class Prior(Settings):
    """The prior of every kept weight."""

    prior: Literal[
        "gaussian", "empirical", "scale_mixture", "laplace", "log_uniform"
    ] = "gaussian"
    """Its family; empirical: a Gaussian as wide as each layer's weights at any time.
    That and log_uniform have no standard deviation of yours."""
    prior_std: float = setting(0.1, positive)
    """Its standard deviation (the wider one of a mixture)."""


@dataclasses.dataclass(frozen=True)
class NewWeights(Settings):
    """How weights that come start."""

    growth_init: Literal["mean", "precision", "eps"] = "mean"
    """Standard deviation of new weights: the layer's mean, its mean 1/σ², or 1e-6."""


@dataclasses.dataclass(frozen=True)
class Pruning(Settings):
    """When a network that is dense at first is pruned."""

    prune_at: float = setting(0.5, fraction)
    """Fraction of the steps that are dense."""


@dataclasses.dataclass(frozen=True)
class Copies(Settings):
    """K networks in one training."""

    members: int = setting(4, positive)
    """K: members of the ensemble, components of the mixture."""
    members_at_once: int = setting(0, not_negative)
    """Members in one vectorized step, the others wait; 0: all on a GPU or TPU, 1 on a
    CPU."""

    @property
    def structure(self) -> Structure:
        """See `Method.structure`."""
        return Structure(copies=self.members)

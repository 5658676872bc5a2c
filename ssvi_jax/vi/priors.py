"""Priors over a weight and the KL divergence to them, for mean-field Gaussians q.

Every prior is a frozen dataclass (hashable, so static under jit) with

    kl(mean, sigma, key) -> KL(N(mean, sigma²) ‖ prior), summed over coordinates, nats

differentiable in mean and sigma. Where it is estimated by Monte Carlo, the samples are
reparameterized and everything that has a closed form is taken in closed form.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from ssvi_jax.core.errors import InputError, check_choice, check_positive


class Prior(Protocol):
    """Anything that can say how far a factorized Gaussian is from it."""

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """Returns Σ KL(N(mean, sigma²) ‖ prior) in nats, a scalar.

        Args:
          mean: ``[s]`` (any shape).
          sigma: standard deviations of the same shape, > 0.
          key: random key; closed forms do not read it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class GaussianPrior:
    """N(0, std²) for every weight; its KL is a closed form.

    Attributes:
      std: standard deviation, > 0.
    """

    std: float

    def __post_init__(self) -> None:
        """Checks the attributes."""
        check_positive("prior std", self.std)

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """Exact KL in nats, see `Prior.kl`; `key` is not read."""
        del key
        m, s = mean / self.std, sigma / self.std
        return jnp.sum(0.5 * (m * m + s * s - 1) - jnp.log(s))


@dataclasses.dataclass(frozen=True)
class ScaleMixturePrior:
    """Mixture pi · N(0, std1²) + (1 − pi) · N(0, std2²), a wide and a narrow Gaussian.

    Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, equation 7.

    With r(θ) the density of the mixture over that of N(0, std1²),

        KL(q ‖ mixture) = KL(q ‖ N(0, std1²)) − E_q log r(θ),

    and only the last term is sampled. Since pi <= r <= pi + (1 − pi) · std1/std2, the
    estimate's variance is bounded, however far out the weights are.

    Attributes:
      pi: weight of the wide component, in (0, 1).
      std1: standard deviation of the wide component.
      std2: standard deviation of the narrow component, 0 < std2 <= std1.
      num_samples: Monte Carlo samples of θ.
    """

    pi: float
    std1: float
    std2: float
    num_samples: int = 1

    def __post_init__(self) -> None:
        """Checks the attributes."""
        check_positive("prior std1", self.std1)
        check_positive("prior std2", self.std2)
        _check_samples(self.num_samples)
        if not 0 < self.pi < 1:
            raise InputError(f"prior pi: got {self.pi}, allowed: a number in (0, 1).")
        if self.std2 > self.std1:
            raise InputError(
                f"prior std2: got {self.std2}, allowed: at most std1 = {self.std1}; "
                "name the wide component first."
            )

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """Unbiased estimate of the KL in nats, see `Prior.kl`."""
        theta = _samples(mean, sigma, key, self.num_samples)
        # log of N(θ; 0, std2²)/N(θ; 0, std1²)
        precision = 1 / self.std2**2 - 1 / self.std1**2
        narrow = math.log(self.std1 / self.std2) - 0.5 * precision * theta * theta
        log_ratio = jnp.logaddexp(math.log(self.pi), math.log1p(-self.pi) + narrow)
        wide = GaussianPrior(self.std1).kl(mean, sigma, key)
        return wide - jnp.sum(log_ratio) / self.num_samples


@dataclasses.dataclass(frozen=True)
class LaplacePrior:
    """Laplace density exp(−abs(θ)/scale) / (2 · scale).

    KL(q ‖ Laplace) = log(2 · scale) + E_q abs(θ)/scale − entropy(q). The expectation is
    that of a folded normal, so by default nothing is sampled.

    Attributes:
      scale: mean of abs(θ), > 0.
      num_samples: Monte Carlo samples of θ; None takes the closed form.
    """

    scale: float
    num_samples: int | None = None

    def __post_init__(self) -> None:
        """Checks the attributes."""
        check_positive("prior scale", self.scale)
        if self.num_samples is not None:
            _check_samples(self.num_samples)

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """KL in nats, see `Prior.kl`; `key` is read only when sampling."""
        if self.num_samples is None:
            size = jnp.sum(_folded_mean(mean, sigma))
        else:
            theta = _samples(mean, sigma, key, self.num_samples)
            size = jnp.sum(jnp.abs(theta)) / self.num_samples
        # log(2 · scale) − entropy(q), coordinate by coordinate
        constant = math.log(2) - 0.5 * math.log(2 * math.pi * math.e)
        return size / self.scale + jnp.sum(constant - jnp.log(sigma / self.scale))


@dataclasses.dataclass(frozen=True)
class LogUniformPrior:
    """Improper density ∝ 1/abs(θ): log abs(θ) is uniform.

    Molchanov et al., "Variational Dropout Sparsifies Deep Neural Networks", ICML 2017
    (arXiv 1701.05369), equation 14, with α = σ²/μ²:

        KL = k1 · (1 − sigmoid(k2 + k3 · log α)) + log(1 + 1/α)/2 + constant

    The constant, free for an improper prior, is such that the KL is 0 for α → ∞. The
    approximation is within 0.01 nats of the integral for every α.
    """

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """Approximate KL in nats, see `Prior.kl`; `key` is not read."""
        del key
        snr = jnp.square(mean / sigma)  # 1/α
        # The smallest normal number instead of 0 keeps the gradient at a zero mean.
        log_alpha = -jnp.log(jnp.maximum(snr, jnp.finfo(snr.dtype).tiny))
        bend = 0.63576 * jax.nn.sigmoid(-(1.87320 + 1.48695 * log_alpha))
        return jnp.sum(bend + 0.5 * jnp.log1p(snr))


def _check_samples(num_samples: int) -> None:
    if not isinstance(num_samples, int) or num_samples < 1:
        raise InputError(
            f"prior num_samples: got {num_samples!r}, allowed: a whole number >= 1."
        )


def _samples(
    mean: jax.Array, sigma: jax.Array, key: jax.Array, num_samples: int
) -> jax.Array:
    """``[num_samples, *mean.shape]`` reparameterized samples of N(mean, sigma²)."""
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    return mean[None] + sigma[None] * noise


def _folded_mean(mean: jax.Array, sigma: jax.Array) -> jax.Array:
    """E abs(θ) for θ ~ N(mean, sigma²)."""
    t = mean / sigma
    tail = math.sqrt(2 / math.pi) * sigma * jnp.exp(-0.5 * t * t)
    return mean * erf(t * math.sqrt(0.5)) + tail


@dataclasses.dataclass(frozen=True)
class EmpiricalPrior:
    """N(0, s²) for the weights of a layer, with the s that makes their KL smallest.

    That is s² = mean of mean² + sigma², in closed form, at every step (empirical Bayes,
    or type-II maximum likelihood: MacKay 1992). What is left of the KL is
    ½ Σ log(s² / sigma²), whose gradient is that at this s.
    """

    def kl(self, mean: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        """Exact KL in nats of one layer, see `Prior.kl`; `key` is not read."""
        del key
        second = jnp.mean(mean * mean + sigma * sigma)
        return jnp.sum(0.5 * jnp.log(second) - jnp.log(sigma))


PRIORS: dict[str, Callable[..., Prior]] = {
    "empirical": EmpiricalPrior,
    "gaussian": GaussianPrior,
    "scale_mixture": ScaleMixturePrior,
    "laplace": LaplacePrior,
    "log_uniform": LogUniformPrior,
}


def make_prior(name: str, **parameters: float | None) -> Prior:
    """Returns the prior of that name, e.g. ``make_prior("gaussian", std=0.1)``.

    Args:
      name: a key of `PRIORS`.
      **parameters: the attributes of that prior.

    Raises:
      InputError: unknown name, a parameter that the prior does not have or lacks, or
        a value outside its range.
    """
    check_choice("prior", name, PRIORS)
    fields = dataclasses.fields(PRIORS[name])  # pyright: ignore[reportArgumentType]
    known = {field.name for field in fields}
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not needed <= parameters.keys() <= known:
        raise InputError(
            f"prior {name}: got {', '.join(sorted(parameters)) or 'no parameters'}, "
            f"needed: {', '.join(sorted(needed))}, "
            f"allowed: {', '.join(sorted(known))}."
        )
    return PRIORS[name](**parameters)

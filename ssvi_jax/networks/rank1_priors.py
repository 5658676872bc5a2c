"""Priors of rank-1 factors and the KL divergence to them (arXiv 2005.07186).

x is a factor's distance from 1; its posterior q is Gaussian or Cauchy with location μ
and scale σ. With a Gaussian both ways the KL is a closed form. Otherwise

    KL(q ‖ p) = −entropy(q) − E_q log p(x),   E_q by one draw x = μ + σ ε

so only what has no closed form is sampled. The two hierarchical priors are Gaussians
whose scale has a prior of its own, for each factor; the scale is integrated out:

- "half_cauchy": N(0, (scale · λ)²), λ ~ half-Cauchy(0, 1); the horseshoe;
- "inverse_gamma": N(0, v), v ~ inverse-gamma(2, 2 scale²); Student's t with 4 degrees
  of freedom.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError, check_choice, check_positive
from ssvi_jax.ops import noise
from ssvi_jax.vi.priors import GaussianPrior

FAST_PRIORS = ("gaussian", "cauchy", "half_cauchy", "inverse_gamma")

_FAR = 2.0  # where a continued fraction of E₁ takes over from its power series
_TERMS = 24  # of both
_NEAR_ZERO = 1e-12  # the horseshoe's density is infinite at 0


@dataclasses.dataclass(frozen=True)
class FastPrior:
    """A prior of the factors' distances from 1.

    Attributes:
      name: one of `FAST_PRIORS`.
      scale: its standard deviation or scale, above 0.

    Raises:
      InputError: an unknown name, or a scale that is not positive.
    """

    name: str = "gaussian"
    scale: float = 0.1

    def __post_init__(self):
        check_choice("fast prior", self.name, FAST_PRIORS)
        check_positive("fast prior scale", self.scale)

    def kl(
        self, posterior: str, mean: jax.Array, sigma: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Σ KL(q ‖ prior) in nats, a scalar; an unbiased estimate unless both Gaussian.

        Args:
          posterior: q, "gaussian" or "cauchy".
          mean: locations of x, any shape.
          sigma: scales of the same shape, above 0.
          key: random key of the draw.

        Raises:
          InputError: a Cauchy posterior with a Gaussian prior: their KL is infinite.
        """
        if posterior == self.name == "gaussian":
            return GaussianPrior(self.scale).kl(mean, sigma, key)
        check_pair(posterior, self.name)
        if posterior == "gaussian":
            entropy = 0.5 * math.log(2 * math.pi * math.e) + jnp.log(sigma)
        else:
            entropy = math.log(4 * math.pi) + jnp.log(sigma)
        x = mean + sigma * standard(posterior, key, mean.shape)
        return -jnp.sum(entropy + self.log_density(x))

    def log_density(self, x: jax.Array) -> jax.Array:
        """Returns log p(x) in nats, of the shape of x."""
        z = x / self.scale
        if self.name == "gaussian":
            value = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
        elif self.name == "cauchy":
            value = -jnp.log1p(z * z) - math.log(math.pi)
        elif self.name == "inverse_gamma":
            value = -2.5 * jnp.log1p(z * z / 4) + math.log(0.375)
        else:
            value = _log_scaled_e1(0.5 * z * z) - 0.5 * math.log(2 * math.pi**3)
        return value - math.log(self.scale)


def check_pair(posterior: str, prior: str) -> None:
    """Raises `InputError` where KL(posterior ‖ prior) is infinite."""
    if (posterior, prior) == ("cauchy", "gaussian"):
        raise InputError(
            "fast prior: got gaussian with a cauchy posterior, whose KL is infinite; "
            "allowed: cauchy, half_cauchy, inverse_gamma."
        )


def standard(
    posterior: str,
    key: jax.Array,
    shape: tuple[int, ...],
    whole: int | None = None,
    first: jax.typing.ArrayLike = 0,
) -> jax.Array:
    """Draws of the standard normal ("gaussian") or Cauchy distribution.

    Of a part of a larger array with `whole` and `first` (see `ops.noise.words`).
    """
    if posterior == "gaussian":
        return noise.normal(key, shape, whole=whole, first=first)
    uniform = (noise.bits(key, shape, whole, first) >> 9).astype(jnp.float32) + 0.5
    return jnp.tan(jnp.pi * (uniform * 2.0**-23 - 0.5))


def _log_scaled_e1(z: jax.Array) -> jax.Array:
    """Log(e^z E₁(z)) for z ≥ 0 (Abramowitz and Stegun, 5.1.11 and 5.1.22)."""
    near, far = jnp.clip(z, _NEAR_ZERO, _FAR), jnp.maximum(z, _FAR)
    series, fraction = jnp.zeros_like(near), far + 2 * _TERMS + 1
    for n in range(_TERMS, 0, -1):
        series = -near / n * (1.0 / n + series)
        fraction = far + 2 * n - 1 - n * n / fraction
    log_near = near + jnp.log(-np.euler_gamma - jnp.log(near) - series)
    return jnp.where(z < _FAR, log_near, -jnp.log(fraction))

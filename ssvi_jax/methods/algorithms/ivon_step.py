"""The step of IVON (Shen et al., ICML 2024, arXiv 2402.17641).

A Gaussian posterior N(m, σ²), of which the Hessian of the loss makes the standard
deviations: σ² = 1 / (λ (h + δ)), with λ = N, the number of training examples, and δ the
weight decay, that is a prior N(0, 1/(λ δ)). A step takes the gradient ĝ of the mean of
-log p at one sample m + σ ε and then (algorithm 1)::

    ĥ  = ĝ ε / σ
    g  ← β₁ g + (1 - β₁) ĝ
    h  ← h + x + x² / (2 (h + δ)),    x = (1 - β₂) (ĥ - h)
    m  ← m - α (h₀ + δ) clip((g / (1 - β₁ᵗ) + δ m) / (h + δ))

The term in x² keeps h + δ above 0 whatever ĥ is. α (h₀ + δ) is the paper's scaling of
the learning rate, with which the first step is that of SGD.

The gradient of one weight sample in ρ is ĝ ε dσ/dρ, so `vi.VI` finds ĝ and ĝ ε together
and IVON is an optimizer over `vi.Trainable`, without a KL in what is differentiated:
the logged loss is the NLL, and the logged KL is that from the prior above. Where
the paper treats all parameters alike, biases and norms are points here, as in every
method: they take the same step with h fixed at h₀, which is SGD.
"""

import dataclasses
import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError, check_fraction, check_positive
from ssvi_jax.core.types import Gaussian
from ssvi_jax.vi import posterior as posterior_lib


class IvonState(NamedTuple):
    """The optimizer's state.

    Attributes:
      count: int32 scalar, steps taken.
      moments: g in the place of means and points, h in that of rhos.
    """

    count: jax.Array
    moments: vi.Trainable


@dataclasses.dataclass(frozen=True)
class Ivon:
    """The constants of a step; see the module.

    Attributes:
      learning_rate: step → α.
      ess: λ, the effective number of examples.
      hess_init: h₀, nats per example and squared weight, as h and δ.
      beta1: of the momentum, in [0, 1).
      beta2: of the Hessian, in [0, 1).
      weight_decay: δ.
      clip_radius: largest change of a weight, over α (h₀ + δ); 0: any.

    Raises:
      InputError: one of them is out of its range.
    """

    learning_rate: optax.Schedule
    ess: float
    hess_init: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.99999
    weight_decay: float = 2e-4
    clip_radius: float = 0.0

    def __post_init__(self):
        for name in ("ess", "hess_init", "weight_decay"):
            check_positive(name, getattr(self, name))
        for name in ("beta1", "beta2"):
            check_fraction(name, getattr(self, name))
        if not 0 <= self.clip_radius < math.inf:
            raise InputError(f"clip_radius: got {self.clip_radius}, allowed: from 0.")

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior that the weight decay is."""
        return (self.ess * self.weight_decay) ** -0.5

    def sigma(self, hess: jax.typing.ArrayLike) -> jax.Array:
        """Standard deviations of weights with this h."""
        return jax.lax.rsqrt(self.ess * (jnp.asarray(hess) + self.weight_decay))

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer over `vi.Trainable`, for gradients of one weight sample."""
        return optax.GradientTransformation(self._init, self._update)  # type: ignore[arg-type]

    def _init(self, trainable: vi.Trainable) -> IvonState:
        posterior = {
            path: Gaussian(
                jnp.zeros_like(q.mean), jnp.full_like(q.mean, self.hess_init)
            )
            for path, q in trainable.posterior.items()
        }
        params = jax.tree.map(jnp.zeros_like, trainable.params)
        return IvonState(jnp.zeros((), jnp.int32), vi.Trainable(posterior, params))

    def _update(
        self, grads: vi.Trainable, state: IvonState, trainable: vi.Trainable
    ) -> tuple[vi.Trainable, IvonState]:
        count = state.count + 1
        scale = self.hess_init + self.weight_decay
        rate = scale * jnp.asarray(self.learning_rate(state.count))
        unbiased = 1 / (1 - jnp.asarray(self.beta1) ** count)

        def momentum(g, gradient):
            return self.beta1 * g + (1 - self.beta1) * gradient

        def change(g, mean, hess):
            step = unbiased * g + self.weight_decay * mean
            step = step / (hess + self.weight_decay)
            if self.clip_radius:
                step = jnp.clip(step, -self.clip_radius, self.clip_radius)
            return -rate * step

        moments, changes = {}, {}
        for path, q in trainable.posterior.items():
            gradient, moment = grads.posterior[path], state.moments.posterior[path]
            q, gradient, moment = (cast(Gaussian, p) for p in (q, gradient, moment))
            g = momentum(moment.mean, gradient.mean)
            hess = self._new_hess(moment.rho, q.rho, gradient.rho)
            rho = posterior_lib.to_rho(self.sigma(hess))
            moments[path] = Gaussian(g, hess)
            changes[path] = Gaussian(change(g, q.mean, hess), rho - q.rho)
        g = jax.tree.map(momentum, state.moments.params, grads.params)
        params = jax.tree.map(
            lambda g, mean: change(g, mean, self.hess_init), g, trainable.params
        )
        new_state = IvonState(count, vi.Trainable(moments, g))
        return vi.Trainable(changes, params), new_state

    def _new_hess(
        self, hess: jax.Array, rho: jax.Array, gradient: jax.Array
    ) -> jax.Array:
        """The new h, by the loss's gradient in ρ: ĝ ε times dσ/dρ, a sigmoid."""
        estimate = gradient / (jax.nn.sigmoid(rho) * posterior_lib.to_sigma(rho))
        x = (1 - self.beta2) * (estimate - hess)
        return hess + x + x**2 / (2 * (hess + self.weight_decay))

"""The step of IVON (Shen et al., ICML 2024, arXiv 2402.17641), on packed weights.

A Gaussian posterior N(m, σ²), of which the Hessian of the loss makes the standard
deviations: σ² = 1 / (λ (h + δ)). λ = N / T is the number of training examples over the
temperature T (1: the full KL), and δ the weight decay, that is a prior N(0, 1/(λ δ)). A
step takes a gradient ĝ of the mean of -log p in m, and ĥ, one of σ over σ (of one
sample m + σ ε of the weights: ĝ ε / σ), and then (algorithm 1)::

    g  ← β₁ g + (1 - β₁) ĝ
    h  ← h + x + x² / (2 (h + δ)),    x = (1 - β₂) (ĥ - h)
    m  ← m - α (h₀ + δ) clip((g / (1 - β₁ᵗ) + δ m) / (h + δ))

The term in x² keeps h + δ above 0 whatever ĥ is. α (h₀ + δ) is the paper's scaling of
the learning rate, with which the first step is that of SGD.

`vi.VI` finds the gradient in ρ by any of its estimators, so IVON is an optimizer over
`vi.Trainable`, without a KL in what is differentiated: the logged loss is the NLL, and
the logged KL is that from the prior above. h is not kept: 1 / (λ σ²) - δ is it, so what
follows σ when weights leave and enter a subspace follows h, and a weight has three
numbers: m, ρ and g. Where the paper treats all parameters alike, biases and norms are
points here, as in every method: they take the same step with h fixed at h₀, which is
SGD.

With an empirical prior δ is each layer's own and not constant: 1 / (λ s²), with s² the
mean of m² + σ² over its weights, the variance of the prior under which the ELBO is
largest. h + δ then follows a target that moves as slowly as the layer's weights do.
"""

import dataclasses
import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError, check_fraction, check_positive
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.vi import posterior as posterior_lib


class IvonState(NamedTuple):
    """The optimizer's state.

    Attributes:
      count: int32 scalar, steps taken.
      momentum: g of means and points.
    """

    count: jax.Array
    momentum: vi.Trainable


@dataclasses.dataclass(frozen=True)
class Ivon:
    """The constants of a step; see the module.

    Attributes:
      learning_rate: step → α.
      ess: λ, the effective number of examples.
      hess_init: h₀, nats per example and squared weight, as h and δ.
      beta1: of the momentum, in [0, 1).
      beta2: of the Hessian, in [0, 1).
      weight_decay: δ; with an empirical prior of biases and norms only.
      clip_radius: largest change of a weight, over α (h₀ + δ); 0: any.
      empirical: whether δ is each layer's own.

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
    empirical: bool = False

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
        """Standard deviations of weights with this h, under the weight decay."""
        return jax.lax.rsqrt(self.ess * (jnp.asarray(hess) + self.weight_decay))

    def precision(self, rho: jax.Array) -> jax.Array:
        """H + δ of weights with this rho."""
        return 1 / (self.ess * jnp.square(posterior_lib.to_sigma(rho)))

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer over `vi.Trainable`."""
        return optax.GradientTransformation(self._init, self._update)  # type: ignore[arg-type]

    def _init(self, trainable: vi.Trainable) -> IvonState:
        posterior = {
            path: Point(jnp.zeros_like(q.mean))
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

        def change(g, mean, decay, precision):
            step = (unbiased * g + decay * mean) / precision
            if self.clip_radius:
                step = jnp.clip(step, -self.clip_radius, self.clip_radius)
            return -rate * step

        moments, changes = {}, {}
        for path, q in trainable.posterior.items():
            gradient = grads.posterior[path]
            q, gradient = cast(Gaussian, q), cast(Gaussian, gradient)
            g = momentum(state.momentum.posterior[path].mean, gradient.mean)
            decay = self.decay(q)
            precision = self.new_precision(q.rho, gradient.rho, decay)
            rho = posterior_lib.to_rho(jax.lax.rsqrt(self.ess * precision))
            moments[path] = Point(g)
            step = change(g, q.mean, decay, precision)
            changes[path] = Gaussian(step, rho - q.rho)
        g = jax.tree.map(momentum, state.momentum.params, grads.params)
        params = jax.tree.map(
            lambda g, mean: change(g, mean, self.weight_decay, scale),
            *(g, trainable.params),
        )
        new_state = IvonState(count, vi.Trainable(moments, g))
        return vi.Trainable(changes, params), new_state

    def decay(self, q: Gaussian) -> jax.typing.ArrayLike:
        """δ of a layer, by its weights if the prior is empirical."""
        if not self.empirical:
            return self.weight_decay
        second = jnp.square(q.mean) + jnp.square(posterior_lib.to_sigma(q.rho))
        return 1 / (self.ess * jnp.mean(second))

    def new_precision(
        self, rho: jax.Array, gradient: jax.Array, decay: jax.typing.ArrayLike
    ) -> jax.Array:
        """H + δ after a step, by the gradient in ρ: that in σ times a sigmoid."""
        sigma, before = posterior_lib.to_sigma(rho), self.precision(rho)
        estimate = gradient / (jax.nn.sigmoid(rho) * sigma)
        x = (1 - self.beta2) * (estimate - (before - decay))
        return before + x + x**2 / (2 * before)

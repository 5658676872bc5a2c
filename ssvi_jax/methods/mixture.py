"""SSVI with a mixture of K Gaussians on one subspace.

The weights' posterior is q = 1/K Σ_k N(μ_k, σ_k²); all components live on the same s
coordinates. Each maximizes its own ELBO, and the mean of these is a lower bound of the
mixture's: its expected log-likelihood is their mean, and KL(q ‖ p) is at most the mean
of KL(q_k ‖ p), by at most log K, because it is convex.

A swap is one for all: removal goes by the mean of the components' scores, addition by
the mean of their abs dense gradients.
"""

import copy

import jax
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.types import Masks
from ssvi_jax.methods import ensemble, ssvi
from ssvi_jax.methods.base import Problem
from ssvi_jax.networks import members
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import subspace


class Mixture(ensemble.Ensemble):
    """An ensemble whose members' masks are equal; made by `build`."""

    def rngs(self, rng: np.random.Generator) -> list[np.random.Generator]:
        """The same random numbers for each, so that they start with the same masks."""
        return [copy.deepcopy(rng) for _ in range(self.number)]

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """Removal and addition; see the module."""
        base = self.base
        assert isinstance(base, ssvi.SSVI)
        shared, *_ = members.unstack(masks, self.number)
        states = [self.member(state, k) for k in range(self.number)]
        gradients = None
        if base.rule.addition == "gradient":
            each = [
                base.gradients(states[k], shared, data, order[batch_index])
                for k, order in enumerate(self.orders)
            ]
            gradients = jax.tree.map(lambda *g: np.mean(g, axis=0), *each)
        rate = base.rate(int(state.step))
        shared, sources, swap = subspace.choose(
            [jax.device_get(member.posterior) for member in states],
            shared,
            gradients,
            rate=rate,
            rng=rng,
            rule=base.rule,
        )
        states = [subspace.move(member, sources, base.rule) for member in states]
        event = {"replacement_rate": rate, **swap.event}
        return ensemble.join(states), members.stack([shared] * self.number), event


def build(config: Config, problem: Problem) -> Mixture:
    """Builds SSVI with a mixture.

    Raises:
      InputError: see `ensemble.Ensemble.of` and `ssvi.build`.
    """
    return Mixture.of(ssvi.build, config, problem)

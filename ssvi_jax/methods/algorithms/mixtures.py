"""K Gaussian posteriors on one subspace, which they leave and enter together."""

import copy

import jax
import numpy as np

from ssvi_jax.core.types import Data, Masks
from ssvi_jax.methods.algorithms import copies
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.networks import members
from ssvi_jax.vi import State, subspace


class Mixture(copies.Ensemble):
    """An ensemble whose members' masks are equal."""

    def rngs(self, rng: np.random.Generator) -> list[np.random.Generator]:
        """The same random numbers for each, so that they start with the same masks."""
        return [copy.deepcopy(rng) for _ in range(self.number)]

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """Removal and addition; see the module."""
        base = self.base
        assert isinstance(base, Swapping)
        shared, *_ = members.unstack(masks, self.number)
        states = [self.member(state, k) for k in range(self.number)]
        gradients = None
        if base.rule.addition == "gradient":
            each = [
                jax.device_get(
                    base.gradients(states[k], shared, data, order[batch_index])
                )
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
        return copies.join(states), members.stack([shared] * self.number), event

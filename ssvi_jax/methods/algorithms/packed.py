"""What methods with packed kernels share: a first state on masks, and phases."""

import dataclasses
from dataclasses import KW_ONLY

import jax
import numpy as np

from ssvi_jax.core.types import Data, Masks
from ssvi_jax.methods.algorithms.member_batches import times_seen
from ssvi_jax.methods.problem import Problem
from ssvi_jax.vi import VI, State


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """See the module.

    Attributes:
      problem: what it was built on.
      inference: the training step.
      sigma_init: see `posterior.init`; None: points.
      mean_init: standard deviation of the initial means; 0: by fan-in.
    """

    problem: Problem
    inference: VI
    _: KW_ONLY
    sigma_init: tuple[float, float] | None
    mean_init: float = 0.0

    @property
    def estimator(self) -> str:
        """See `problem.Algorithm`."""
        return "deterministic" if self.sigma_init is None else self.inference.estimator

    @property
    def draws(self) -> int:
        """See `problem.Algorithm`."""
        return self.inference.draws

    @property
    def times_seen(self) -> int:
        """See `problem.Algorithm`."""
        return times_seen(self.inference.apply_fn)

    def first_masks(self, rng: np.random.Generator) -> Masks:
        """The masks before the first step."""
        raise NotImplementedError

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[State, Masks]:
        """The first masks, and the state on them."""
        problem, masks = self.problem, self.first_masks(rng)
        state = self.inference.init(
            key,
            problem.params,
            problem.model_state,
            masks,
            mean_std=self.mean_init or None,
            sigma_init=self.sigma_init,
            means=problem.start,
            identity=problem.dirac,
        )
        return state, masks

    def step(
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """One phase on the backend for its density; see `vi.VI.inner_loop`."""
        return self.inference.inner_loop(state, masks, data, batch_index)

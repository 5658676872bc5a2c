"""Training with no Bayesian weight at all: the same loop, and nothing to swap."""

import dataclasses

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data, Masks
from ssvi_jax.methods.algorithms.member_batches import times_seen
from ssvi_jax.methods.problem import Problem
from ssvi_jax.vi import VI, State


def no_kernel(path: str, leaf: jax.Array) -> bool:
    """Says of every parameter that it gets no posterior."""
    del path, leaf
    return False


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """See the module; a `problem.Algorithm`.

    Attributes:
      problem: what it was built on.
      inference: the training step.
    """

    problem: Problem
    inference: VI

    @property
    def estimator(self) -> str:
        """See `problem.Algorithm`."""
        return "deterministic"

    @property
    def draws(self) -> int:
        """See `problem.Algorithm`."""
        return self.inference.draws

    @property
    def times_seen(self) -> int:
        """See `problem.Algorithm`."""
        return times_seen(self.inference.apply_fn)

    @property
    def prune_step(self) -> int:
        """0: it is never pruned."""
        return 0

    @property
    def growth(self) -> None:
        """None: nothing is added."""
        return None

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[State, Masks]:
        """The model's own initialization; no masks."""
        del rng
        problem = self.problem
        state = self.inference.init(key, problem.params, problem.model_state, {})
        return state, {}

    def step(
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """One phase; see `vi.VI.inner_loop`."""
        return self.inference.inner_loop(state, masks, data, batch_index)

    def num_growth_batches(self, step: int) -> int:
        """0: there is nothing to swap."""
        del step
        return 0

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """Leaves everything as it is."""
        del data, batch_index, rng
        return state, masks, {}


def dense(problem: Problem, **rates: float | None) -> Dense:
    """A dense point estimate.

    Args:
      problem: what to build on.
      **rates: see `problem.Problem.transformation`.

    Raises:
      InputError: the sparse backend, or what cannot be computed.
    """
    if problem.execution.backend == "sparse":
        raise InputError(
            "backend: got sparse for a dense network, allowed: auto, xla (the sparse "
            "kernels take networks of which weights are kept)."
        )
    problem.execution.check(problem.batch_size, density=1.0)
    tx = problem.transformation(**rates)
    inference = problem.inference(tx, is_bayesian=no_kernel)
    return Dense(problem, inference)

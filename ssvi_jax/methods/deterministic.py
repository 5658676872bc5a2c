"""A dense point estimate: the same loop with no Bayesian weight at all."""

import dataclasses
from collections.abc import Callable
from typing import Self

import jax
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks
from ssvi_jax.methods import optimizers
from ssvi_jax.methods.base import Problem
from ssvi_jax.training.run_config import Config


@dataclasses.dataclass(frozen=True, eq=False)
class Deterministic:
    """See the module; made by `build`."""

    problem: Problem
    inference: vi.VI

    def with_inference(self, change: Callable[[vi.VI], vi.VI]) -> Self:
        """See `methods.Method`."""
        return dataclasses.replace(self, inference=change(self.inference))

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[vi.State, Masks]:
        """The model's own initialization; no masks."""
        del rng
        problem = self.problem
        state = self.inference.init(key, problem.params, problem.model_state, {})
        return state, {}

    def step(
        self, state: vi.State, masks: Masks, data: vi.Data, batch_index: np.ndarray
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """One phase; see `vi.VI.inner_loop`."""
        return self.inference.inner_loop(state, masks, data, batch_index)

    def num_growth_batches(self, step: int) -> int:
        """0: there is nothing to swap."""
        del step
        return 0

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """Leaves everything as it is."""
        del data, batch_index, rng
        return state, masks, {}


def build(config: Config, problem: Problem) -> Deterministic:
    """Builds the dense baseline.

    Raises:
      InputError: a sparsity above 0, or the sparse backend.
    """
    if config.backend == "sparse":
        raise InputError(
            f"--backend: got sparse, allowed with --method {config.method}: auto, xla "
            "(it is dense)."
        )
    if config.sparsity:
        raise InputError(
            f"--sparsity: got {config.sparsity}, allowed with --method "
            f"{config.method}: 0 (it is dense)."
        )
    inference = vi.VI(
        apply_fn=problem.apply_fn,
        tx=optimizers.from_config(config, problem.total_steps),
        num_data=problem.num_data,
        augment=problem.augment,
        is_bayesian=lambda path, leaf: False,
    )
    return Deterministic(problem, inference)

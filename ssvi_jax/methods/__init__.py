"""Training methods, all behind the same build / init / step / swap.

`train` knows nothing else of a method. What a method gets to build on is a `Problem`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from ssvi_jax.adapters import Layer
from ssvi_jax.config import Config
from ssvi_jax.errors import check_choice
from ssvi_jax.types import ApplyFn, Masks, ModelState, Params
from ssvi_jax.vi import Augment, Data, State


class Problem(NamedTuple):
    """A network and the size of its training.

    Attributes:
      apply_fn: the network.
      params: its initial parameters.
      model_state: its initial running statistics.
      layers: its products in the order they run.
      num_data: number of training examples.
      total_steps: steps of the whole training.
      augment: random transformation of training batches.
    """

    apply_fn: ApplyFn
    params: Params
    model_state: ModelState
    layers: list[Layer]
    num_data: int
    total_steps: int
    augment: Augment | None


class Method(Protocol):
    """What the training loop calls.

    Attributes:
      problem: what it was built on.
    """

    @property
    def problem(self) -> Problem:
        """See the class."""
        ...

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[State, Masks]:
        """State and masks before the first step."""
        ...

    def step(
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """One phase of M steps, ``batch_index`` int32 ``[M, batch]``; donates state."""
        ...

    def num_growth_batches(self, step: int) -> int:
        """How many batches `swap` needs at this step; 0: no swap is due."""
        ...

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """Changes the masks between phases; returns what to log about it."""
        ...


def build(name: str, config: Config, problem: Problem) -> Method:
    """Builds a method by name.

    Raises:
      InputError: unknown name, or settings that the method does not have.
    """
    from ssvi_jax.methods import deterministic, rank1, ssvi

    methods: dict[str, Callable[[Config, Problem], Method]] = {
        "ssvi": ssvi.build,
        "deterministic": deterministic.build,
        "rank1": rank1.build,
        "batch_ensemble": rank1.build,
    }
    check_choice("--method", name, methods)
    return methods[name](config, problem)

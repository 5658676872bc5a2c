"""What a method is built on, and what a training loop calls."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
import optax

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import (
    ApplyFn,
    Augment,
    Data,
    Masks,
    ModelState,
    Params,
)
from ssvi_jax.methods.algorithms.sgd import Sgd, scaled_factors
from ssvi_jax.metrics.cost import Growth
from ssvi_jax.networks.layers import Layer
from ssvi_jax.vi import VI, State, schedules
from ssvi_jax.vi.execution import Execution
from ssvi_jax.vi.likelihoods import Categorical, Likelihood

OptimizerLike: TypeAlias = (
    Sgd | optax.GradientTransformation | Callable[[int], optax.GradientTransformation]
)
"""Ours, any of optax, or a function of the number of steps that makes one."""


@functools.lru_cache(maxsize=64)
def adam(total_steps: int) -> optax.GradientTransformation:
    """Adam, whose rate rises to 0.01 over 30 % of the steps and falls to 0.

    It reaches all parameters alike, means and standard deviations.
    """
    return optax.adam(schedules.learning_rate("onecycle", 0.01, total_steps))


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A network, the size of its training, and how it is to be computed.

    Attributes:
      apply_fn: the network.
      params: its initial parameters.
      model_state: its initial running statistics.
      layers: its products in the order they run.
      num_data: N, the number of training examples.
      total_steps: steps of the whole training, whole phases.
      inner_steps: M, steps of a phase.
      batch_size: examples in a step.
      seed: of what is random on the host.
      optimizer: of means and deterministic parameters.
      likelihood: log p(y | output).
      augment: random transformation of training batches.
      execution: what multiplies, and on which devices.
      start: full parameters of a trained network, whose largest weights are the first
        masks and means; None: masks and means are drawn.
    """

    apply_fn: ApplyFn
    params: Params
    model_state: ModelState
    layers: list[Layer]
    num_data: int
    total_steps: int
    inner_steps: int = 100
    batch_size: int = 128
    seed: int = 0
    optimizer: OptimizerLike = Sgd()  # noqa: RUF009 (immutable)
    likelihood: Likelihood = Categorical()  # noqa: RUF009 (immutable)
    augment: Augment | None = None
    execution: Execution = Execution()  # noqa: RUF009 (immutable)
    start: Params | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Kernel path → full shape, in the order in which the network applies them."""
        return {layer.path: layer.shape for layer in self.layers}

    @property
    def num_weights(self) -> int:
        """Weights of all kernels."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def dirac(self) -> bool:
        """Whether the network's convolutions begin as the identity (see `vi.dirac`)."""
        return getattr(self.apply_fn, "dirac", False)

    def transformation(
        self,
        *,
        sigma_learning_rate: float | None = None,
        fast_rate_scale: float | None = None,
    ) -> optax.GradientTransformation:
        """The optimizer over `vi.Trainable`.

        Args:
          sigma_learning_rate: see `groups.Gaussians`.
          fast_rate_scale: learning rate of rank-1 factors over that of other means;
            None: they are trained as all others.

        Raises:
          InputError: either is given with an optimizer of the user's own.
        """
        if isinstance(self.optimizer, Sgd):
            return self.optimizer.transformation(
                self.total_steps, sigma_learning_rate, fast_rate_scale
            )
        if sigma_learning_rate is not None:
            raise InputError(
                f"sigma_learning_rate: got {sigma_learning_rate} with an optimizer of "
                "your own, allowed: None; give rates by optax.partition."
            )
        tx = self.optimizer
        if not isinstance(tx, optax.GradientTransformation):
            tx = tx(self.total_steps)
        if fast_rate_scale in (None, 1.0):
            return tx
        return optax.chain(tx, scaled_factors(fast_rate_scale))

    def inference(self, tx: optax.GradientTransformation, **options: Any) -> VI:
        """The training step of this problem; `options` as of `vi.VI`."""
        given = {
            "apply_fn": self.apply_fn,
            "likelihood": self.likelihood,
            "num_data": self.num_data,
            "augment": self.augment,
            "execution": self.execution,
        }
        return VI(tx=tx, **{**given, **options})


class Algorithm(Protocol):
    """A method built on a problem: what the training loop calls.

    Attributes:
      problem: what it was built on.
      estimator: of gradients, for the ledger (a key of `metrics.cost.PRODUCTS`).
      draws: how often a step draws its noise, for the ledger; at least 1.
      times_seen: how many members of one network see each example of a batch, for the
        ledger; 1 but for `member_batches.Tiled`.
      prune_step: the step before which it prunes a dense network; 0: never.
    """

    @property
    def problem(self) -> Problem:
        """See the class."""
        ...

    @property
    def estimator(self) -> str:
        """See the class."""
        ...

    @property
    def draws(self) -> int:
        """See the class."""
        ...

    @property
    def times_seen(self) -> int:
        """See the class."""
        ...

    @property
    def prune_step(self) -> int:
        """See the class."""
        ...

    @property
    def growth(self) -> Growth | None:
        """How often the dense gradient is computed; None: never."""
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

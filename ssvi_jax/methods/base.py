"""Training methods, all behind the same build / init / step / swap.

`train` knows nothing else of a method. What a method gets to build on is a `Problem`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, Self

import jax
import numpy as np

from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.core.types import ApplyFn, Masks, ModelState, Params
from ssvi_jax.networks.adapters import Layer
from ssvi_jax.training import registry
from ssvi_jax.training.presets import defaults
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import VI, Augment, Data, State


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

    def with_inference(self, change: Callable[[VI], VI]) -> Self:
        """The same method with its training step (or each of them) changed."""
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


PRUNING = registry.reading("pruning")
"""Methods that are dense at first."""

POSTERIOR = (
    *("estimator", "prior", "prior_std", "kl_scale", "kl_warmup"),
    *("sigma_init", "sigma_learning_rate", "growth_init", "grow_at_mean"),
)
"""Fields of `Config` that say nothing to a point estimate."""

SWAPS = (
    *("replacement_rate", "replacement_schedule", "replacement_end"),
    *("removal", "removal_lambda", "addition", "grow_batches"),
)
"""Fields of `Config` that say nothing where no weight is swapped."""


def check_unused(config: Config, fields: Iterable[str], why: str) -> None:
    """Refuses a setting that a method would ignore, rather than ignore it.

    Args:
      config: the settings.
      fields: names of fields that must be as the method's preset has them.
      why: what to say about it.

    Raises:
      InputError: one differs.
    """
    preset = "laptop" if config.preset == "auto" else config.preset
    preset_values = defaults(preset, config.dataset, config.method)
    for name in fields:
        got, allowed = getattr(config, name), getattr(preset_values, name)
        if got != allowed:
            raise InputError(
                f"--{name.replace('_', '-')}: got {got}, allowed with --method "
                f"{config.method}: {allowed} ({why}); leave it out."
            )


def build(name: str, config: Config, problem: Problem) -> Method:
    """Builds a method by name.

    Raises:
      InputError: unknown name, or settings that the method does not have.
    """
    check_choice("--method", name, registry.METHODS)
    entry = registry.METHODS[name]
    for settings, (fields, why) in registry.SETTINGS.items():
        if settings not in entry.reads:
            check_unused(config, fields, why)
    module, function = entry.build.split(":")
    found = importlib.import_module(f"ssvi_jax.methods.{module}")
    method: Method = getattr(found, function)(config, problem)
    return method.with_inference(
        lambda inference: dataclasses.replace(inference, accumulate=config.accumulate)
    )

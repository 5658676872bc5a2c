"""Training on a subspace: phases of steps, and swaps of coordinates between them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data, Masks
from ssvi_jax.io import json_text
from ssvi_jax.methods import groups
from ssvi_jax.methods.algorithms.packed import Packed
from ssvi_jax.methods.problem import Problem
from ssvi_jax.metrics.cost import Growth
from ssvi_jax.vi import VI, State, densities, dirac, schedules, subspace
from ssvi_jax.vi import masks as masks_lib

Rate = Callable[[int], float]
"""Step → r_t, the fraction of the kept weights that is swapped."""


@dataclasses.dataclass(frozen=True, eq=False)
class Swapping(Packed):
    """See the module; a `problem.Algorithm`.

    Attributes:
      counts: kernel path → weights it keeps, from the first step to the last.
      rule: who swaps with whom.
      rate: how many.
      grow_batches: batches that the dense gradient is averaged over.
      grow_at_mean: whether it is that of the mean network.
    """

    counts: dict[str, int]
    rule: subspace.Rule = subspace.DEFAULT_RULE
    rate: Rate = lambda step: 0.0
    grow_batches: int = 1
    grow_at_mean: bool = False

    def __post_init__(self):
        density = sum(self.counts.values()) / self.problem.num_weights
        self.problem.execution.check(self.problem.batch_size, density)

    @property
    def prune_step(self) -> int:
        """0: it is sparse from the start."""
        return 0

    @property
    def growth(self) -> Growth | None:
        """See `problem.Algorithm`."""
        if self.rule.addition != "gradient" or not self.num_growth_batches(0):
            return None
        return Growth(self.problem.inner_steps, self.grow_batches, self.grow_at_mean)

    def first_masks(self, rng: np.random.Generator) -> Masks:
        """The density rule's counts, at random or of the largest of `Problem.start`."""
        problem = self.problem
        if problem.start is not None:
            return masks_lib.largest_masks(trees.flatten(problem.start), self.counts)
        masks = masks_lib.random_masks(problem.shapes, self.counts, rng)
        if problem.dirac:
            masks = {path: dirac.select(mask, rng) for path, mask in masks.items()}
        return masks

    def num_growth_batches(self, step: int) -> int:
        """`grow_batches` while r_t is positive and something is sparse."""
        is_sparse = sum(self.counts.values()) < self.problem.num_weights
        return self.grow_batches if is_sparse and self.rate(step) > 0 else 0

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """Removal and addition; see `subspace.removal_addition`."""
        rate = self.rate(int(state.step))
        gradients = self.gradients(state, masks, data, batch_index)
        state, masks, swap = subspace.removal_addition(
            state, masks, gradients, rate=rate, rule=self.rule, rng=rng
        )
        return state, masks, {"replacement_rate": rate, **swap.event}

    def gradients(
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> dict[str, jax.Array] | None:
        """What addition goes by, see `vi.VI.dense_gradient`; None: it is random."""
        if self.rule.addition != "gradient":
            return None
        return self.inference.dense_gradient(
            state, masks, data, batch_index, at_mean=self.grow_at_mean
        )


def points(problem: Problem, **rates: float | None) -> VI:
    """The training step of sparse point estimates.

    Args:
      problem: what to build on.
      **rates: see `problem.Problem.transformation`.
    """
    # Of a point, "a sample of the weights" is the plain network.
    tx = problem.transformation(**rates)
    return problem.inference(tx, estimator="weight_sample")


def rate(settings: groups.Replacement, problem: Problem) -> Rate:
    """The fraction that is swapped, over the steps of a training."""
    return schedules.replacement_rate(
        settings.replacement_schedule,
        settings.replacement_rate,
        round(settings.replacement_end * problem.total_steps),
    )


def counts(settings: groups.Sparsity, problem: Problem) -> dict[str, int]:
    """Kernel path → weights to keep.

    Raises:
      InputError: densities that do not fit the network, or cannot be read.
    """
    rule = read_densities(settings.densities)
    sparsity = settings.sparsity if isinstance(rule, str) else None
    return densities.layer_counts(problem.shapes, sparsity, rule)


def read_densities(rule: str) -> str | dict[str, float]:
    """A density rule's name, or the content of the JSON file it names.

    Raises:
      InputError: neither a rule nor a readable JSON object of numbers.
    """
    if not rule.endswith(".json"):
        return rule
    try:
        values = json_text.parse(Path(rule).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"densities: cannot read {rule}: {error}") from error
    if not isinstance(values, dict) or not all(
        type(value) in (int, float) for value in values.values()
    ):
        raise InputError(
            f"densities: got {json.dumps(values)[:100]} in {rule}, allowed: a JSON "
            "object that maps kernel paths to densities in (0, 1]."
        )
    return values

"""Dense training, then one pruning: the dense-to-sparse control of sparse training.

Until the pruning the masks are full and the state is that of a dense network; it
changes their shapes, so each phase compiles twice in a training.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data, Gaussian, Masks, Posterior
from ssvi_jax.methods.algorithms.packed import Packed
from ssvi_jax.methods.problem import Problem
from ssvi_jax.vi import State, schedules, subspace

Keep = Callable[[Posterior], Mapping[str, np.ndarray]]
"""Posterior (on the host) → path → bool ``[s]``, which of its weights to keep."""


@dataclasses.dataclass(frozen=True, eq=False)
class DenseToSparse(Packed):
    """A training that prunes once; a `problem.Algorithm`.

    Attributes:
      keep: what survives the pruning.
      prune_step: the step before which it happens; at least one phase trains what is
        kept.

    Raises:
      InputError: no step to prune at, or what cannot be computed.
    """

    keep: Keep
    prune_step: int

    def __post_init__(self):
        self.problem.execution.check(self.problem.batch_size, density=1.0)
        if not self.prune_step:
            raise InputError(
                "prune_at: got 0, allowed: a number above 0 and below 1, the fraction "
                "of the steps that are dense."
            )

    @property
    def growth(self) -> None:
        """None: nothing is added."""
        return None

    def first_masks(self, rng: np.random.Generator) -> Masks:
        """Full masks."""
        del rng
        return {p: np.ones(shape, bool) for p, shape in self.problem.shapes.items()}

    def num_growth_batches(self, step: int) -> int:
        """1, to be asked, when the pruning is due; its batch is not used."""
        return int(step == self.prune_step)

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """The pruning; see `subspace.prune`."""
        del data, batch_index, rng
        keep, kept = self.keep(jax.device_get(state.posterior)), {}
        for path, mask in masks.items():
            kept[path] = np.zeros_like(mask)
            kept[path][mask] = keep[path]
        pruned = sum(int((~chosen).sum()) for chosen in keep.values())
        return subspace.prune(state, masks, kept), kept, {"num_pruned": pruned}


def prune_step(fraction: float, problem: Problem) -> int:
    """See `schedules.prune_step`."""
    return schedules.prune_step(fraction, problem.total_steps, problem.inner_steps)


def keep_counts(counts: Mapping[str, int]) -> Keep:
    """Keeps so many of the largest abs(mean) of each kernel; ties to higher positions.

    Args:
      counts: kernel path → how many.
    """

    def keep(posterior: Posterior) -> dict[str, np.ndarray]:
        return {
            path: _largest(np.abs(packed.mean), counts[path])
            for path, packed in posterior.items()
        }

    return keep


def keep_largest(count: int) -> Keep:
    """Keeps the largest abs(mean) of all kernels together, but one of each at least.

    Args:
      count: how many in all, at least one a kernel.
    """

    def keep(posterior: Posterior) -> dict[str, np.ndarray]:
        sizes = {path: np.abs(packed.mean) for path, packed in posterior.items()}
        for values in sizes.values():
            values[np.argmax(values)] = np.inf  # no kernel is left without a weight
        chosen = _largest(np.concatenate([*sizes.values()]), count)
        ends = np.cumsum([values.size for values in sizes.values()])[:-1]
        return dict(zip(sizes, np.split(chosen, ends), strict=True))

    return keep


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    chosen = np.ones(values.size, bool)
    chosen[subspace.lowest(values, values.size - count)] = False
    return chosen


MAX_LOG_ALPHA = 3.0
"""Weights with a larger log(σ²/μ²) are noise (Molchanov et al. 2017's threshold)."""


def keep_certain(posterior: Posterior) -> dict[str, np.ndarray]:
    """Keeps log α <= `MAX_LOG_ALPHA`, and of each kernel the most certain weight."""
    kept = {}
    for path, packed in posterior.items():
        assert isinstance(packed, Gaussian)
        sigma = np.logaddexp(0.0, np.asarray(packed.rho, np.float64))
        with np.errstate(divide="ignore"):
            log_alpha = 2 * np.log(sigma / np.abs(np.asarray(packed.mean, np.float64)))
        kept[path] = log_alpha <= MAX_LOG_ALPHA
        kept[path][np.argmin(log_alpha)] = True
    return kept

"""Dense training, then one pruning by magnitude: the dense-to-sparse control.

Before the first phase that begins at or after the fraction `--prune-at` of the steps,
the weights of largest abs(w) are kept, as many in each layer as the density rule says,
or with ``--densities global`` as many as there are in all, whatever their layers (Han
et al., "Learning both Weights and Connections", NIPS 2015, prune once in this way). The
rest of the training, with the same schedule of the learning rate, tunes what is kept.

Until then the masks are full and the state is that of a dense network; the pruning
changes its shapes, so each phase compiles twice in a training.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Self

import jax
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks, Posterior
from ssvi_jax.methods import optimizers
from ssvi_jax.methods.base import POSTERIOR, SWAPS, Problem, check_unused
from ssvi_jax.ops import backend
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import densities, predictive, schedules, subspace

Keep = Callable[[Posterior], Mapping[str, np.ndarray]]
"""Posterior (on the host) → path → bool ``[s]``, which of its weights to keep."""


@dataclasses.dataclass(frozen=True, eq=False)
class DenseToSparse:
    """A training that prunes once; made by `build` here and in `svd`.

    Attributes:
      config: the run's settings.
      problem: what it was built on.
      inferences: backend → the training step.
      keep: what survives the pruning.
      sigma_init: see `posterior.init`.
    """

    config: Config
    problem: Problem
    inferences: dict[str, vi.VI]
    keep: Keep
    sigma_init: tuple[float, float] | None

    def with_inference(self, change: Callable[[vi.VI], vi.VI]) -> Self:
        """See `methods.Method`."""
        inferences = {name: change(own) for name, own in self.inferences.items()}
        return dataclasses.replace(self, inferences=inferences)

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[vi.State, Masks]:
        """Full masks, and the state on them."""
        del rng
        problem = self.problem
        masks = {layer.path: np.ones(layer.shape, bool) for layer in problem.layers}
        state = self.inferences["xla"].init(
            key,
            problem.params,
            problem.model_state,
            masks,
            mean_std=self.config.mean_init or None,
            sigma_init=self.sigma_init,
        )
        return state, masks

    def step(
        self, state: vi.State, masks: Masks, data: vi.Data, batch_index: np.ndarray
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """One phase on the backend for its density; see `vi.VI.inner_loop`."""
        name = predictive.backend_for(masks, self.config.training_backend)
        return self.inferences[name].inner_loop(state, masks, data, batch_index)

    @property
    def prune_step(self) -> int:
        """The step at which the network is pruned."""
        config, total = self.config, self.problem.total_steps
        return schedules.prune_step(config.prune_at, total, config.inner_steps)

    def num_growth_batches(self, step: int) -> int:
        """1, to be asked, when the pruning is due; its batch is not used."""
        return int(step == self.prune_step)

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """The pruning; see `subspace.prune`."""
        del data, batch_index, rng
        keep, kept = self.keep(jax.device_get(state.posterior)), {}
        for path, mask in masks.items():
            kept[path] = np.zeros_like(mask)
            kept[path][mask] = keep[path]
        pruned = sum(int((~chosen).sum()) for chosen in keep.values())
        return subspace.prune(state, masks, kept), kept, {"num_pruned": pruned}


def build(config: Config, problem: Problem) -> DenseToSparse:
    """Builds dense training with one pruning by magnitude.

    Raises:
      InputError: densities that do not fit the network, no step to prune at, or
        settings of a posterior or of swaps.
    """
    check_unused(config, POSTERIOR, "it trains a point estimate")
    shapes = {layer.path: layer.shape for layer in problem.layers}
    if config.densities == "global":
        total = sum(map(math.prod, shapes.values()))
        count = round((1 - config.sparsity) * total)
        if count < len(shapes):
            raise InputError(
                f"--sparsity: got {config.sparsity}, which keeps {count} of {total} "
                f"weights, allowed: at most what leaves {len(shapes)}, one a kernel."
            )
        keep = keep_largest(count)
    else:
        rule = densities.read_densities(config.densities)
        sparsity = config.sparsity if isinstance(rule, str) else None
        keep = keep_counts(densities.layer_counts(shapes, sparsity, rule))
    inference = vi.VI(
        apply_fn=problem.apply_fn,
        tx=optimizers.from_config(config, problem.total_steps),
        num_data=problem.num_data,
        estimator="weight_sample",
        augment=problem.augment,
    )
    return build_pruned(config, problem, inference, keep, sigma_init=None)


def build_pruned(
    config: Config,
    problem: Problem,
    inference: vi.VI,
    keep: Keep,
    *,
    sigma_init: tuple[float, float] | None,
) -> DenseToSparse:
    """Dense training with one pruning, by whatever `keep` keeps.

    Raises:
      InputError: no step to prune at, settings of swaps, or a backend that cannot run.
    """
    check_unused(config, SWAPS, "it prunes once and swaps nothing")
    if not config.prune_at:
        raise InputError(
            f"--prune-at: got {config.prune_at}, allowed with --method "
            f"{config.method}: a number above 0 and below 1, the fraction of the steps "
            "that are dense."
        )
    backend.choose(config.backend, 1.0)  # refuses one that cannot run
    inferences = {
        name: dataclasses.replace(inference, backend=name) for name in ("xla", "sparse")
    }
    method = DenseToSparse(config, problem, inferences, keep, sigma_init)
    assert method.prune_step  # refuses a training of a single phase
    return method


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

"""Sparse Subspace Variational Inference (Li et al., arXiv 2402.11025).

A Gaussian posterior over s of d weights; between phases of M gradient steps the weights
with the lowest removal score leave the subspace and those with the largest dense
gradient enter it. With sparsity 0 this is dense mean-field VI.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Self

import jax
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.types import Masks
from ssvi_jax.methods import optimizers
from ssvi_jax.methods.base import Problem
from ssvi_jax.ops import backend
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import densities, priors, schedules, subspace
from ssvi_jax.vi import masks as masks_lib


@dataclasses.dataclass(frozen=True, eq=False)
class SSVI:
    """See the module; made by `build`.

    Attributes:
      config: the run's settings.
      problem: what it was built on.
      inference: the training step.
      rule: who swaps with whom.
      counts: kernel path → weights it keeps, from the first step to the last.
      sigma_init: see `posterior.init`; None: points (see `methods.rigl`).
    """

    config: Config
    problem: Problem
    inference: vi.VI
    rule: subspace.Rule
    counts: dict[str, int]
    sigma_init: tuple[float, float] | None

    def with_inference(self, change: Callable[[vi.VI], vi.VI]) -> Self:
        """See `methods.Method`."""
        return dataclasses.replace(self, inference=change(self.inference))

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[vi.State, Masks]:
        """Random masks with the density rule's counts, and the state on them."""
        config, problem = self.config, self.problem
        masks = masks_lib.random_masks(_shapes(problem), self.counts, rng)
        state = self.inference.init(
            key,
            problem.params,
            problem.model_state,
            masks,
            mean_std=config.mean_init or None,
            sigma_init=self.sigma_init,
        )
        return state, masks

    def step(
        self, state: vi.State, masks: Masks, data: vi.Data, batch_index: np.ndarray
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """One phase; see `vi.VI.inner_loop`."""
        return self.inference.inner_loop(state, masks, data, batch_index)

    def rate(self, step: int) -> float:
        """r_t, the fraction of the kept weights that is swapped at this step."""
        end = round(self.config.replacement_end * self.problem.total_steps)
        return schedules.replacement_rate(
            self.config.replacement_schedule, self.config.replacement_rate, end
        )(step)

    def num_growth_batches(self, step: int) -> int:
        """`grow_batches` while r_t is positive and something is sparse."""
        total = sum(map(math.prod, _shapes(self.problem).values()))
        is_sparse = sum(self.counts.values()) < total
        return self.config.grow_batches if is_sparse and self.rate(step) > 0 else 0

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """Removal and addition; see `subspace.removal_addition`."""
        rate = self.rate(int(state.step))
        gradients = self.gradients(state, masks, data, batch_index)
        state, masks, swap = subspace.removal_addition(
            state, masks, gradients, rate=rate, rule=self.rule, rng=rng
        )
        return state, masks, {"replacement_rate": rate, **swap.event}

    def gradients(
        self, state: vi.State, masks: Masks, data: vi.Data, batch_index: np.ndarray
    ) -> dict[str, np.ndarray] | None:
        """What addition goes by, see `vi.VI.dense_gradient`; None: it is random."""
        if self.rule.addition != "gradient":
            return None
        return jax.device_get(
            self.inference.dense_gradient(
                state, masks, data, batch_index, at_mean=self.config.grow_at_mean
            )
        )


def build(config: Config, problem: Problem, *, points: bool = False) -> SSVI:
    """Builds SSVI from a configuration.

    Args:
      config: the run's settings.
      problem: what to build on.
      points: train a point estimate: nothing is random, and there is no KL.

    Raises:
      InputError: densities that do not fit the network, or a backend that cannot run.
    """
    densities_rule = densities.read_densities(config.densities)
    sparsity = config.sparsity if isinstance(densities_rule, str) else None
    counts = densities.layer_counts(_shapes(problem), sparsity, densities_rule)
    density = sum(counts.values()) / sum(map(math.prod, _shapes(problem).values()))
    inference = vi.VI(
        apply_fn=problem.apply_fn,
        tx=optimizers.from_config(config, problem.total_steps),
        num_data=problem.num_data,
        prior=make_prior(config),
        # Of a point, "a sample of the weights" is the plain network.
        estimator="weight_sample" if points else config.estimator,
        backend=backend.choose(config.training_backend, density),
        kl_weight=schedules.kl_weight(
            config.kl_scale, problem.total_steps, config.kl_warmup
        ),
        augment=problem.augment,
    )
    rule = subspace.Rule(
        config.removal, config.addition, config.growth_init, config.removal_lambda
    )
    sigma_init = None if points else initial_sigma(config)
    return SSVI(config, problem, inference, rule, counts, sigma_init)


def initial_sigma(config: Config) -> tuple[float, float]:
    """Mean and spread of the initial standard deviations; see `posterior.init`."""
    return config.sigma_init, config.sigma_init * 5 / 6


def _shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    return {layer.path: layer.shape for layer in problem.layers}


def make_prior(config: Config) -> priors.Prior:
    """The prior that a configuration names, at its standard deviation."""
    parameters = {
        "gaussian": {"std": config.prior_std},
        "scale_mixture": {
            "pi": 0.5,
            "std1": config.prior_std,
            "std2": config.prior_std / 10,
        },
        # A Laplace distribution of scale b has standard deviation b·√2.
        "laplace": {"scale": config.prior_std / 2**0.5},
        "log_uniform": {},
    }
    return priors.make_prior(config.prior, **parameters[config.prior])

"""Sparse variational dropout (Molchanov et al., ICML 2017, arXiv 1701.05369).

Dense mean-field VI with a log-uniform prior, in the paper's additive parameterization
θ ~ N(μ, σ²), α = σ²/μ². The prior drives most α to infinity; at the fraction
`--prune-at` of the steps the weights with log α > 3 are pruned, as in the paper, and
the rest of the training tunes the others. The sparsity is an outcome: `--kl-scale` and
the length of the training decide it.

The paper trains with Adam; here it is the optimizer of every other method.
"""

import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.types import Gaussian, Posterior
from ssvi_jax.methods import magnitude, optimizers, ssvi
from ssvi_jax.methods.base import Problem, check_unused
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import schedules

MAX_LOG_ALPHA = 3.0
"""Weights with a larger log(σ²/μ²) are noise and pruned (the paper's threshold)."""


def build(config: Config, problem: Problem) -> magnitude.DenseToSparse:
    """Builds sparse variational dropout.

    Raises:
      InputError: no step to prune at, or a sparsity, another prior or swaps asked for.
    """
    outcome = "how sparse it becomes is up to the prior; see --kl-scale"
    check_unused(config, ("sparsity", "densities"), outcome)
    check_unused(config, ("prior", "prior_std"), "its prior is log-uniform")
    check_unused(config, ("growth_init", "grow_at_mean"), "no weight is ever added")
    inference = vi.VI(
        apply_fn=problem.apply_fn,
        tx=optimizers.from_config(config, problem.total_steps),
        num_data=problem.num_data,
        prior=ssvi.make_prior(config),
        estimator=config.estimator,
        kl_weight=schedules.kl_weight(
            config.kl_scale, problem.total_steps, config.kl_warmup
        ),
        augment=problem.augment,
    )
    sigma_init = ssvi.initial_sigma(config)
    return magnitude.build_pruned(
        config, problem, inference, keep_certain, sigma_init=sigma_init
    )


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

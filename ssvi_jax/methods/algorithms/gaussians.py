"""Mean-field Gaussians as methods train them: prior, KL, standard deviations."""

import functools

import optax

from ssvi_jax.methods import groups
from ssvi_jax.methods.problem import Problem
from ssvi_jax.vi import VI, priors, schedules


def inference(settings: groups.Gaussians, problem: Problem, prior: priors.Prior) -> VI:
    """The training step of Gaussian kernels with this prior."""
    return problem.inference(
        problem.transformation(sigma_learning_rate=settings.sigma_learning_rate),
        prior=prior,
        estimator=settings.estimator,
        kl_weight=kl_weight(settings.kl_scale, problem.total_steps, settings.kl_warmup),
    )


@functools.lru_cache(maxsize=64)
def kl_weight(scale: float, total_steps: int, warmup: float) -> optax.Schedule:
    """`schedules.kl_weight`; of equal arguments the same function."""
    return schedules.kl_weight(scale, total_steps, warmup)


def initial_sigma(settings: groups.Gaussians) -> tuple[float, float]:
    """Mean and spread of the initial standard deviations; see `posterior.init`."""
    return settings.sigma_init, settings.sigma_init * 5 / 6


def prior(settings: groups.Prior) -> priors.Prior:
    """The prior that settings name, at its standard deviation."""
    std = settings.prior_std
    parameters = {
        "gaussian": {"std": std},
        "scale_mixture": {"pi": 0.5, "std1": std, "std2": std / 10},
        # A Laplace distribution of scale b has standard deviation b·√2.
        "laplace": {"scale": std / 2**0.5},
        "log_uniform": {},
        "empirical": {},
    }
    return priors.make_prior(settings.prior, **parameters[settings.prior])

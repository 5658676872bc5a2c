"""Optimizers over `vi.Trainable`: means and deterministic parameters, sigmas apart."""

from collections.abc import Hashable
from functools import partial

import optax

from ssvi_jax.core import trees
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.networks import rank1_factors
from ssvi_jax.training.presets import RANK1_METHODS
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import Trainable, schedules


def label(trainable: Trainable, fast: str = "fast") -> Trainable:
    """Names each leaf "sigma" (every rho), `fast` (rank-1 factors) or "mean"."""
    names = {Gaussian: Gaussian._make(("mean", "sigma")), Point: Point._make(["mean"])}
    posterior = {path: names[type(q)] for path, q in trainable.posterior.items()}
    params = {path: _kind(path, fast) for path in trees.flatten(trainable.params)}
    return Trainable(posterior, trees.unflatten(params))


def _kind(path: str, fast: str) -> str:
    if not rank1_factors.is_factor(path):
        return "mean"
    return "sigma" if path.endswith("/rho") else fast


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    sigma_learning_rate: optax.ScalarOrSchedule | None = None,
    fast_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD as Li et al. (arXiv 2402.11025) train: sigmas have a rate of their own.

    Args:
      learning_rate: of means, biases and normalization parameters.
      sigma_learning_rate: of rho; None: the same.
      fast_learning_rate: of the means of rank-1 factors (`rank1`), which then do
        not decay; None: as all other means.
      momentum: of all.
      nesterov: Nesterov momentum for all.
      weight_decay: L2 added to the gradient of all but rho and the factors.
    """
    if sigma_learning_rate is None:
        sigma_learning_rate = learning_rate
    rates = {"mean": learning_rate, "sigma": sigma_learning_rate}
    if fast_learning_rate is not None:
        rates["fast"] = fast_learning_rate
    groups: dict[Hashable, optax.GradientTransformation] = {
        name: optax.sgd(rate, momentum=momentum, nesterov=nesterov)
        for name, rate in rates.items()
    }
    decay = optax.add_decayed_weights(weight_decay)
    groups["mean"] = optax.chain(decay, groups["mean"])
    fast = "mean" if fast_learning_rate is None else "fast"
    return optax.partition(groups, partial(label, fast=fast))


def rate(config: Config, peak: float, total_steps: int) -> optax.Schedule:
    """The learning-rate schedule of a configuration, for one of its peak rates."""
    drops = schedules.Drops(tuple(config.decay_at), config.decay_factor)
    return schedules.learning_rate(
        config.schedule, peak, total_steps, warmup=config.warmup, drops=drops
    )


def from_config(config: Config, total_steps: int) -> optax.GradientTransformation:
    """The optimizer that a configuration describes."""
    rates = [
        rate(config, peak, total_steps)
        for peak in (
            config.learning_rate,
            config.sigma_learning_rate,
            config.learning_rate * config.fast_rate_scale,
        )
    ]
    return sgd(
        rates[0],
        sigma_learning_rate=rates[1],
        fast_learning_rate=rates[2] if config.method in RANK1_METHODS else None,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )

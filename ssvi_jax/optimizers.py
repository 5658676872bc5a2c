"""Optimizers over `vi.Trainable`: means and deterministic parameters, sigmas apart."""

import jax
import optax

from ssvi_jax import schedules
from ssvi_jax.config import Config
from ssvi_jax.types import Gaussian, Point
from ssvi_jax.vi import Trainable


def label(trainable: Trainable) -> Trainable:
    """Names each leaf "sigma" (every rho) or "mean" (all else)."""
    names = {Gaussian: Gaussian._make(("mean", "sigma")), Point: Point._make(["mean"])}
    posterior = {path: names[type(q)] for path, q in trainable.posterior.items()}
    return Trainable(posterior, jax.tree.map(lambda _: "mean", trainable.params))


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    sigma_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD as Li et al. (arXiv 2402.11025) train: sigmas have a rate of their own.

    Args:
      learning_rate: of means, biases and normalization parameters.
      sigma_learning_rate: of rho; None: the same.
      momentum: of both.
      nesterov: Nesterov momentum for both.
      weight_decay: L2 added to the gradient of all but rho.
    """
    if sigma_learning_rate is None:
        sigma_learning_rate = learning_rate
    mean = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
    )
    sigma = optax.sgd(sigma_learning_rate, momentum=momentum, nesterov=nesterov)
    return optax.partition({"mean": mean, "sigma": sigma}, label)


def from_config(config: Config, total_steps: int) -> optax.GradientTransformation:
    """The optimizer that a configuration describes."""
    rates = [
        schedules.learning_rate(config.schedule, peak, total_steps)
        for peak in (config.learning_rate, config.sigma_learning_rate)
    ]
    return sgd(
        rates[0],
        sigma_learning_rate=rates[1],
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )

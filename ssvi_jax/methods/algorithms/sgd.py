"""SGD over `vi.Trainable`: means and deterministic parameters, sigmas apart."""

import dataclasses
import functools
from collections.abc import Hashable
from functools import partial

import optax

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.core.settings import (
    Settings,
    fraction,
    not_negative,
    positive,
    setting,
)
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.networks import rank1_factors
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
      fast_learning_rate: of the means of rank-1 factors, which then do not decay; None:
        as all other means.
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


def _schedule(name: str, value: str) -> None:
    check_choice(name, value, schedules.LEARNING_RATE)


@dataclasses.dataclass(frozen=True)
class Sgd(Settings):
    """SGD with momentum, whose rates follow a schedule over the whole training.

    Attributes:
      learning_rate: peak rate of means, biases and norms.
      schedule: a key of `schedules.LEARNING_RATE`.
      warmup: fraction of the steps over which the rate rises from 0, whatever its
        schedule.
      decay_at: rising fractions of the steps at which the rate of "steps" falls; none
        with other schedules.
      decay_factor: what it is multiplied by there.
      momentum: of all, in [0, 1).
      nesterov: Nesterov momentum.
      weight_decay: L2 on means, biases and norms, not on standard deviations.

    Raises:
      InputError: a value of another kind or out of its range, or fractions without
        "steps".
    """

    learning_rate: float = setting(0.2, positive)
    schedule: str = setting("onecycle", _schedule)
    warmup: float = setting(0.0, fraction)
    decay_at: tuple[float, ...] = ()
    decay_factor: float = setting(0.1, positive)
    momentum: float = setting(0.9, fraction)
    nesterov: bool = True
    weight_decay: float = setting(5e-4, not_negative)

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        # Equal settings share compiled programs by their hash, which lists have not.
        object.__setattr__(self, "decay_at", tuple(self.decay_at))
        if bool(self.decay_at) != (self.schedule == "steps"):
            raise InputError(
                f"decay_at: got {list(self.decay_at)} with schedule {self.schedule}, "
                "allowed: fractions with steps, none with others."
            )
        self._drops.check()

    @property
    def _drops(self) -> schedules.Drops:
        return schedules.Drops(self.decay_at, self.decay_factor)

    def rate(self, total_steps: int, peak: float | None = None) -> optax.Schedule:
        """Step → learning rate, with another `peak` than that of means.

        Raises:
          InputError: see `schedules.learning_rate`.
        """
        return _rate(self, total_steps, self.learning_rate if peak is None else peak)

    def transformation(
        self,
        total_steps: int,
        sigma_learning_rate: float | None = None,
        fast_rate_scale: float | None = None,
    ) -> optax.GradientTransformation:
        """The optimizer of a training; of equal settings the same object.

        Args:
          total_steps: steps of the whole training.
          sigma_learning_rate: peak rate of rho; None: that of means.
          fast_rate_scale: rate of rank-1 factors over that of other means; None: they
            are trained as all others.
        """
        return _transformation(self, total_steps, sigma_learning_rate, fast_rate_scale)


# Equal trainings share compiled programs, which JAX finds by the functions' identity.
@functools.lru_cache(maxsize=64)
def _rate(settings: Sgd, total_steps: int, peak: float) -> optax.Schedule:
    return schedules.learning_rate(
        settings.schedule,
        peak,
        total_steps,
        warmup=settings.warmup,
        drops=settings._drops,
    )


@functools.lru_cache(maxsize=64)
def _transformation(
    settings: Sgd, total_steps: int, sigma: float | None, fast: float | None
) -> optax.GradientTransformation:
    peak = settings.learning_rate
    return sgd(
        settings.rate(total_steps),
        sigma_learning_rate=settings.rate(
            total_steps, peak if sigma is None else sigma
        ),
        fast_learning_rate=None
        if fast is None
        else settings.rate(total_steps, peak * fast),
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


@functools.lru_cache(maxsize=64)
def scaled_factors(scale: float) -> optax.GradientTransformation:
    """Multiplies the updates of rank-1 factors' means, and no others."""
    groups: dict[Hashable, optax.GradientTransformation] = {
        "fast": optax.scale(scale),
        **dict.fromkeys(("mean", "sigma"), optax.identity()),
    }
    return optax.partition(groups, label)

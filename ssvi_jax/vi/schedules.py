"""What changes with the step: replacement rate, KL weight, learning rate.

`kl_weight` and `learning_rate` return optax schedules (step → scalar) for use inside
jit; the replacement rate sets how many weights swap on the host and is plain Python.
"""

import collections
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import optax

from ssvi_jax.core.errors import (
    InputError,
    check_choice,
    check_fraction,
    check_positive,
)

REPLACEMENT: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}
"""Replacement rate over its start, as a function of step/end_step in [0, 1)."""


def replacement_rate(
    name: str, initial: float, end_step: int
) -> Callable[[int], float]:
    """Returns step → r, the fraction of each layer's kept weights that is replaced.

    `cosine` is r = initial/2 · (1 + cos(π step/end_step)), the schedule of Li et al.
    (arXiv 2402.11025, appendix; their initial is 0.3 and end_step 75 % of the steps).

    Args:
      name: a key of `REPLACEMENT`.
      initial: rate at step 0, a fraction in [0, 1]; 0 never swaps (static masks).
      end_step: step from which the rate is 0 and the masks stay; <= 0 never swaps.

    Raises:
      InputError: unknown name, or `initial` outside [0, 1].
    """
    check_choice("replacement schedule", name, REPLACEMENT)
    check_fraction("replacement rate", initial, one_allowed=True)

    def rate(step: int) -> float:
        if step >= end_step:
            return 0.0
        return initial * REPLACEMENT[name](step / end_step)

    return rate


def prune_step(fraction: float, total_steps: int, phase_steps: int) -> int:
    """The step before which a dense network is pruned; 0: never.

    Args:
      fraction: of the training that is dense, in [0, 1); rounded up to a whole phase,
        but at least one phase is left to train what is kept.
      total_steps: steps of the whole training, a multiple of `phase_steps`.
      phase_steps: steps of a phase.

    Raises:
      InputError: `fraction` outside [0, 1), or above 0 in a training of one phase.
    """
    check_fraction("prune fraction", fraction)
    phases = total_steps // phase_steps
    if not fraction:
        return 0
    if phases < 2:
        raise InputError(
            f"inner_steps: got {phase_steps} for {total_steps} steps in all, allowed "
            "with pruning: at most half of them (it comes between two phases)."
        )
    return phase_steps * min(math.ceil(fraction * phases), phases - 1)


def kl_weight(
    kl_scale: float, total_steps: int, warmup_fraction: float = 0.5
) -> optax.Schedule:
    """Returns step → β: `kl_scale` after a linear warm-up from 0.

    β multiplies the KL *before* the division by the number of training examples N:
    the loss is mean NLL + (β/N) · KL. With `warmup_fraction` 0.5 it is
    kl_scale · min(2 · step/total_steps, 1), as in the code of Li et al.

    Args:
      kl_scale: β after the warm-up; 1 is the ELBO, less a tempered posterior.
      total_steps: steps of the whole training.
      warmup_fraction: part of the training over which β grows, in [0, 1], rounded
        to whole steps; 0 means none.

    Raises:
      InputError: a negative or non-finite `kl_scale`, `total_steps` < 1 or
        `warmup_fraction` outside [0, 1].
    """
    if not 0 <= kl_scale < math.inf:
        raise InputError(f"KL scale: got {kl_scale}, allowed: a finite number >= 0.")
    check_positive("total steps", total_steps)
    check_fraction("KL warm-up fraction", warmup_fraction, one_allowed=True)
    warmup_steps = round(warmup_fraction * total_steps)
    if warmup_steps == 0:
        return optax.constant_schedule(kl_scale)
    return optax.linear_schedule(0.0, kl_scale, warmup_steps)


def _onecycle(peak: float, total_steps: int, peak_fraction: float) -> optax.Schedule:
    rise = round(peak_fraction * total_steps)
    # 25 is the usual start of a cycle: PyTorch's and optax's div_factor
    up = optax.linear_schedule(peak / 25, peak, rise)
    down = optax.linear_schedule(peak, 0.0, max(1, total_steps - rise))
    return optax.join_schedules([up, down], [rise])


class Drops(NamedTuple):
    """Where the learning rate of `steps` falls, and what it is multiplied by there."""

    at: tuple[float, ...] = ()
    factor: float = 0.1

    def check(self) -> None:
        """Raises `InputError` unless they are rising fractions of the training."""
        ends = (0.0, *self.at, 1.0)
        if not all(low < high for low, high in itertools.pairwise(ends)):
            raise InputError(
                f"decay fractions: got {self.at}, allowed: rising, above 0, below 1."
            )
        check_positive("decay factor", self.factor)


def _steps(peak: float, total_steps: int, drops: Drops) -> optax.Schedule:
    # In a short training two of them may round to one step, where both count.
    falls = collections.Counter(round(at * total_steps) for at in drops.at)
    scales = {step: drops.factor**number for step, number in falls.items()}
    return optax.piecewise_constant_schedule(peak, scales)


LEARNING_RATE: dict[str, Callable[[float, int, float, Drops], optax.Schedule]] = {
    "cosine": lambda peak, steps, *_: optax.cosine_decay_schedule(peak, steps),
    "onecycle": lambda peak, steps, rise, _: _onecycle(peak, steps, rise),
    "constant": lambda peak, *_: optax.constant_schedule(peak),
    "steps": lambda peak, steps, _, drops: _steps(peak, steps, drops),
}


def learning_rate(
    name: str,
    peak: float,
    total_steps: int,
    peak_fraction: float = 0.3,
    *,
    warmup: float = 0.0,
    drops: Drops = Drops(),  # noqa: B008 (immutable)
) -> optax.Schedule:
    """Returns step → learning rate; 0 from `total_steps` on, unless constant or steps.

    * ``cosine``: peak/2 · (1 + cos(π step/total_steps)).
    * ``onecycle``: linear from peak/25 up to the peak, then linear down to 0 (Smith and
      Topin, "Super-Convergence", 2017, arXiv 1708.07120, without its last phase).
    * ``constant``: the peak.
    * ``steps``: the peak, multiplied by a factor at each of some steps.

    Args:
      name: a key of `LEARNING_RATE`.
      peak: highest learning rate, > 0.
      total_steps: steps of the whole training.
      peak_fraction: where `onecycle` peaks, as a fraction of the training in [0, 1);
        0 leaves the way up out. The others ignore it.
      warmup: fraction of the training in [0, 1), to whole steps, over which the rate is
        multiplied by a factor that rises linearly from 0 to 1.
      drops: where the rate of `steps` falls. The others ignore it.

    Raises:
      InputError: unknown name, `peak` or `total_steps` not positive, a fraction out of
        its range, or `drops` that do not rise.
    """
    check_choice("learning-rate schedule", name, LEARNING_RATE)
    check_positive("learning rate", peak)
    check_positive("total steps", total_steps)
    check_fraction("peak fraction", peak_fraction)
    check_fraction("warm-up fraction", warmup)
    drops.check()
    after = LEARNING_RATE[name](peak, total_steps, peak_fraction, drops)
    warmup_steps = round(warmup * total_steps)
    if not warmup_steps:
        return after
    factor = optax.linear_schedule(0.0, 1.0, warmup_steps)
    return lambda step: factor(step) * after(step)

"""One factor on all standard deviations of a posterior, after training.

σ → c σ, one number c for all weights, chosen by the NLL of held-out data; the means
stay. TFB (Shi et al., arXiv 2412.05723) searches one scale for the variances of an
adapter on held-out data, the largest that costs hardly anything; here it is the one
with the least NLL.

A Gaussian posterior at temperature T has variances in proportion to T, so c is a
temperature of c², relative to the one that was trained at. It changes what samples
predict and how far they differ, which `temperature` scaling of the averaged prediction
does not.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy import optimize

MIN_FACTOR, MAX_FACTOR = 0.01, 10.0
"""Factors are searched in between, both included. At the first, samples are hardly
other networks than the mean."""

TIE = 1e-6
"""Nats: a smaller difference between two NLLs is rounding."""

_GRID = (MIN_FACTOR, 0.03, 0.1, 0.3, 1.0, 3.0, MAX_FACTOR)
_PRECISION = 1e-3  # of log c; the choice of the held-out data moves it far more
_WORST = 1e30  # finite, so that the search can go on from it


class SigmaFactor(NamedTuple):
    """The factor that was found.

    Attributes:
      factor: c.
      nll: mean NLL with it, nats an example.
      nll_before: the same with c = 1, never less.
      border: "lower" or "upper" where the end of the range is as good: at the lower one
        the mean network is, and at the upper one held-out data ask for more than the
        range has, or are too few. "both": the data do not tell factors apart. Else "".
      as_good: the smallest and the largest factor tried whose NLL is as good, within
        `TIE`. Which of them is `factor` says nothing of the posterior.
    """

    factor: float
    nll: float
    nll_before: float
    border: str
    as_good: tuple[float, float]

    @property
    def temperature(self) -> float:
        """c²."""
        return self.factor**2


def fit(nll_of: Callable[[float], float]) -> SigmaFactor:
    """The factor with the least NLL.

    Seven factors are tried from one end of the range to the other, since the NLL may
    have more than one minimum; then Brent's method searches log c between the
    neighbours of the best of them. Of all that were tried the best is taken, and of
    equally good ones the nearest to 1: so it is never worse than 1.

    Args:
      nll_of: factor → mean NLL, with the same random draws at every factor, so that it
        is smooth. What is not finite is worse than anything. Called some 20 times, with
        1.0 first.
    """
    tried: dict[float, float] = {}

    def at(factor: float) -> float:
        value = float(nll_of(factor))
        tried[factor] = min(value, _WORST) if math.isfinite(value) else _WORST
        return tried[factor]

    for factor in sorted(_GRID, key=_distance):
        at(factor)
    best = _GRID.index(min(_GRID, key=lambda f: (tried[f], _distance(f))))
    ends = _GRID[max(best - 1, 0)], _GRID[min(best + 1, len(_GRID) - 1)]
    optimize.minimize_scalar(
        lambda log_factor: at(math.exp(log_factor)),
        bounds=[math.log(end) for end in ends],
        method="bounded",
        options={"xatol": _PRECISION},
    )
    least = min(tried.values()) + TIE
    as_good = [f for f in tried if tried[f] <= least]
    chosen = min(as_good, key=_distance)
    low, high = MIN_FACTOR in as_good, MAX_FACTOR in as_good
    border = "both" if low and high else "lower" if low else "upper" if high else ""
    ends_of_tie = min(as_good), max(as_good)
    return SigmaFactor(chosen, tried[chosen], tried[1.0], border, ends_of_tie)


def _distance(factor: float) -> float:
    """From 1, as a ratio."""
    return abs(math.log(factor))

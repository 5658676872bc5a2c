"""Metropolis-Hastings moves over masks of a fixed size and the weights they select.

The target is the spike-and-slab posterior over masks γ with exactly s_l selected
weights in layer l, and over those weights::

    π(γ, θ) ∝ exp(ℓ(θ)) · Π_{γ_i = 1} N(θ_i; 0, τ²),    ℓ = Σ_n log p(y_n | x_n, θ)

in nats, uniform over such masks. A move draws a layer (by s_l), a number k, and then,
without replacement::

    k deaths   i ∝ N(θ_i; 0, ψ²) / N(θ_i; 0, τ²) · exp(-½ |θ_i ∂_i ℓ|)
    k births   j ∝ exp(u_j² / 8),   u_j = ψ ∂_j ℓ, cut to [-4, 4]
    values     θ_j ~ N(½ ψ u_j, ψ²)

and accepts with probability min(1, ρ), ρ = π(γ', θ') q(γ | γ') / (π(γ, θ) q(γ' | γ)),
where q(γ | γ') is the probability of the opposite move, in the same order, at the
gradient after the move (reversible jump, Green, Biometrika 1995; the Jacobian is 1). So
detailed balance holds whatever the gradients are worth. exp(-½ |θ_i ∂_i ℓ|) is how Kong
et al. (arXiv 2305.14765) propose deaths; births are the locally balanced choice
(Zanella, JASA 2020) of a weight and its value.

Where ℓ' - ℓ is estimated from n of N examples, half of the estimate's variance is
subtracted, which keeps detailed balance if the error is Gaussian and its variance known
(Ceperley and Dewing, J. Chem. Phys. 1999).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import subspace

MAX_TILT = 4.0
"""Largest u_j: gradients of a batch promise more than they hold."""


class Layer(NamedTuple):
    """A layer's part of the chain, on the host.

    Attributes:
      index: int64 ``[s]``, the sorted flat positions of the selected weights.
      mean: float32 ``[s]``, their values.
      source: int64 ``[s]``, where each was in the packed order at first, or
        `subspace.NEW`.
    """

    index: np.ndarray
    mean: np.ndarray
    source: np.ndarray


Layers = Mapping[str, Layer]
"""Kernel path → its part of the chain."""

Evaluate = Callable[[Layers, str], tuple[np.ndarray, np.ndarray]]
"""(chain, path) → float64 arrays: -log p(y|x,θ) ``[n]`` in nats of the examples that
judge, and ∂ℓ/∂θ ``[d]`` of *every* weight of that kernel."""


class Chain(NamedTuple):
    """The constants of the chain; see the module.

    Attributes:
      slab: τ, the standard deviation of the prior of selected weights.
      spike: ψ, the standard deviation of weights when they enter.
      num_data: N.
      most: kernel path → largest number of births in a move; 0: none there.
    """

    slab: float
    spike: float
    num_data: int
    most: Mapping[str, int]

    def move(
        self, layers: Layers, evaluate: Evaluate, rng: np.random.Generator
    ) -> tuple[Layers, bool]:
        """One Metropolis-Hastings move, and whether it was accepted.

        Args:
          layers: the current state.
          evaluate: likelihood and gradient on the examples of this move.
          rng: source of the proposal and of its acceptance.

        Raises:
          InputError: a likelihood or gradient that is not finite.
        """
        sizes = np.array(
            [self.most[path] and q.index.size for path, q in layers.items()]
        )
        path = [*layers][rng.choice(sizes.size, p=sizes / sizes.sum())]
        count = int(rng.integers(1, self.most[path], endpoint=True))
        old = layers[path]
        nll, score = _finite(path, *evaluate(layers, path))
        dead = old.index[draw(self.deaths(old, score), count, rng)]
        dormant = _others(old.index, score.size)
        born = dormant[draw(self.births(score[dormant]), count, rng)]
        noise = rng.standard_normal(count)
        values = self.spike * (self._tilt(score[born]) / 2 + noise)
        values = values.astype(np.float32)  # what the network will see
        new = exchange(old, dead, born, values)
        proposed = {**layers, path: new}
        new_nll, new_score = _finite(path, *evaluate(proposed, path))
        gone = old.mean[np.searchsorted(old.index, dead)]
        log_ratio = (
            likelihood_ratio(nll, new_nll, self.num_data)
            + np.sum(_log_normal(values, self.slab) - _log_normal(gone, self.slab))
            + self.log_proposal(new, new_score, born, dead, gone)
            - self.log_proposal(old, score, dead, born, values)
        )
        accepted = math.log(1 - rng.random()) < log_ratio
        return (proposed if accepted else layers), accepted

    def log_proposal(
        self,
        layer: Layer,
        score: np.ndarray,
        dead: np.ndarray,
        born: np.ndarray,
        values: np.ndarray,
    ) -> float:
        """Log density of one ordered proposal of deaths, births and their values.

        Args:
          layer: where it starts.
          score: ∂ℓ/∂θ there, ``[d]``.
          dead: flat positions ``[k]`` of selected weights, in the order drawn.
          born: flat positions ``[k]`` of others, likewise.
          values: ``[k]`` of `born`.
        """
        dormant = _others(layer.index, score.size)
        deaths = np.searchsorted(layer.index, dead)
        births = np.searchsorted(dormant, born)
        centre = self.spike * self._tilt(score[born]) / 2
        return (
            log_probability(self.deaths(layer, score), deaths)
            + log_probability(self.births(score[dormant]), births)
            + float(np.sum(_log_normal(values - centre, self.spike)))
        )

    def deaths(self, layer: Layer, score: np.ndarray) -> np.ndarray:
        """Log weights ``[s]`` of selected weights to leave; see the module."""
        mean = layer.mean.astype(np.float64)
        ratio = _log_normal(mean, self.spike) - _log_normal(mean, self.slab)
        return ratio - np.abs(mean * score[layer.index]) / 2

    def births(self, score: np.ndarray) -> np.ndarray:
        """Log weights of others to enter, by their ∂ℓ/∂θ of any shape."""
        return self._tilt(score) ** 2 / 8

    def _tilt(self, score: np.ndarray) -> np.ndarray:
        return np.clip(self.spike * score, -MAX_TILT, MAX_TILT)


def draw(log_weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions ``[count]`` drawn one after the other without replacement.

    They are the largest of the log weights plus Gumbel noise, in that order.

    Args:
      log_weights: ``[n]``, finite.
      count: 1 to n.
      rng: source of randomness.
    """
    keys = log_weights + rng.gumbel(size=log_weights.size)
    first = np.argpartition(-keys, count - 1)[:count]
    return first[np.argsort(-keys[first], kind="stable")]


def log_probability(log_weights: np.ndarray, order: np.ndarray) -> float:
    """Log probability that `draw` gives these positions in this order.

    Args:
      log_weights: ``[n]``, finite.
      order: positions ``[count]``, each once.
    """
    drawn = log_weights[order]
    rest = log_weights[_others(order, log_weights.size)]
    others = -np.inf
    if rest.size:
        others = np.max(rest) + np.log(np.sum(np.exp(rest - np.max(rest))))
    # What is left before each draw, summed from the end so that nothing cancels.
    left = np.logaddexp.accumulate(np.append(others, drawn[::-1]))[:0:-1]
    return float(np.sum(drawn - left))


def exchange(
    layer: Layer, dead: np.ndarray, born: np.ndarray, values: np.ndarray
) -> Layer:
    """The layer with other weights selected, as many as before.

    Args:
      layer: the layer.
      dead: flat positions ``[k]`` that leave.
      born: flat positions ``[k]`` that enter.
      values: their values.
    """
    stays = np.ones(layer.index.size, bool)
    stays[np.searchsorted(layer.index, dead)] = False
    index = np.concatenate([layer.index[stays], born])
    order = np.argsort(index)
    source = np.append(layer.source[stays], np.full(born.size, subspace.NEW))
    mean = np.append(layer.mean[stays], values).astype(np.float32)
    return Layer(index[order], mean[order], source[order])


def likelihood_ratio(nll: np.ndarray, new_nll: np.ndarray, num_data: int) -> float:
    """Estimate of ℓ' - ℓ in nats, less half of its variance; see the module.

    Args:
      nll: -log p(y|x,θ) of n different examples, ``[n]``, n >= 2 unless N is n.
      new_nll: the same after the move.
      num_data: N, at least n.
    """
    change = nll - new_nll
    size = change.size
    estimate = num_data * float(np.mean(change))
    if size == num_data:
        return estimate
    variance = num_data * (num_data - size) * float(np.var(change, ddof=1)) / size
    return estimate - variance / 2


def _others(index: np.ndarray, size: int) -> np.ndarray:
    others = np.ones(size, bool)
    others[index] = False
    return np.flatnonzero(others)


def _log_normal(x: np.ndarray, std: float) -> np.ndarray:
    x = np.asarray(x, np.float64) / std
    return -0.5 * x * x - math.log(std) - 0.5 * math.log(2 * math.pi)


def _finite(
    path: str, nll: np.ndarray, score: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if np.isfinite(nll).all() and np.isfinite(score).all():
        return nll, score
    raise InputError(
        f"the likelihood of a move, or its gradient at {path!r}, is not finite; lower "
        "the learning rate, or look for NaN in the data."
    )

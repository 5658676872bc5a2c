"""What a network predicts, by the likelihood that it was trained with.

Draws of the weights give a mixture. Its spread has two parts: what the likelihood says
of labels (aleatoric), and how far the draws differ (epistemic), which goes to zero
where the data leave no doubt about the weights.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, Masks, Subspace, Weights
from ssvi_jax.vi import likelihoods, pass_scores, predictive


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """Probabilities of C classes for n inputs.

    Attributes:
      probs: float32 ``[n, C]``, averaged over members and draws.
      mean_probs: float32 ``[n, C]``, of the mean network (of every member at its mean).
      sample_entropy: float32 ``[passes, n]``, entropy of each pass's own probabilities,
        in nats.
      sample_log_odds: float32 ``[passes, n]``, largest log-odds of each pass's own
        probabilities, in nats.
    """

    probs: np.ndarray
    mean_probs: np.ndarray
    sample_entropy: np.ndarray
    sample_log_odds: np.ndarray

    def __repr__(self) -> str:
        passes, inputs = self.sample_entropy.shape
        classes = self.probs.shape[-1]
        return f"Classification({inputs=}, {classes=}, {passes=})"

    @property
    def labels(self) -> np.ndarray:
        """The likeliest class ``[n]``."""
        return self.probs.argmax(axis=-1)

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the prediction ``[n]``, in nats: all of its uncertainty."""
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> np.ndarray:
        """What of the entropy is due to the weights ``[n]``, in nats, at least 0."""
        return np.maximum(self.entropy - self.sample_entropy.mean(axis=0), 0.0)

    @property
    def disagreement(self) -> np.ndarray:
        """Logit disagreement ``[n]``, in nats: see `metrics.uncertainty`."""
        return self.sample_log_odds.std(axis=0, dtype=np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Binary:
    """Probabilities of "1" for n inputs.

    Attributes:
      probs: float64 ``[n]``, averaged over members and draws.
      mean_probs: float64 ``[n]``, of the mean network.
      sample_probs: float64 ``[passes, n]``; float32 has 1 for a logit of 17.
      sample_log_odds: float32 ``[passes, n]``, the logits' absolute values, in nats.
    """

    probs: np.ndarray
    mean_probs: np.ndarray
    sample_probs: np.ndarray
    sample_log_odds: np.ndarray

    def __repr__(self) -> str:
        passes, inputs = self.sample_probs.shape
        return f"Binary({inputs=}, {passes=})"

    @property
    def class_probs(self) -> np.ndarray:
        """Averaged probabilities of 0 and of 1, float64 ``[n, 2]``.

        Each keeps its digits where it is tiny; 1 - `probs` does not.
        """
        from scipy.special import expit

        less = expit(-self.sample_log_odds.astype(np.float64))
        zeros = np.where(self.sample_probs > 0.5, less, 1.0 - less)
        return np.stack([zeros.mean(axis=0), self.probs], axis=-1)

    @property
    def labels(self) -> np.ndarray:
        """0 or 1 ``[n]``, the likelier."""
        return (self.probs > 0.5).astype(np.int32)

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the prediction ``[n]``, in nats."""
        return _entropy(self.class_probs)

    @property
    def sample_entropy(self) -> np.ndarray:
        """Entropy of each pass's own prediction ``[passes, n]``, in nats."""
        ones = self.sample_probs
        return _entropy(np.stack([1.0 - ones, ones], axis=-1))

    @property
    def mutual_information(self) -> np.ndarray:
        """What of the entropy is due to the weights ``[n]``, in nats, at least 0."""
        return np.maximum(self.entropy - self.sample_entropy.mean(axis=0), 0.0)

    @property
    def disagreement(self) -> np.ndarray:
        """Logit disagreement ``[n]``, in nats: see `metrics.uncertainty`."""
        return self.sample_log_odds.std(axis=0, dtype=np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
    """Numbers with their uncertainty for n inputs: a mixture of normals, one a draw.

    Attributes:
      sample_means: float32 ``[passes, n, ...]``.
      sample_stds: float32 ``[passes, n, ...]``, standard deviations of the noise.
    """

    sample_means: np.ndarray
    sample_stds: np.ndarray

    def __repr__(self) -> str:
        passes, inputs, *shape = self.sample_means.shape
        return f"Regression({inputs=}, {shape=}, {passes=})"

    @property
    def mean(self) -> np.ndarray:
        """Of the mixture ``[n, ...]``."""
        return self.sample_means.mean(axis=0)

    @property
    def aleatoric(self) -> np.ndarray:
        """Variance of the noise ``[n, ...]``, averaged over the draws."""
        return np.square(self.sample_stds).mean(axis=0)

    @property
    def epistemic(self) -> np.ndarray:
        """Variance of the draws' means ``[n, ...]``."""
        return self.sample_means.var(axis=0)

    @property
    def variance(self) -> np.ndarray:
        """Of the mixture ``[n, ...]``: the sum of both."""
        return self.aleatoric + self.epistemic

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central interval of the mixture that holds `level` of it.

        Args:
          level: a probability in (0, 1).

        Returns:
          Lower and upper ends ``[n, ...]``.
        """
        tail = _tail(level)
        return self._quantile(tail), self._quantile(1.0 - tail)

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log density of labels ``[n, ...]`` under the mixture ``[n]``, in nats."""
        y = _like(y, self.sample_means[0])
        stds = self._positive_stds()
        z = (y - self.sample_means) / stds
        each = -0.5 * (z * z + np.log(2 * np.pi)) - np.log(stds)
        return _log_mean(each.reshape(*each.shape[:2], -1).sum(axis=-1))

    def _quantile(self, q: float) -> np.ndarray:
        from scipy.special import ndtr

        means = self.sample_means.astype(np.float64)
        stds = self._positive_stds()
        low, high = (means - 12 * stds).min(axis=0), (means + 12 * stds).max(axis=0)
        for _ in range(60):  # bisection, to the last bit of float32 and beyond
            middle = (low + high) / 2
            below = ndtr((middle - means) / stds).mean(axis=0) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return ((low + high) / 2).astype(np.float32)

    def _positive_stds(self) -> np.ndarray:
        # A softplus may round to 0, which has no density; XLA rounds all below this.
        return np.maximum(self.sample_stds, np.finfo(np.float32).tiny, dtype=np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Counts for n inputs: a mixture of Poisson distributions, one a draw.

    Attributes:
      sample_rates: float32 ``[passes, n]``.
    """

    sample_rates: np.ndarray

    def __repr__(self) -> str:
        passes, inputs, *_ = self.sample_rates.shape
        return f"Counts({inputs=}, {passes=})"

    @property
    def mean(self) -> np.ndarray:
        """Of the mixture ``[n]``."""
        return self.sample_rates.mean(axis=0)

    @property
    def aleatoric(self) -> np.ndarray:
        """Variance of a count given the rate ``[n]``, averaged over the draws."""
        return self.mean

    @property
    def epistemic(self) -> np.ndarray:
        """Variance of the draws' rates ``[n]``."""
        return self.sample_rates.var(axis=0)

    @property
    def variance(self) -> np.ndarray:
        """Of the mixture ``[n]``: the sum of both."""
        return self.aleatoric + self.epistemic

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The smallest counts that the mixture is below with the two tails' chances.

        Args:
          level: a probability in (0, 1).

        Returns:
          Lower and upper ends ``[n]``, whole numbers; they hold `level` or more. An end
          is infinite where the rates of enough draws are.
        """
        tail = _tail(level)
        return self._quantile(tail), self._quantile(1.0 - tail)

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log probability of counts ``[n]`` under the mixture ``[n]``, in nats."""
        from scipy.special import gammaln, xlogy

        y = _like(y, self.sample_rates[0])
        rates = self.sample_rates.astype(np.float64)
        possible = np.isfinite(rates)  # of an infinite rate no count is
        rates = np.where(possible, rates, 1.0)
        each = xlogy(y, rates) - rates - gammaln(y + 1.0)
        return _log_mean(np.where(possible, each, -np.inf))

    def _quantile(self, q: float) -> np.ndarray:
        from scipy.special import pdtr

        rates = self.sample_rates.astype(np.float64)
        finite = np.isfinite(rates)
        top = np.where(finite, rates, 0.0).max(axis=0)
        low, high = np.full(top.shape, -1.0), np.ceil(top + 12 * np.sqrt(top) + 12)
        middle = np.floor((low + high) / 2)
        # Not until they are 1 apart: neighbours of large numbers are further.
        while ((low < middle) & (middle < high)).any():
            below = pdtr(np.maximum(middle, 0.0), rates).mean(axis=0) < q
            below |= middle < 0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
            middle = np.floor((low + high) / 2)
        return np.where(finite.mean(axis=0) < q, np.inf, high)


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """The network's outputs as they are, of a likelihood that is only a function.

    Attributes:
      sample_outputs: pytree of float32 ``[passes, n, ...]``.
    """

    sample_outputs: Any

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.sample_outputs)
        shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
        return f"Outputs([passes, inputs, ...]: {shapes})"

    @property
    def mean(self) -> Any:
        """Over the draws, ``[n, ...]``."""
        return jax.tree.map(lambda o: o.mean(axis=0), self.sample_outputs)

    @property
    def variance(self) -> Any:
        """Over the draws, ``[n, ...]``."""
        return jax.tree.map(lambda o: o.var(axis=0), self.sample_outputs)


Predicted = Classification | Binary | Regression | Counts | Outputs


def predict(
    likelihood: likelihoods.Likelihood,
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    key: jax.Array | None,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "auto",
) -> Predicted:
    """A network's prediction, of the kind that its likelihood has.

    Args:
      likelihood: of the labels.
      apply_fn: see `predictive.predict`, as are the others.
      weights: likewise.
      masks: likewise.
      x: likewise.
      key: random key of the draws; None: of the mean network alone.
      num_samples: draws of each member.
      batch_size: inputs per call.
      backend: what multiplies.

    Raises:
      InputError: see `predictive.predict`.
    """
    options = {"num_samples": num_samples, "batch_size": batch_size, "backend": backend}
    network = (apply_fn, weights, masks, x)
    if isinstance(likelihood, likelihoods.Categorical):
        if key is None:
            del options["num_samples"]
            mean = predictive.predict_mean(*network, **options)
            with np.errstate(divide="ignore"):
                log_odds = pass_scores.largest_log_odds(np.log(mean))
            return Classification(mean, mean, _entropy(mean)[None], log_odds[None])
        found = predictive.predict(*network, key=key, **options)
        return Classification(*found[:4])
    of = functools.partial(
        predictive.passes, *network, likelihood=likelihood, **options
    )
    samples = _stacked(list(of(key=key)))
    for kind, make in _KINDS.items():
        if isinstance(likelihood, kind):
            return make(samples, of)
    return Outputs(samples)


def _binary(samples: np.ndarray, of: Callable[..., Any]) -> Binary:
    from scipy.special import expit

    at_mean = _stacked(list(of(key=None)))
    probs, mean = (expit(z.astype(np.float64)) for z in (samples, at_mean))
    return Binary(probs.mean(axis=0), mean.mean(axis=0), probs, np.abs(samples))


_KINDS: dict[type, Callable[[Any, Callable[..., Any]], Predicted]] = {
    likelihoods.Bernoulli: _binary,
    likelihoods.Normal: lambda samples, of: Regression(*samples),
    likelihoods.Poisson: lambda samples, of: Counts(_rates(samples)),
}


def _stacked(passes: list[Any]) -> Any:
    return jax.tree.map(lambda *each: np.stack(each).astype(np.float32), *passes)


def _rates(logs: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite rate is what the output says
        return np.exp(logs)


def _entropy(probs: np.ndarray) -> np.ndarray:
    logs = np.log(np.where(probs > 0, probs, 1.0))
    return -np.sum(probs * logs, axis=-1)


def _log_mean(each: np.ndarray) -> np.ndarray:
    """Log of the mean over the first axis of what these are logarithms of."""
    return np.logaddexp.reduce(each, axis=0) - np.log(len(each))


def _tail(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputError(f"level: got {level}, allowed: a probability in (0, 1).")
    return (1.0 - level) / 2


def _like(y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Labels of exactly the shape of a prediction, in float64; never broadcast."""
    y = np.asarray(y, np.float64)
    if y.shape == (*mean.shape, 1):
        y = y[..., 0]
    if y.shape != mean.shape:
        raise InputError(
            f"y: got shape {list(y.shape)}, needed: {list(mean.shape)}, that of the "
            "prediction."
        )
    return y

"""Forward passes of posterior samples and of the mean network, and their average.

`predict` is for classifiers. `passes` gives what any likelihood keeps of each pass, of
which `predictions.of` makes a prediction.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_choice, check_count
from ssvi_jax.core.types import ApplyFn, Masks, Subspace, Weights
from ssvi_jax.ops import backend as backend_lib
from ssvi_jax.ops import fuse_prediction
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import pass_scores
from ssvi_jax.vi import posterior as posterior_lib
from ssvi_jax.vi.execution import backend_of
from ssvi_jax.vi.likelihoods import Categorical, Likelihood

AVERAGES = ("probabilities", "logits")
"""What a prediction averages: "probabilities" is the posterior predictive."""


class Prediction(NamedTuple):
    """Class probabilities of n inputs.

    Attributes:
      mc_probs: float32 ``[n, classes]``, averaged over all members and their samples.
      mean_probs: float32 ``[n, classes]``, averaged over the members, each at its
        posterior mean; of an ordinary network that is the mean network.
      sample_entropy: float32 ``[passes, n]``, entropy (nats) of each pass's own
        prediction, member by member; `mixture_entropy` minus its average is the mutual
        information between prediction and weights.
      sample_log_odds: float32 ``[passes, n]``, largest log-odds (nats) of each pass's
        own prediction; their standard deviation is the logit disagreement.
      member_probs: float32 ``[members, n, classes]``, each at its posterior mean.
      mixture_entropy: float32 ``[n]``, entropy (nats) of the passes' averaged
        probabilities, whatever `mc_probs` averages: that of averaged logits may be
        below the average of `sample_entropy`.
    """

    mc_probs: np.ndarray
    mean_probs: np.ndarray
    sample_entropy: np.ndarray
    sample_log_odds: np.ndarray
    member_probs: np.ndarray
    mixture_entropy: np.ndarray


def predict(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    key: jax.Array,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "auto",
    average: str = "probabilities",
) -> Prediction:
    """Predicts with `num_samples` draws of every member's weights and with their mean.

    Each draw is one network for all inputs (weight sampling), so predictions of
    different inputs are coherent.

    Args:
      apply_fn: the network; returns logits. It may have several members, or noise of
        its own: see `types.MemberNetwork`.
      weights: posterior, deterministic parameters, running statistics.
      masks: the selection that the posterior is packed by, or its `masks.to_subspace`,
        made once for many predictions.
      x: inputs ``[n, ...]`` in whatever form `apply_fn` takes; a pytree of such arrays
        where it takes one.
      key: random key of the draws.
      num_samples: S, at least 1; where nothing is random a member is drawn once.
      batch_size: inputs per call; the result does not depend on it beyond rounding.
      backend: what multiplies (see `ops.backend.choose`); "sparse" needs an `apply_fn`
        that takes packed kernels.
      average: what is averaged over the passes, one of `AVERAGES`.

    Raises:
      InputError: no inputs, masks that do not fit the posterior, `num_samples` below 1,
        an unknown average, one logit only, or logits that are not finite.
    """
    _check_settings(num_samples, batch_size, average)
    log_probs_of = _Passes(apply_fn, weights, masks, x, batch_size, backend)
    at_mean = [log_probs_of(i, None) for i in range(num_members(apply_fn))]
    mean_probs, *each = _average(at_mean, average)
    member_probs = np.exp(np.stack(at_mean))
    mc_probs = mean_probs
    if is_random(apply_fn, weights):
        draws = _draws(log_probs_of, num_members(apply_fn), num_samples, key)
        mc_probs, *each = _average(draws, average)
    entropies, log_odds, mixture = each
    found = Prediction(mc_probs, mean_probs, entropies, log_odds, member_probs, mixture)
    return Prediction(*(array.astype(np.float32) for array in found))


def predict_samples(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    key: jax.Array,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "auto",
    average: str = "probabilities",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mc_probs`, `sample_entropy`, `sample_log_odds` without the passes of the means.

    They are those of `predict` with the same key; the arguments are its too. Of
    averaged logits `predict` alone has the `mixture_entropy` of a mutual information.
    """
    _check_settings(num_samples, batch_size, average)
    log_probs_of = _Passes(apply_fn, weights, masks, x, batch_size, backend)
    random = is_random(apply_fn, weights)
    draws = _draws(
        log_probs_of,
        num_members(apply_fn),
        num_samples if random else 1,
        key if random else None,
    )
    mc_probs, entropies, log_odds = (
        array.astype(np.float32) for array in _average(draws, average)[:3]
    )
    return mc_probs, entropies, log_odds


def passes(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    likelihood: Likelihood,
    key: jax.Array | None,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "auto",
) -> Iterator[Any]:
    """What a likelihood keeps of every forward pass, in float64, member by member.

    Args:
      apply_fn: see `predict`, as are the others.
      weights: likewise.
      masks: likewise.
      x: likewise.
      likelihood: of the labels; see `Likelihood.features`.
      key: random key of the draws; None: each member at its mean.
      num_samples: draws of each member; where nothing is random there is one.
      batch_size: see `predict`.
      backend: likewise.

    Yields:
      Arrays ``[n, ...]``.
    """
    _check_settings(num_samples, batch_size, "probabilities")
    of = _Passes(apply_fn, weights, masks, x, batch_size, backend, likelihood)
    if key is None or not is_random(apply_fn, weights):
        key, num_samples = None, 1
    yield from _draws(of, num_members(apply_fn), num_samples, key)


def _check_settings(num_samples: int, batch_size: int, average: str) -> None:
    check_count("num_samples", num_samples)
    check_count("batch_size", batch_size)
    check_choice("average", average, AVERAGES)


def _draws(
    of: "_Passes", members: int, num_samples: int, key: jax.Array | None
) -> Iterator[Any]:
    """The passes of all samples, member by member; with no key those of the means."""
    for i in range(members * num_samples):
        drawn_by = None if key is None else jax.random.fold_in(key, i)
        yield of(i // num_samples, drawn_by)


def num_members(apply_fn: ApplyFn) -> int:
    """K of a `types.MemberNetwork`; 1 of any other network."""
    return getattr(apply_fn, "num_members", 1)


def is_random(apply_fn: ApplyFn, weights: Weights) -> bool:
    """Whether two passes of one member differ."""
    noisy = posterior_lib.is_random(weights.posterior)
    return noisy or getattr(apply_fn, "is_random", False)


def num_passes(apply_fn: ApplyFn, weights: Weights, num_samples: int) -> int:
    """Forward passes that the average of `predict` is taken over."""
    samples = num_samples if is_random(apply_fn, weights) else 1
    return num_members(apply_fn) * samples


def has_samples(apply_fn: ApplyFn, weights: Weights) -> bool:
    """Whether `mc_probs` is an average: there is noise, or more than one member."""
    return is_random(apply_fn, weights) or num_members(apply_fn) > 1


def backend_for(masks: Masks, asked: str = "auto") -> str:
    """What is to multiply with these masks: see `ops.backend.choose`."""
    check_choice("backend", asked, backend_lib.BACKENDS)
    return (
        backend_lib.choose(asked, 1.0 - masks_lib.sparsity(masks)) if masks else "xla"
    )


def predict_mean(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    batch_size: int = 500,
    backend: str = "auto",
    average: str = "probabilities",
) -> np.ndarray:
    """`Prediction.mean_probs` in float64, without any draw."""
    _check_settings(1, batch_size, average)
    log_probs_of = _Passes(apply_fn, weights, masks, x, batch_size, backend)
    return _average(_draws(log_probs_of, num_members(apply_fn), 1, None), average)[0]


def _average(
    passes: Iterable[np.ndarray], average: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Float64 probabilities ``[n, classes]`` of all passes; `pass_scores` of each.

    The last is the entropy of their mixture. Log-probabilities are logits less a
    constant that their softmax does not see.
    """
    mixture, logits, entropies, log_odds = 0.0, 0.0, [], []
    for log_probs in passes:
        mixture = mixture + np.exp(log_probs)
        if average == "logits":
            logits = logits + log_probs
        entropies.append(pass_scores.entropy(log_probs))
        log_odds.append(pass_scores.largest_log_odds(log_probs))
    mean = mixture = np.asarray(mixture) / len(entropies)
    if average == "logits":
        mean = np.asarray(logits) / len(entropies)
        mean = np.exp(mean - mean.max(axis=-1, keepdims=True))
        mean /= mean.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):  # a class may be ruled out by every pass
        total = pass_scores.entropy(np.log(mixture))
    return mean, np.stack(entropies), np.stack(log_odds), total


_packed_sample = jax.jit(posterior_lib.packed_sample, static_argnames="backend")
_full_kernels = jax.jit(posterior_lib.full_kernels)


@partial(jax.jit, static_argnums=0)
def _one(apply_fn, weights, subspace, member, key):
    return apply_fn.one(weights, subspace, member, key)


@partial(jax.jit, static_argnums=(0, 1))
def _batch_features(apply_fn, likelihood, params, kernels, model_state, x):
    def output_of(params, kernels, model_state, x):
        options = {"kernels": kernels} if kernels else {}
        key = jax.random.key(0)
        return apply_fn(params, model_state, x, train=False, key=key, **options)[0]

    if kernels:
        # Where every layer takes its packed kernel, XLA drops the full ones.
        params = trees.merge(params, posterior_lib.full_kernels(kernels))
        folded = partial(
            fuse_prediction.evaluate, output_of, params, kernels, model_state
        )
        output = _in_parts(folded, x)
    else:
        output = output_of(params, None, model_state, x)
    return likelihood.features(output)


def _in_parts(fn: Callable[[Any], Any], x: Any) -> Any:
    """``fn(x)``, 32 inputs at a time.

    The activations of a part stay in the cache, and its memory is the next one's: XLA
    takes fresh pages from the system for every run of a program.
    """
    number = num_inputs(x)
    size, num_parts = 32, -(-number // 32)
    if number < 2 * size:
        return fn(x)

    def cut(leaf):
        widths = [(0, num_parts * size - number), *[(0, 0)] * (leaf.ndim - 1)]
        padded = jnp.pad(leaf, widths, mode="edge")
        return padded.reshape(num_parts, size, *leaf.shape[1:])

    out = jax.lax.map(fn, jax.tree.map(cut, x))
    return jax.tree.map(lambda o: o.reshape(-1, *o.shape[2:])[:number], out)


def num_inputs(x: Any) -> int:
    """N of inputs ``[n, ...]``, an array or a pytree of arrays.

    Raises:
      InputError: no inputs, or arrays that have different numbers of them.
    """
    lengths = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(lengths) != 1 or 0 in lengths:
        came = f"inputs of lengths {sorted(lengths)}" if lengths - {0} else "no inputs"
        raise InputError(
            f"x: got {came}, allowed: arrays of equal length, at least one input."
        )
    return lengths.pop()


class _Passes:
    """The forward passes of one network on the same inputs."""

    def __init__(
        self,
        apply_fn,
        weights,
        masks,
        x,
        batch_size,
        backend,
        likelihood: Likelihood = Categorical(),  # noqa: B008 (immutable)
    ):
        self._number = num_inputs(x)
        self._apply_fn = apply_fn
        self._weights = weights
        if not isinstance(masks, Subspace):
            masks = masks_lib.to_subspace(masks)
        masks_lib.check_fits(masks, weights.posterior)
        self._subspace = masks
        self._x = x
        self._batch_size = min(batch_size, self._number)
        self._backend = backend_of(backend, apply_fn, masks)
        self._likelihood = likelihood

    def __call__(self, member: int, key: jax.Array | None) -> Any:
        """The likelihood's features ``[n, ...]`` in float64, batch by batch.

        One draw of the member with the key, or its mean without. The last batch is
        filled up by repetition so that only one shape is compiled.
        """
        weights, subspace = self._weights, self._subspace
        if hasattr(self._apply_fn, "one"):
            weights, subspace = _one(self._apply_fn, weights, subspace, member, key)
        kernels = _packed_sample(
            weights.posterior, subspace, key, backend=self._backend
        )
        params = weights.params
        if self._backend != "sparse":
            params, kernels = trees.merge(params, _full_kernels(kernels)), None
        parts, size, number = [], self._batch_size, self._number
        for start in range(0, number, size):
            rows = np.minimum(np.arange(start, start + size), number - 1)
            found = _batch_features(
                self._apply_fn,
                self._likelihood,
                params,
                kernels,
                weights.model_state,
                jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), self._x),
            )
            left = number - start
            parts.append(
                jax.tree.map(lambda a, n=left: np.asarray(a, np.float64)[:n], found)
            )
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return _checked(whole, isinstance(self._likelihood, Categorical))


def _checked(features: Any, are_log_probs: bool) -> Any:
    for leaf in jax.tree.leaves(features):
        if are_log_probs and leaf.shape[-1] < 2:
            raise InputError(
                f"prediction: got outputs {list(leaf.shape)}, one logit each, of which "
                "a softmax is always 1; allowed: a logit for each class, or another "
                "likelihood (Bernoulli, Normal, Poisson)."
            )
        values = np.exp(leaf) if are_log_probs else leaf
        good = np.isfinite(values).reshape(len(leaf), -1).all(axis=-1)
        if not good.all():
            what = "a probability" if are_log_probs else "an output"
            raise InputError(
                f"prediction: input {int(np.argmin(good))} got {what} that is not "
                "finite; look for NaN in the input or in the model's weights."
            )
    return features

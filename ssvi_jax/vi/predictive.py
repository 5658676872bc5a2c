"""Predictions with uncertainty from posterior samples and from the mean network."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.core.types import ApplyFn, Masks, Subspace, Weights
from ssvi_jax.ops import backend as backend_lib
from ssvi_jax.ops import fuse_prediction
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib

AVERAGES = ("probabilities", "logits")
"""What a prediction averages: "probabilities" is the posterior predictive."""


class Prediction(NamedTuple):
    """Class probabilities of n inputs.

    Attributes:
      mc_probs: float32 ``[n, classes]``, averaged over all members and their samples.
      mean_probs: float32 ``[n, classes]``, averaged over the members, each at its
        posterior mean; of an ordinary network that is the mean network.
      sample_entropy: float32 ``[passes, n]``, entropy (nats) of each pass's own
        prediction, member by member; the entropy of `mc_probs` minus its average is
        the mutual information between prediction and weights.
      member_probs: float32 ``[members, n, classes]``, each at its posterior mean.
    """

    mc_probs: np.ndarray
    mean_probs: np.ndarray
    sample_entropy: np.ndarray
    member_probs: np.ndarray


def predict(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: np.ndarray,
    *,
    key: jax.Array,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "xla",
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
      x: inputs ``[n, ...]`` in whatever form `apply_fn` takes.
      key: random key of the draws.
      num_samples: S, at least 1; where nothing is random a member is drawn once.
      batch_size: inputs per call; the result does not depend on it beyond rounding.
      backend: what multiplies (see `ops.backend.choose`); "sparse" needs an `apply_fn`
        that takes packed kernels.
      average: what is averaged over the passes, one of `AVERAGES`.

    Raises:
      InputError: no inputs, masks that do not fit the posterior, `num_samples` below 1,
        an unknown average, or logits that are not finite.
    """
    _check_settings(num_samples, batch_size, average)
    log_probs_of = _Passes(apply_fn, weights, masks, x, batch_size, backend)
    at_mean = [log_probs_of(i, None) for i in range(num_members(apply_fn))]
    mean_probs, entropies = _average(at_mean, average)
    member_probs = np.exp(np.stack(at_mean))
    mc_probs = mean_probs
    if is_random(apply_fn, weights):
        draws = _draws(log_probs_of, num_members(apply_fn), num_samples, key)
        mc_probs, entropies = _average(draws, average)
    found = Prediction(mc_probs, mean_probs, entropies, member_probs)
    return Prediction(*(array.astype(np.float32) for array in found))


def predict_samples(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: np.ndarray,
    *,
    key: jax.Array,
    num_samples: int = 10,
    batch_size: int = 500,
    backend: str = "xla",
    average: str = "probabilities",
) -> tuple[np.ndarray, np.ndarray]:
    """`mc_probs` and `sample_entropy` of `predict`, without the passes of the means.

    The draws are those of `predict` with the same key; the arguments are its too.
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
    mc_probs, entropies = _average(draws, average)
    return mc_probs.astype(np.float32), entropies.astype(np.float32)


def _check_settings(num_samples: int, batch_size: int, average: str) -> None:
    if num_samples < 1 or batch_size < 1:
        raise InputError(
            f"num_samples, batch_size: got {num_samples}, {batch_size}, allowed: 1 up."
        )
    check_choice("average", average, AVERAGES)


def _draws(
    log_probs_of: "_Passes", members: int, num_samples: int, key: jax.Array | None
) -> Iterator[np.ndarray]:
    """The passes of all samples, member by member; with no key those of the means."""
    for i in range(members * num_samples):
        drawn_by = None if key is None else jax.random.fold_in(key, i)
        yield log_probs_of(i // num_samples, drawn_by)


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
    return (
        backend_lib.choose(asked, 1.0 - masks_lib.sparsity(masks)) if masks else "xla"
    )


def predict_mean(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: np.ndarray,
    *,
    batch_size: int = 500,
    backend: str = "xla",
    average: str = "probabilities",
) -> np.ndarray:
    """`Prediction.mean_probs` in float64, without any draw."""
    log_probs_of = _Passes(apply_fn, weights, masks, x, batch_size, backend)
    return _average(_draws(log_probs_of, num_members(apply_fn), 1, None), average)[0]


def _average(
    passes: Iterable[np.ndarray], average: str
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 probabilities ``[n, classes]`` of all passes, entropies of each.

    Log-probabilities are logits less a constant that their softmax does not see.
    """
    total, entropies = 0.0, []
    for log_probs in passes:
        probs = np.exp(log_probs)
        total = total + (probs if average == "probabilities" else log_probs)
        # A probability of 0 adds nothing, whatever its logarithm.
        floor = np.maximum(log_probs, -1e4)
        entropies.append(-np.sum(probs * floor, axis=-1))
    mean = np.asarray(total) / len(entropies)
    if average == "logits":
        mean = np.exp(mean - mean.max(axis=-1, keepdims=True))
        mean /= mean.sum(axis=-1, keepdims=True)
    return mean, np.stack(entropies)


_packed_sample = jax.jit(posterior_lib.packed_sample, static_argnames="backend")
_full_kernels = jax.jit(posterior_lib.full_kernels)


@partial(jax.jit, static_argnums=0)
def _one(apply_fn, weights, subspace, member, key):
    return apply_fn.one(weights, subspace, member, key)


@partial(jax.jit, static_argnums=0)
def _batch_log_probs(apply_fn, params, kernels, model_state, x):
    def logits_of(params, kernels, model_state, x):
        options = {"kernels": kernels} if kernels else {}
        key = jax.random.key(0)
        return apply_fn(params, model_state, x, train=False, key=key, **options)[0]

    if kernels:
        # Where every layer takes its packed kernel, XLA drops the full ones.
        params = trees.merge(params, posterior_lib.full_kernels(kernels))
        folded = partial(
            fuse_prediction.evaluate, logits_of, params, kernels, model_state
        )
        logits = _in_parts(folded, x)
    else:
        logits = logits_of(params, None, model_state, x)
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _in_parts(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """``fn(x)``, 32 inputs at a time.

    The activations of a part stay in the cache, and its memory is the next one's: XLA
    takes fresh pages from the system for every run of a program.
    """
    size, num_parts = 32, -(-len(x) // 32)
    if len(x) < 2 * size:
        return fn(x)
    widths = [(0, num_parts * size - len(x)), *[(0, 0)] * (x.ndim - 1)]
    parts = jnp.pad(x, widths, mode="edge").reshape(num_parts, size, *x.shape[1:])
    out = jax.lax.map(fn, parts)
    return out.reshape(-1, *out.shape[2:])[: len(x)]


class _Passes:
    """The forward passes of one network on the same inputs."""

    def __init__(self, apply_fn, weights, masks, x, batch_size, backend):
        if len(x) == 0:
            raise InputError("x: got no inputs, allowed: an array of at least one.")
        self._apply_fn = apply_fn
        self._weights = weights
        if not isinstance(masks, Subspace):
            masks = masks_lib.to_subspace(masks)
        masks_lib.check_fits(masks, weights.posterior)
        self._subspace = masks
        self._x = x
        self._batch_size = min(batch_size, len(x))
        self._backend = backend

    def __call__(self, member: int, key: jax.Array | None) -> np.ndarray:
        """Float64 log-probabilities ``[n, classes]``, batch by batch.

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
        parts, x, size = [], self._x, self._batch_size
        for start in range(0, len(x), size):
            rows = np.minimum(np.arange(start, start + size), len(x) - 1)
            log_probs = _batch_log_probs(
                self._apply_fn,
                params,
                kernels,
                weights.model_state,
                jnp.asarray(x[rows]),
            )
            parts.append(np.asarray(log_probs, np.float64)[: len(x) - start])
        return _checked(np.concatenate(parts))


def _checked(log_probs: np.ndarray) -> np.ndarray:
    good = np.isfinite(np.exp(log_probs)).all(axis=-1)
    if not good.all():
        raise InputError(
            f"prediction: input {int(np.argmin(good))} got a probability that is not "
            "finite; look for NaN in the input or in the model's weights."
        )
    return log_probs

"""Who swaps with whom: removal and addition of coordinates between phases.

Everything is decided in NumPy on the host (Li et al., arXiv 2402.11025, algorithm 1);
the device only moves packed values to their new places. `prune` removes for good.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ssvi_jax.core.errors import InputError, check_choice, check_fraction
from ssvi_jax.core.types import Gaussian, Masks, Point, Posterior
from ssvi_jax.vi import criteria, optimizer_state, shortlist
from ssvi_jax.vi import posterior as posterior_lib
from ssvi_jax.vi.shortlist import Scores, Shortlist
from ssvi_jax.vi.state import State

GROWTH_INITS = ("mean", "precision", "eps")

POINT_REMOVALS = ("mean", "abs_mean", "exp_abs_mean")
"""Removal scores that order weights without noise; the others are infinite there."""

NEW = -1
"""Marks, in an array of sources, a coordinate that was not there before."""


class Swap(NamedTuple):
    """How many coordinates a swap moved, over all layers.

    Attributes:
      removed: those with the lowest removal scores; as many were added.
      returned: those among them that were added again, and kept all their values.
    """

    removed: int
    returned: int

    @property
    def event(self) -> dict[str, float]:
        """What a phase logs of it."""
        return {"num_swapped": self.removed, "num_returned": self.returned}


@dataclasses.dataclass(frozen=True)
class Rule:
    """How coordinates are chosen and how new ones start.

    Attributes:
      removal: a name in `criteria.REMOVAL`.
      addition: a name in `criteria.ADDITION`.
      growth_init: standard deviation of new coordinates: "mean" (the layer's mean
        standard deviation over those selected before and after), "precision" (1/σ² is
        the layer's mean of 1/σ²) or "eps" (`posterior.MIN_SIGMA`).
      lam: λ of the exponential criteria.
    """

    removal: str = "abs_snr"
    addition: str = "gradient"
    growth_init: str = "mean"
    lam: float = 1.0

    def __post_init__(self):
        check_choice("removal", self.removal, criteria.REMOVAL)
        check_choice("addition", self.addition, criteria.ADDITION)
        check_choice("growth_init", self.growth_init, GROWTH_INITS)


DEFAULT_RULE = Rule()


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` lowest scores, ties to the lower position, sorted.

    Args:
      scores: ``[n]``, no NaN.
      count: how many, in [0, n].
    """
    if count == 0:
        return np.zeros(0, np.int64)
    threshold = np.partition(scores, count - 1)[count - 1]
    below = np.flatnonzero(scores < threshold)
    ties = np.flatnonzero(scores == threshold)[: count - below.size]
    return np.sort(np.concatenate([below, ties]))


def swap_layer(
    mask: np.ndarray,
    removal_scores: np.ndarray,
    addition_scores: np.ndarray | Shortlist,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Removes and adds `count` coordinates of one layer.

    A removed coordinate may come back at once, through its addition score, and then has
    not been away: only those that were not selected before are new.

    Args:
      mask: boolean, any shape, s true.
      removal_scores: ``[s]`` in flat order; the lowest go.
      addition_scores: the mask's shape, finite; the highest unselected ones come. Or
        the shortlist of at least `count` of them.
      count: in [0, s].

    Returns:
      The new mask, and int64 ``[s]``: for each selected coordinate in flat order its
      position in the old packed order, or `NEW`.
    """
    listed = isinstance(addition_scores, Shortlist)
    old_index = addition_scores.positions if listed else np.flatnonzero(mask)
    removed = lowest(removal_scores, count)
    stays = np.ones(old_index.size, bool)
    stays[removed] = False
    kept_index = old_index[stays]
    if listed:
        added = _highest_listed(addition_scores, old_index, removed, count)
    else:
        scores = -1.0 * addition_scores.reshape(-1)
        scores[kept_index] = np.inf
        added = lowest(scores, count)
    # Kept ones first, then added ones: two sorted runs, which a stable sort merges.
    index = np.concatenate([kept_index, added])
    order = np.argsort(index, kind="stable")
    source = np.concatenate([np.flatnonzero(stays), _places(added, old_index, removed)])
    new_mask = np.zeros(mask.size, bool)
    new_mask[index] = True
    return new_mask.reshape(mask.shape), source[order]


def _places(
    added: np.ndarray, old_index: np.ndarray, removed: np.ndarray
) -> np.ndarray:
    """Where added coordinates were in the packed order before, or `NEW`."""
    if not removed.size:
        return np.zeros(0, np.int64)
    nearest = np.searchsorted(old_index[removed], added).clip(max=removed.size - 1)
    returned = old_index[removed][nearest] == added
    return np.where(returned, removed[nearest], NEW)


def _highest_listed(
    listed: Shortlist, old_index: np.ndarray, removed: np.ndarray, count: int
) -> np.ndarray:
    """Flat positions of the `count` highest of what is removed or on the list."""
    index = np.concatenate([old_index[removed], listed.index])
    scores = np.concatenate([listed.selected[removed], listed.scores])
    order = np.argsort(index, kind="stable")  # of two sorted runs
    return index[order][lowest(-1.0 * scores[order], count)]


def num_swaps(mask: np.ndarray, rate: float) -> int:
    """How many coordinates a layer swaps: round(rate·s), at most its free places."""
    kept = int(np.count_nonzero(mask))
    return min(round(rate * kept), mask.size - kept)


def removal_addition(
    state: State,
    masks: Masks,
    gradients: Scores | None,
    *,
    rate: float,
    rng: np.random.Generator,
    rule: Rule = DEFAULT_RULE,
) -> tuple[State, Masks, Swap]:
    """One removal and addition in every layer; each keeps its count exactly.

    A coordinate that is removed and added again keeps its mean, standard deviation and
    moments (`Initialize` in algorithm 1 starts only those not selected before).

    Args:
      state: the training state (donated).
      masks: the current selection (not changed).
      gradients: path → abs dense gradient at full shape, or a shortlist of it; not
        needed for "random". Of an accelerator's arrays the host gets a shortlist.
      rate: r_t, the fraction of the selected coordinates to swap, in [0, 1].
      rng: source of the random addition.
      rule: criteria and growth.

    Returns:
      The new state (what the optimizer keeps of new coordinates is as it starts), new
      masks, how many were swapped.

    Raises:
      InputError: a rate outside [0, 1], a removal score that points do not have, or
        gradients that are missing, not of the kernel's shape, or not finite (a mean or
        sigma likewise); or an optimizer whose state cannot follow.
    """
    posterior = jax.device_get(state.posterior)
    new_masks, sources, swapped = choose(
        [posterior], masks, gradients, rate=rate, rng=rng, rule=rule
    )
    return move(state, sources, rule), new_masks, swapped


def choose(
    posteriors: Sequence[Posterior],
    masks: Masks,
    gradients: Scores | None,
    *,
    rate: float,
    rng: np.random.Generator,
    rule: Rule = DEFAULT_RULE,
) -> tuple[Masks, dict[str, jax.Array], Swap]:
    """What `removal_addition` does to the masks of one or several posteriors.

    Args:
      posteriors: on the host, packed by the same masks; a coordinate's removal score is
        its mean over them.
      masks: see `removal_addition`, as is the rest.
      gradients: likewise.
      rate: likewise.
      rng: likewise.
      rule: likewise.

    Returns:
      New masks; path → int32 ``[s]``, where each coordinate comes from (see
      `swap_layer`); how many were swapped.

    Raises:
      InputError: see `removal_addition`.
    """
    check_fraction("rate", rate, one_allowed=True)
    counts = {path: num_swaps(mask, rate) for path, mask in masks.items()}
    if gradients is not None:
        gradients = shortlist.on_host(gradients, masks, counts)
    new_masks, sources, removed, new = {}, {}, 0, 0
    for path, mask in sorted(masks.items()):  # the order in which rng is used
        scores = [_removal_scores(rule, posterior[path]) for posterior in posteriors]
        additions = _addition_scores(rule, path, mask, gradients, rng)
        new_masks[path], source = swap_layer(
            mask, np.mean(scores, axis=0), additions, counts[path]
        )
        sources[path] = jnp.asarray(source, jnp.int32)
        removed += counts[path]
        new += int(np.count_nonzero(source == NEW))
    return new_masks, sources, Swap(removed, removed - new)


def move(state: State, sources: dict[str, jax.Array], rule: Rule) -> State:
    """The state (donated) on the masks that came with `sources`; see `choose`.

    Raises:
      InputError: see `optimizer_state.check_movable`.
    """
    optimizer_state.check_movable(state.opt_state, state.traits)
    return _move(state, sources, rule.growth_init)


def prune(state: State, masks: Masks, kept: Masks) -> State:
    """The state of fewer coordinates, moments included; shapes become smaller.

    Args:
      state: the training state (not changed).
      masks: its selection.
      kept: the selection to keep, a part of `masks`.

    Raises:
      InputError: `kept` has other kernels, or selects what `masks` does not; or see
        `optimizer_state.check_movable`.
    """
    optimizer_state.check_movable(state.opt_state, state.traits)
    sources = {}
    for path in masks.keys() | kept.keys():
        new, old = kept.get(path), masks.get(path)
        if new is None or old is None or new.shape != old.shape or (new & ~old).any():
            raise InputError(
                f"kept: not a part of the masks at {path!r}, needed: boolean arrays "
                "that are true only where the masks are."
            )
        sources[path] = jnp.asarray(np.flatnonzero(new[old]), jnp.int32)
    return _moved(state, sources, "eps")


def _removal_scores(rule: Rule, packed: Gaussian | Point) -> np.ndarray:
    if isinstance(packed, Gaussian):
        with np.errstate(invalid="ignore"):  # NaN is refused by the criteria
            sigma = np.logaddexp(0.0, packed.rho.astype(np.float64))
    else:
        check_choice("removal of points", rule.removal, POINT_REMOVALS)
        sigma = np.zeros(packed.mean.shape)
    return criteria.removal_scores(rule.removal, packed.mean, sigma, lam=rule.lam)


def _addition_scores(rule, path, mask, gradients, rng) -> np.ndarray | Shortlist:
    if rule.addition == "random":
        return rng.random(mask.shape)
    if gradients is None or path not in gradients:
        raise InputError(f"gradients: none given for {path!r}, needed for addition.")
    scores = gradients[path]
    if not isinstance(scores, Shortlist):
        scores = np.asarray(scores)
        if scores.shape != mask.shape:
            raise InputError(
                f"gradients[{path!r}]: got shape {scores.shape}, needed: {mask.shape}, "
                "the kernel's full shape (see vi.VI.dense_gradient)."
            )
    listed = isinstance(scores, Shortlist)
    if not (scores.is_finite if listed else np.isfinite(scores).all()):
        raise InputError(
            f"gradients[{path!r}]: got a value that is not finite; lower the learning "
            "rate, or look for NaN in the data."
        )
    return scores


def _moved(state: State, sources: dict[str, jax.Array], growth_init: str) -> State:
    """Carries packed values to their new places and starts the new ones."""

    def move(path, values, fill: ArrayLike = 0.0):
        source = sources[path]
        moved = values[jnp.maximum(source, 0)]
        return jnp.where(source == NEW, jnp.asarray(fill, values.dtype), moved)

    posterior = {}
    for path, packed in state.posterior.items():
        mean = move(path, packed.mean)
        if isinstance(packed, Gaussian):
            kept = sources[path] != NEW
            fill = _growth_rho(move(path, packed.rho), kept, growth_init)
            posterior[path] = Gaussian(mean, move(path, packed.rho, fill))
        else:
            posterior[path] = Point(mean)
    opt_state = optimizer_state.moved(state.opt_state, state.traits, posterior, move)
    return state._replace(posterior=posterior, opt_state=opt_state)


@partial(jax.jit, static_argnames="growth_init", donate_argnames="state")
def _move(state: State, sources: dict[str, jax.Array], growth_init: str) -> State:
    """`_moved` for swaps, which keep every shape: the old buffers are used again."""
    return _moved(state, sources, growth_init)


def _growth_rho(rho: jax.Array, kept: jax.Array, growth_init: str) -> jax.Array:
    """What new coordinates start from, by the layer's kept ones; see `Rule`."""
    if growth_init == "eps":
        return posterior_lib.to_rho(jnp.full((), posterior_lib.MIN_SIGMA))
    power = 1 if growth_init == "mean" else -2
    values = posterior_lib.to_sigma(rho) ** power
    mean = jnp.sum(values, where=kept) / jnp.maximum(jnp.sum(kept), 1)
    # A layer of which nothing was kept has no mean to go by.
    sigma = jnp.where(jnp.any(kept), mean ** (1 / power), 0.0)
    return posterior_lib.to_rho(jnp.maximum(sigma, posterior_lib.MIN_SIGMA))

"""Masks: which weights belong to the subspace (basis selection γ), on the host."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks, Posterior, Subspace
from ssvi_jax.vi import densities


def random_masks(
    shapes: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int],
    rng: np.random.Generator,
) -> Masks:
    """Selects exactly `counts[path]` weights of each kernel uniformly at random.

    Args:
      shapes: path → full shape of the kernel.
      counts: path → number of weights to select, in [1, size].
      rng: source of randomness.

    Returns:
      Path → boolean array of the kernel's full shape.
    """
    masks = {}
    for path, shape in shapes.items():
        mask = np.zeros(int(np.prod(shape)), bool)
        mask[rng.permutation(mask.size)[: counts[path]]] = True
        masks[path] = mask.reshape(shape)
    return masks


def largest_masks(
    kernels: Mapping[str, np.ndarray], counts: Mapping[str, int]
) -> Masks:
    """Selects the weights of the largest absolute value; ties to higher positions.

    Args:
      kernels: path → full kernel.
      counts: path → number of weights to select, in [1, size].
    """
    masks = {}
    for path, count in counts.items():
        sizes = np.abs(np.asarray(kernels[path])).reshape(-1)
        mask = np.zeros(sizes.size, bool)
        mask[np.argsort(sizes, kind="stable")[sizes.size - count :]] = True
        masks[path] = mask.reshape(np.shape(kernels[path]))
    return masks


def create(
    shapes: Mapping[str, tuple[int, ...]],
    sparsity: float | None,
    rng: np.random.Generator,
    rule: str | Mapping[str, float] = "erk",
) -> Masks:
    """Random masks with the counts of a density rule.

    Args:
      shapes: path → full shape of the kernel, in the order the network applies them
        (`VI.kernel_shapes`).
      sparsity: fraction of weights that are zero, in [0, 1); None with a mapping.
      rng: source of randomness.
      rule: see `densities.layer_counts`.

    Raises:
      InputError: see `densities.layer_counts`.
    """
    return random_masks(shapes, densities.layer_counts(shapes, sparsity, rule), rng)


def to_subspace(masks: Masks, posterior: Posterior | None = None) -> Subspace:
    """The device form of masks: sorted flat positions, int32 ``[s]`` per kernel.

    Args:
      masks: the basis selection.
      posterior: if given, what the masks must fit: one value a selected weight.

    Raises:
      InputError: a mask is not boolean, its kernel is too large for int32, or the
        posterior has other kernels or another number of weights.
    """
    index, shapes = {}, []
    for path, mask in sorted(masks.items()):  # noise must not hang on their order
        check_boolean(path, mask)
        if mask.size > np.iinfo(np.int32).max:
            raise InputError(
                f"masks[{path!r}]: got {mask.size} weights, allowed: at most 2^31 - 1."
            )
        index[path] = jnp.asarray(np.flatnonzero(mask), jnp.int32)
        shapes.append((path, tuple(mask.shape)))
    subspace = Subspace(index, tuple(shapes))
    if posterior is not None:
        check_fits(subspace, posterior)
    return subspace


def check_boolean(path: str, mask: np.ndarray) -> None:
    """Raises `InputError` unless a kernel's mask is of booleans."""
    if mask.dtype != np.bool_:
        raise InputError(
            f"masks[{path!r}]: got dtype {mask.dtype}, allowed: bool (0/1 arrays: use "
            "mask.astype(bool))."
        )


def check_fits(subspace: Subspace, posterior: Posterior) -> None:
    """Raises `InputError` unless there is one value for each selected weight."""
    found = {path: positions.size for path, positions in subspace.index.items()}
    needed = {path: packed.mean.size for path, packed in posterior.items()}
    if found != needed:
        wrong = sorted(set(found.items()) ^ set(needed.items()))
        raise InputError(
            f"masks: do not fit the posterior at {wrong[:4]} (path, selected "
            "weights); needed: the masks that the state was made or swapped with."
        )


def counts(masks: Masks) -> dict[str, int]:
    """Number of selected weights per kernel, counted."""
    return {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}


def sparsity(masks: Masks, *, prunable_only: bool = False) -> float:
    """Fraction of weights that are exactly zero, counted from the masks.

    Args:
      masks: the basis selection.
      prunable_only: leave out kernels that are kept dense.

    Returns:
      A fraction in [0, 1); 0 if there is nothing to count.
    """
    chosen = [m for m in masks.values() if not (prunable_only and m.all())]
    total = sum(mask.size for mask in chosen)
    kept = sum(int(np.count_nonzero(mask)) for mask in chosen)
    return 1.0 - kept / total if total else 0.0


def sizes(subspace: Subspace) -> tuple[int, int]:
    """How many weights all kernels have, and how many of them are selected."""
    total = sum(math.prod(shape) for _, shape in subspace.shapes)
    return total, sum(index.shape[-1] for index in subspace.index.values())


def overlap(a: Masks, b: Masks) -> float:
    """Intersection over union of two selections, a fraction in [0, 1]; 1 if empty."""
    both = sum(int(np.count_nonzero(a[path] & b[path])) for path in a)
    either = sum(int(np.count_nonzero(a[path] | b[path])) for path in a)
    return both / either if either else 1.0

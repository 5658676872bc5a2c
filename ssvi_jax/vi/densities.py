"""How many weights each kernel keeps: exact counts for a sparsity and a rule.

Rules:

* ``uniform``: every kernel keeps round((1 − sparsity) · size) of its weights, except
  the first convolution, which stays dense.
* ``er``: Erdős-Rényi. Density ∝ (n_in + n_out) / (n_in · n_out), the two trailing
  dimensions of the kernel (Mocanu et al., "Scalable training of artificial neural
  networks with adaptive sparse connectivity", Nature Communications 9, 2018).
* ``erk``: Erdős-Rényi-Kernel. Density ∝ sum(shape) / prod(shape), the spatial
  dimensions included (Evci et al., "Rigging the Lottery", ICML 2020, section 3).
* ``sqrt_erk``: density ∝ the square root of that, between ``erk`` and ``uniform``. The
  first layers, where images are large and a weight is used often, keep fewer weights,
  so that a training step costs less at the same sparsity (ours, docs/posterior.md).
* a mapping from path to density, given by hand.

Dimensions are those of one product (`KernelShape.applied`): kernels that are stacked
have the density that each would have alone. Density is the kept fraction, sparsity is
1 − density.
"""

import math
from collections.abc import Callable, Mapping

from ssvi_jax.core.errors import InputError, check_choice, check_fraction
from ssvi_jax.core.types import KernelShape

Shapes = Mapping[str, tuple[int, ...]]
"""Kernel path → full shape, in the order in which the network applies them.

Of a kernel that is neither of a Dense nor of a Conv layer it is a `KernelShape`.
"""


def layer_counts(
    shapes: Shapes, sparsity: float | None, rule: str | Mapping[str, float]
) -> dict[str, int]:
    """Returns the exact number of weights that every kernel keeps.

    But under ``uniform`` the counts of a rule add up to exactly
    round((1 − sparsity) · total): kernels whose share exceeds their size are dense, the
    rest share what is left in proportion, rounded by largest remainder (ties go to the
    earlier kernel).

    Args:
      shapes: path → shape of every kernel. The *order* tells ``uniform`` which
        convolution (more than two dimensions) is the first; a tree that JAX has
        rebuilt is sorted by name, which need not be the order of the network.
        Without a convolution no kernel is kept dense, and neither is one where the
        first is one of a stack.
      sparsity: fraction of weights that are zero, in [0, 1); None with densities by
        hand, which fix it.
      rule: a key of `RULES`, or path → density in (0, 1] for every path.

    Returns:
      path → count, in the order of `shapes`; 1 <= count <= size.

    Raises:
      InputError: sparsity outside [0, 1), unknown rule, missing or unknown path,
        density outside [0, 1], or a kernel that is left without a weight.
    """
    if not shapes:
        raise InputError("densities: got no kernels, allowed: at least one.")
    if isinstance(rule, str):
        check_choice("densities", rule, RULES)
        if sparsity is None:
            raise InputError(
                f"sparsity: got None, allowed with densities {rule!r}: [0, 1)."
            )
        check_fraction("sparsity", sparsity)
        counts = RULES[rule](shapes, sparsity)
    else:
        counts = _by_hand(shapes, sparsity, rule)
    _check_not_empty(shapes, counts)
    return counts


def _uniform(shapes: Shapes, sparsity: float) -> dict[str, int]:
    counts = {
        path: round((1 - sparsity) * math.prod(shape)) for path, shape in shapes.items()
    }
    kernels = {path: KernelShape.of(shape) for path, shape in shapes.items()}
    first = next((path for path, k in kernels.items() if len(k.applied) > 2), None)
    if first is not None and not kernels[first].is_stacked:
        counts[first] = math.prod(shapes[first])
    return counts


def _er(shapes: Shapes, sparsity: float) -> dict[str, int]:
    return _proportional(shapes, sparsity, lambda s: sum(s[-2:]) / math.prod(s[-2:]))


def _erk(shapes: Shapes, sparsity: float) -> dict[str, int]:
    return _proportional(shapes, sparsity, lambda s: sum(s) / math.prod(s))


def _sqrt_erk(shapes: Shapes, sparsity: float) -> dict[str, int]:
    return _proportional(shapes, sparsity, lambda s: math.sqrt(sum(s) / math.prod(s)))


def _proportional(
    shapes: Shapes, sparsity: float, raw_density: Callable[[tuple[int, ...]], float]
) -> dict[str, int]:
    """Counts with density min(1, ε · raw), ε set so that the total is exact."""
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    raw = {p: raw_density(KernelShape.of(shape).applied) for p, shape in shapes.items()}
    shares = {path: sizes[path] * raw[path] for path in shapes}
    budget = round((1 - sparsity) * sum(sizes.values()))
    counts: dict[str, int] = {}
    # Capping a layer frees weights for the others, so ε only grows: each round is final
    while shares:
        scale = budget / sum(shares.values())
        capped = [path for path in shares if scale * shares[path] >= sizes[path]]
        if not capped:
            counts |= _largest_remainder(shares, scale, budget)
            break
        for path in capped:
            counts[path] = sizes[path]
            budget -= sizes[path]
            del shares[path]
    return {path: counts[path] for path in shapes}


def _largest_remainder(
    shares: Mapping[str, float], scale: float, budget: int
) -> dict[str, int]:
    """Rounds scale · shares to whole numbers that add up to `budget`."""
    counts = {path: math.floor(scale * share) for path, share in shares.items()}
    remainder = {path: scale * share - counts[path] for path, share in shares.items()}
    by_remainder = sorted(shares, key=lambda path: -remainder[path])
    for path in by_remainder[: budget - sum(counts.values())]:
        counts[path] += 1
    return counts


def _by_hand(
    shapes: Shapes, sparsity: float | None, densities: Mapping[str, float]
) -> dict[str, int]:
    if sparsity is not None:
        raise InputError(
            f"sparsity: got {sparsity} together with densities by hand, which fix it; "
            "pass None."
        )
    for kind, paths in (
        ("no density for", [path for path in shapes if path not in densities]),
        ("a density for unknown", [path for path in densities if path not in shapes]),
    ):
        if paths:
            raise InputError(
                f"densities: got {kind} {', '.join(paths)}, allowed: exactly one for "
                f"each of {', '.join(shapes)}."
            )
    for path, density in densities.items():
        check_fraction(f"density of {path}", density, one_allowed=True)
    return {path: round(densities[path] * math.prod(shapes[path])) for path in shapes}


def _check_not_empty(shapes: Shapes, counts: Mapping[str, int]) -> None:
    for path, count in counts.items():
        if count == 0:
            size = math.prod(shapes[path])
            raise InputError(
                f"densities: layer {path} with {size} weights {shapes[path]} is left "
                "without a weight, allowed: at least one; lower the sparsity, choose "
                "another rule, or give the densities by hand."
            )


RULES: dict[str, Callable[[Shapes, float], dict[str, int]]] = {
    "uniform": _uniform,
    "er": _er,
    "erk": _erk,
    "sqrt_erk": _sqrt_erk,
}

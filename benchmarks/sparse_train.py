"""Contestants of a training step: both backends at several densities, and PyTorch."""

import math
from collections.abc import Mapping, Sequence

from train_step import DENSITY, Contestant, Library, torch_contestant

Densities = Mapping[str, Sequence[float]]
"""Backend → densities at which it trains."""

Curve = Mapping[float, float]
"""Density → seconds a step."""

_ALL = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
DENSITIES: Densities = {"sparse": _ALL, "xla": _ALL}
QUICK: Densities = {"sparse": (0.1, 0.05, 0.02)}


def name_of(backend: str, density: float) -> str:
    """The contestant that keeps so many weights on that backend."""
    return f"{backend} {density:.0%}"


OURS, LRT, DENSE = name_of("sparse", DENSITY), "torch_lrt", "torch"
IVON = f"{OURS}, one weight sample (IVON)"
SLOW = (name_of("sparse", 0.1), LRT)
"""The slowest of the quick run."""


def _steps(backend: str, density: float) -> int:
    """Steps a call.

    XLA touches its temporary memory anew in every call, which phases of 100 steps do
    not feel: fast steps need many a call. For steps of seconds two are enough.
    """
    if backend != "sparse" or density > 0.1:
        return 2
    return 16 if density == 0.1 else 32


def contestants(
    densities: Densities, batch_size: int, *, with_torch: bool
) -> dict[str, Contestant]:
    """Name → contestant, in the order in which they take turns."""
    found: dict[str, Contestant] = {
        name_of(backend, density): Library(
            batch_size, density, _steps(backend, density), backend
        )
        for backend, chosen in densities.items()
        for density in chosen
    }
    found[IVON] = Library(
        batch_size, DENSITY, _steps("sparse", DENSITY), "sparse", ivon=True
    )
    if with_torch:
        found[LRT] = torch_contestant(batch_size, DENSITY, 2)
        found[DENSE] = torch_contestant(batch_size, None, 2)
    return found


def curves(median_seconds: Mapping[str, float]) -> dict[str, Curve]:
    """Backend → curve over `DENSITIES`."""
    return {
        backend: {d: median_seconds[name_of(backend, d)] for d in densities}
        for backend, densities in DENSITIES.items()
    }


def crossover(sparse: Curve, xla: Curve) -> float | None:
    """Largest density at which both curves meet, linear between logarithms.

    None if they do not: one backend is faster at all densities.
    """
    densities = sorted(sparse, reverse=True)
    gaps = [math.log(sparse[density] / xla[density]) for density in densities]
    for i in range(len(gaps) - 1):
        if gaps[i] >= 0 > gaps[i + 1]:
            high, low = map(math.log, densities[i : i + 2])
            return math.exp(high - (high - low) * gaps[i] / (gaps[i] - gaps[i + 1]))
    return None

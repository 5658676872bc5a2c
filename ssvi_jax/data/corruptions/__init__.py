"""The corruptions of CIFAR-10-C, generated from a seed.

The fifteen of the benchmark and four extra ones at five severities (Hendrycks and
Dietterich 2019), for uint8 images of any size. Lengths (radii, blurs, shifts) are in
pixels of a 32 × 32 image, as in CIFAR-10-C, and are not scaled to other sizes. Where
the benchmark draws no random numbers (defocus and zoom blur, brightness, contrast,
pixelate, JPEG) its grey levels are repeated to the last, JPEG with the same libjpeg;
elsewhere the distribution is the same, frost from generated instead of photographed
ice.

As a command, from a file of images to the files of the official layout::

    ssvi corrupt test_images.npy CIFAR-10-C --labels test_labels.npy
"""

from collections.abc import Sequence

import numpy as np

from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.data.corruptions import registry
from ssvi_jax.data.corruptions.draws import Draws

__all__ = [
    "BENCHMARK",
    "EXTRA",
    "NAMES",
    "SEVERITIES",
    "corrupt",
    "corrupt_any",
    "corrupt_randomly",
]

BENCHMARK = tuple(registry.BENCHMARK)
"""The benchmark's fifteen, in its order."""
EXTRA = tuple(registry.EXTRA)
"""The benchmark's extra four, meant for validation."""
NAMES = BENCHMARK + EXTRA
"""All nineteen."""
SEVERITIES = (1, 2, 3, 4, 5)
"""From weak to strong."""

_CHUNK_VALUES = 2**18  # values of the images worked on at once: they stay in the cache


def corrupt(
    images: np.ndarray, name: str, severity: int, *, seed: int, start: int = 0
) -> np.ndarray:
    """Corrupts images.

    Image i depends on (seed, name, severity, start + i) and its own pixels alone, so
    ``corrupt(images[a:b], ..., start=a)`` equals ``corrupt(images, ...)[a:b]``.

    Args:
      images: uint8 ``[n, h, w, 3]``, RGB; n may be 0.
      name: one of `NAMES`.
      severity: 1 to 5.
      seed: of all random numbers, 0 or above.
      start: number of the first image in the whole data.

    Returns:
      uint8 ``[n, h, w, 3]``.

    Raises:
      InputError: images of another type or shape, or an unknown name, severity, seed
        or start.
    """
    _check_images(images, channels=(3,))
    _check_cell(name, severity)
    return _corrupt(images, name, severity, seed, _numbers(images, seed, start))


def corrupt_any(
    images: np.ndarray, name: str, severity: int, *, seed: int, start: int = 0
) -> np.ndarray:
    """The same as `corrupt`, for grey images ``[n, h, w, 1]`` too.

    A grey image is corrupted as three equal channels; the result is their rounded mean.
    """
    _check_images(images, channels=(1, 3))
    _check_cell(name, severity)
    return _corrupt(images, name, severity, seed, _numbers(images, seed, start))


def corrupt_randomly(
    images: np.ndarray,
    *,
    names: Sequence[str] = BENCHMARK,
    severities: Sequence[int] = SEVERITIES,
    seed: int,
    start: int = 0,
) -> np.ndarray:
    """Gives each image a corruption and a severity of its own, for training on them.

    Image i is one of the results of `corrupt_any` with the same seed and start; which,
    depends on (seed, start + i). Another epoch needs another seed or start.

    Args:
      images: uint8 ``[n, h, w, 3]`` or ``[n, h, w, 1]``.
      names: what to choose from, uniformly; a name given twice counts twice.
      severities: likewise.
      seed: of all random numbers, 0 or above.
      start: number of the first image in the whole data.

    Raises:
      InputError: as in `corrupt`, or nothing to choose from.
    """
    _check_images(images, channels=(1, 3))
    cells = [(name, severity) for name in names for severity in severities]
    if not cells:
        raise InputError(
            f"names, severities: got {list(names)}, {list(severities)}, allowed: at "
            "least one of each."
        )
    for name, severity in cells:
        _check_cell(name, severity)
    numbers = _numbers(images, seed, start)
    choice = Draws(seed, "choice of cells", numbers).integers(len(cells))
    out = np.empty_like(images)
    for i in np.unique(choice):
        (name, severity), rows = cells[i], np.flatnonzero(choice == i)
        out[rows] = _corrupt(images[rows], name, severity, seed, numbers[rows])
    return out


def _corrupt(
    images: np.ndarray, name: str, severity: int, seed: int, numbers: np.ndarray
) -> np.ndarray:
    """Corrupts images that carry these numbers, a few at a time."""
    apply, parameters = registry.ALL[name]
    out = np.empty(images.shape, np.uint8)
    chunk = max(_CHUNK_VALUES // max(images[:1].size, 1), 1)
    for first in range(0, len(images), chunk):
        rows = slice(first, first + chunk)
        draws = Draws(seed, f"{name} {severity}", numbers[rows])
        batch = np.broadcast_to(images[rows], (*images[rows].shape[:3], 3))
        result = apply(np.ascontiguousarray(batch), draws, *parameters[severity - 1])
        if images.shape[3] == 1:
            total = result.sum(axis=3, keepdims=True, dtype=np.int64)
            result = (total + 1) // 3
        out[rows] = result
    return out


def _numbers(images: np.ndarray, seed: int, start: int) -> np.ndarray:
    """The images' numbers ``[n]``, after a check of what they come from."""
    for argument, got in (("seed", seed), ("start", start)):
        if not isinstance(got, int | np.integer) or not 0 <= got < 2**62:
            raise InputError(
                f"{argument}: got {got!r}, allowed: a whole number from 0 to 2^62 - 1."
            )
    return start + np.arange(len(images), dtype=np.int64)


def _check_images(images: np.ndarray, channels: tuple[int, ...]) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        got = getattr(images, "dtype", type(images).__name__)
        raise InputError(
            f"images: got {got}, allowed: a NumPy array of uint8, pixels 0 to 255."
        )
    if images.ndim != 4 or images.shape[3] not in channels or 0 in images.shape[1:3]:
        last = " or ".join(map(str, channels))
        raise InputError(
            f"images: got shape {list(images.shape)}, allowed: [n, height, width, "
            f"{last}], height and width at least 1."
        )


def _check_cell(name: str, severity: int) -> None:
    check_choice("name", name, NAMES)
    if not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
        allowed = ", ".join(map(str, SEVERITIES))
        raise InputError(f"severity: got {severity!r}, allowed: {allowed}.")

"""What every source of corrupted test images offers: read one cell at a time.

A cell is one corruption at one severity. The whole benchmark is 750,000 images, so no
more than one cell is ever in memory.
"""

from collections.abc import Collection
from typing import Protocol

import numpy as np

from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.data.corruptions import SEVERITIES


class Cells(Protocol):
    """Corrupted test images of one data set, from wherever they come."""

    @property
    def kind(self) -> str:
        """``"folder"``, ``"tfds"`` or ``"generated"``."""
        ...

    @property
    def source(self) -> str:
        """One sentence on where the images came from, for the results."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions there are, each with all severities, benchmark first."""
        ...

    @property
    def num_images(self) -> int:
        """Images in a cell."""
        ...

    def read(self, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ``[n, h, w, c]`` and labels int32 ``[n]`` of one cell.

        Args:
          name: one of `names`.
          severity: 1 to 5.

        Raises:
          InputError: an unknown cell, or damaged data.
        """
        ...


def check_cell(names: Collection[str], name: str, severity: int) -> None:
    """Raises `InputError` unless `name` is one of `names` and `severity` is 1 to 5."""
    check_choice("corruption", name, names)
    if severity not in SEVERITIES:
        raise InputError(f"severity: got {severity}, allowed: 1 to 5.")


def check_limit(limit: int) -> None:
    """Raises `InputError` for a negative number of images; 0 stands for all."""
    if limit < 0:
        raise InputError(f"limit: got {limit}, allowed: 0 (all images) or more.")


def how_many(num_images: int, num_all: int) -> str:
    """``"10,000 images a cell"`` or ``"the first 100 of 10,000 images a cell"``."""
    if num_images == num_all:
        return f"{num_all:,} images a cell"
    return f"the first {num_images:,} of {num_all:,} images a cell"

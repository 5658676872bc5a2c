"""Where a training step is computed: by which kernels, on which devices, in parts."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import check_choice, check_positive
from ssvi_jax.core.settings import not_negative
from ssvi_jax.core.types import ApplyFn, Data, Subspace
from ssvi_jax.ops import backend as backends
from ssvi_jax.vi import masks
from ssvi_jax.vi.devices import Devices

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Execution:
    """How steps are computed; the numbers do not depend on it beyond rounding.

    Attributes:
      backend: "xla" (dense products), "sparse" (compiled CPU kernels that visit the
        kept weights only), or "auto": by device and density (see `ops.backend`).
      devices: devices of each process that share a batch; 0: all that it has.
      accumulate: parts that a batch is computed in, one after the other, where it needs
        too much memory (see `ops.accumulate`); 1: at once.
      streamed: whether data comes from `Devices.place_batches`.

    Raises:
      InputError: an unknown backend, or a number out of its range.
    """

    backend: str = "auto"
    devices: int = 1
    accumulate: int = 1
    streamed: bool = False

    def __post_init__(self):
        check_choice("backend", self.backend, backends.BACKENDS)
        not_negative("devices", self.devices)
        check_positive("accumulate", self.accumulate)

    @property
    def line(self) -> Devices | None:
        """The devices that share a batch; None: it is computed by one.

        Raises:
          InputError: there are not so many.
        """
        if self.devices == 1 and jax.process_count() == 1:
            return None
        line = _line(self.devices)
        return line if line.mesh.size > 1 else None

    def check(self, batch_size: int, density: float) -> None:
        """Refuses, before anything is computed, what cannot be.

        Args:
          batch_size: examples in a step.
          density: fraction of the kernel weights that are kept.

        Raises:
          InputError: a backend that cannot run, too many devices, or a batch that they
            or its parts cannot divide evenly.
        """
        backends.choose(self.backend, density)
        if self.line is not None:
            self.line.check_batch(batch_size, self.accumulate)

    def multiplies(self, apply_fn: ApplyFn, subspace: Subspace) -> str:
        """See `backend_of`."""
        return backend_of(self.backend, apply_fn, subspace)

    def keep(self, data: Data) -> Data:
        """A training set where every step finds it, copied once."""
        if self.line is None or self.streamed:
            return data
        return self.line.keep(data)

    def placed(
        self, state: T, subspace: Subspace, data: Data, batch_index: np.ndarray
    ) -> tuple[T, Subspace, Data, jax.typing.ArrayLike]:
        """Operands where `over_devices` wants them: copies, and parts of the rows.

        Raises:
          InputError: the rows ``[..., batch]`` cannot be divided evenly.
        """
        if self.line is None:
            # Of JAX, as jax_debug_nans runs what is jitted without jit.
            return state, subspace, jax.tree.map(jnp.asarray, data), batch_index
        rows = self.line.cut(batch_index, self.accumulate)
        state, subspace = self.line.replicate((state, subspace))
        return state, subspace, self.keep(data), rows

    def over_devices(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function of such operands, on each device's part; inside jit.

        What it returns must be the same for every part of a batch.
        """
        if self.line is None:
            return function
        return self.line.over_shards(function, streamed=self.streamed)

    def local(self, tree: T) -> T:
        """What such a function returned, as ordinary arrays of one device."""
        return tree if self.line is None else self.line.local(tree)


def backend_of(asked: str, apply_fn: ApplyFn, subspace: Subspace) -> str:
    """The backend, "xla" or "sparse", of a network's kernels on a subspace.

    Args:
      asked: one of `ops.backend.BACKENDS`.
      apply_fn: the network; one that does not take packed kernels runs on XLA.
      subspace: the selected coordinates.

    Raises:
      InputError: an unknown name, or "sparse" where the kernels cannot run.
    """
    check_choice("backend", asked, backends.BACKENDS)
    total, kept = masks.sizes(subspace)
    if not total or (asked == "auto" and not _takes_kernels(apply_fn)):
        return "xla"
    return backends.choose(asked, kept / total)


def _takes_kernels(apply_fn: ApplyFn) -> bool:
    names = inspect.signature(apply_fn).parameters.values()
    return any(p.name == "kernels" or p.kind is p.VAR_KEYWORD for p in names)


@functools.cache
def _line(number: int) -> Devices:
    return Devices(number)

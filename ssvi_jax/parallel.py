"""Data-parallel training: every device computes its own part of each batch.

A line of devices, over one or several processes. The batch is cut along it; everything
else (state, masks, the training set) is on every device. Inside `jax.shard_map` the
step is the one of `vi.VI`; gradients are averaged while they are *packed*, so a message
has one or two numbers a kept weight, and the dense gradient of a swap is averaged once
a phase. (Left to itself XLA would average the gradient of the full kernels, in every
step.) Noise, augmentation and batch norm are those of the whole batch (`ops.shard`), so
the numbers are those of one device up to rounding.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssvi_jax import methods, vi
from ssvi_jax.config import Config
from ssvi_jax.errors import InputError
from ssvi_jax.ops import shard
from ssvi_jax.types import Subspace

T = TypeVar("T")


class Devices:
    """A line of devices that share each batch.

    Args:
      number: how many of each process; 0: all that it has.

    Attributes:
      mesh: the devices, process by process, along the axis `shard.AXIS`.

    Raises:
      InputError: a process has fewer.
    """

    def __init__(self, number: int):
        each = [
            jax.local_devices(process_index=i)[: number or None]
            for i in range(jax.process_count())
        ]
        if number > (have := min(map(len, each))):
            raise InputError(
                f"--devices: got {number}, allowed: 0 to {have}, the devices of a "
                f"process here (JAX runs on {jax.default_backend()}; it makes several "
                "of a CPU with XLA_FLAGS=--xla_force_host_platform_device_count=8)."
            )
        self.mesh = Mesh(np.array([d for line in each for d in line]), (shard.AXIS,))
        self._kept: tuple[vi.Data, vi.Data] | None = None

    def replicate(self, tree: T) -> T:
        """The arrays on every device; those of this process's first are not copied."""
        sharding = NamedSharding(self.mesh, P())

        def one(leaf: Any) -> jax.Array:
            copies = [jax.device_put(leaf, d) for d in self.mesh.local_devices]
            return jax.make_array_from_single_device_arrays(
                leaf.shape, sharding, copies
            )

        return jax.tree.map(one, tree)

    def keep(self, data: vi.Data) -> vi.Data:
        """The same, of a training set: copied when it is another than the last one."""
        if self._kept is None or any(
            old is not new for old, new in zip(self._kept[0], data, strict=True)
        ):
            self._kept = None  # frees the old copies first
            self._kept = data, self.replicate(data)
        return self._kept[1]

    def check_batch(self, size: int, parts: int = 1) -> None:
        """Raises `InputError` unless a batch of this size can be divided evenly.

        Args:
          size: the batch's.
          parts: how many it is computed in, each by all devices.
        """
        number = self.mesh.size
        if size % (number * parts):
            kind = f"{number} devices" + f" and --accumulate {parts}" * (parts > 1)
            raise InputError(
                f"--batch-size: got {size} for {kind}, allowed: a multiple of "
                f"{number * parts}."
            )

    def cut(self, batch_index: np.ndarray, parts: int = 1) -> jax.Array:
        """Rows ``[..., batch]``, of which each device gets consecutive ones.

        Of each part of the batch, if it is computed in several: what normalizes over a
        part then sees the same examples however many devices there are.

        Raises:
          InputError: they cannot be divided evenly.
        """
        *outer, size = batch_index.shape
        self.check_batch(size, parts)
        pieces = np.reshape(batch_index, (*outer, parts, self.mesh.size, -1))
        rows = pieces.swapaxes(-3, -2).reshape(*outer, size).astype(np.int32)
        along = NamedSharding(self.mesh, _along_last(rows.ndim))
        return jax.make_array_from_callback(rows.shape, along, rows.__getitem__)

    def local(self, tree: T) -> T:
        """Replicated arrays as ordinary ones, on this process's first device."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def over_shards(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function of (state, subspace, data, rows), run on each shard of the rows.

        Rows are ``[..., batch]``. What it returns must be the same on all of them.
        """

        # JAX's check of what is the same everywhere does not know the sparse kernels,
        # and would sum gradients of full kernels where they are made.
        def run(state, subspace, data, rows):
            specs = (P(), P(), P(), _along_last(rows.ndim))
            shards = jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=P(), check_vma=False
            )
            return shards(state, subspace, data, rows)

        return run


def _along_last(axes: int) -> P:
    return P(*(None,) * (axes - 1), shard.AXIS)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardedVI(vi.VI):
    """`vi.VI` on several devices: the same calls and, up to rounding, numbers.

    States, data and results are ordinary arrays of one device, as there. An `augment`
    of your own must draw for the whole batch (see `ops.shard.rows`). What a Flax module
    draws itself, as its dropout does, differs from that of one device: every device has
    a random key of its own for it.

    Attributes:
      devices: what to run on.
    """

    devices: Devices

    @classmethod
    def of(cls, inference: vi.VI, devices: Devices) -> Self:
        """The same inference on these devices."""
        names = [field.name for field in dataclasses.fields(vi.VI)]
        values = {name: getattr(inference, name) for name in names}
        return cls(**values, devices=devices)

    def placed(
        self, state: T, subspace: Subspace, data: vi.Data, batch_index: np.ndarray
    ) -> tuple[T, Subspace, vi.Data, jax.typing.ArrayLike]:
        """Copies on every device, and each device's part of the rows ``[..., batch]``.

        Raises:
          InputError: they cannot be divided evenly.
        """
        rows = self.devices.cut(batch_index, self.accumulate)
        state, subspace = self.devices.replicate((state, subspace))
        return state, subspace, self.devices.keep(data), rows

    def over_devices(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function on each shard of the rows."""
        return self.devices.over_shards(function)

    def local(self, tree: T) -> T:
        """What this process's first device has."""
        return self.devices.local(tree)


def spread(method: methods.Method, config: Config) -> methods.Method:
    """A method that trains on the devices that its configuration asks for.

    Raises:
      InputError: too many devices, or a batch that they cannot divide evenly.
    """
    devices = Devices(config.devices)
    if devices.mesh.size == 1:
        return method
    devices.check_batch(config.batch_size, config.accumulate)
    return method.with_inference(partial(ShardedVI.of, devices=devices))

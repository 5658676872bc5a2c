"""Data-parallel training: every device computes its own part of each batch.

A line of devices, over one or several processes. The batch is cut along it; everything
else (state, masks, the training set) is on every device. Inside `jax.shard_map` the
step is the one of `vi.VI`; gradients are averaged while they are *packed*, so a message
has one or two numbers a kept weight, and the dense gradient of a swap is averaged once
a phase. (Left to itself XLA would average the gradient of the full kernels, in every
step.) Noise, augmentation and batch norm are those of the whole batch (`ops.shard`), so
the numbers are those of one device up to rounding.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data
from ssvi_jax.ops import shard

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
                f"devices: got {number}, allowed: 0 to {have}, the devices of a "
                f"process here (JAX runs on {jax.default_backend()}; it makes several "
                "of a CPU with XLA_FLAGS=--xla_force_host_platform_device_count=8)."
            )
        self.mesh = Mesh(np.array([d for line in each for d in line]), (shard.AXIS,))

    def replicate(self, tree: T) -> T:
        """The arrays on every device; those of this process's first are not copied."""
        sharding = NamedSharding(self.mesh, P())

        def one(leaf: Any) -> jax.Array:
            copies = [jax.device_put(leaf, d) for d in self.mesh.local_devices]
            return jax.make_array_from_single_device_arrays(
                leaf.shape, sharding, copies
            )

        return jax.tree.map(one, tree)

    def keep(self, data: Data) -> Data:
        """The same, of a training set; what is there already is not copied again."""
        everywhere = NamedSharding(self.mesh, P())
        placed = all(
            isinstance(leaf, jax.Array) and leaf.sharding == everywhere
            for leaf in jax.tree.leaves(data)
        )
        return data if placed else self.replicate(data)

    def check_batch(self, size: int, parts: int = 1) -> None:
        """Raises `InputError` unless a batch of this size can be divided evenly.

        Args:
          size: the batch's.
          parts: how many it is computed in, each by all devices.
        """
        number = self.mesh.size
        if size % (number * parts):
            kind = f"{number} devices" + f" and {parts} parts (accumulate)" * (
                parts > 1
            )
            raise InputError(
                f"batch_size: got {size} for {kind}, allowed: a multiple of "
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

    def columns(self, batch_size: int, parts: int = 1) -> np.ndarray:
        """Which examples of a batch the devices of this process compute, ``[own]``.

        Device by device, and those of a device in its order: see `cut`.

        Raises:
          InputError: the devices cannot divide a batch evenly.
        """
        self.check_batch(batch_size, parts)
        pieces = np.arange(batch_size).reshape(parts, self.mesh.size, -1)
        own = [d.process_index == jax.process_index() for d in self.mesh.devices]
        return pieces.swapaxes(0, 1)[own].ravel()

    def place_batches(
        self, examples: tuple[np.ndarray, np.ndarray], number: int, parts: int = 1
    ) -> tuple[Data, np.ndarray]:
        """Some whole batches on the devices, each example on the one that computes it.

        Args:
          examples: images and labels ``[number * own, ...]`` of `columns`, batch by
            batch.
          number: how many batches.
          parts: how many a batch is computed in.

        Returns:
          Images and labels, and rows ``[number, batch]`` by which `cut` and
          `over_shards` find them: numbers among those of the same device.
        """
        own = len(self.mesh.local_devices)

        def placed(array: np.ndarray) -> jax.Array:
            if self.mesh.size == 1:
                return jax.numpy.asarray(array)
            split = np.split(array.reshape(number, -1, *array.shape[1:]), own, axis=1)
            shards = [
                jax.device_put(each.reshape(-1, *array.shape[1:]), device)
                for each, device in zip(split, self.mesh.local_devices, strict=True)
            ]
            shape = (len(shards[0]) * self.mesh.size, *array.shape[1:])
            sharding = NamedSharding(self.mesh, P(shard.AXIS))
            return jax.make_array_from_single_device_arrays(shape, sharding, shards)

        images, labels = examples
        each = np.arange(len(labels) // own, dtype=np.int32)
        rows = np.repeat(each.reshape(number, parts, 1, -1), self.mesh.size, axis=2)
        return (placed(images), placed(labels)), rows.reshape(number, -1)

    def local(self, tree: T) -> T:
        """Replicated arrays as ordinary ones, on this process's first device."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def over_shards(
        self, function: Callable[..., T], *, streamed: bool = False
    ) -> Callable[..., T]:
        """A function of (state, subspace, data, rows), run on each shard of the rows.

        Rows are ``[..., batch]``. What it returns must be the same on all of them. Data
        that is `streamed` was placed by `place_batches`; other data is whole on every
        device.
        """

        # JAX's check of what is the same everywhere does not know the sparse kernels,
        # and would sum gradients of full kernels where they are made.
        def run(state, subspace, data, rows):
            examples = P(shard.AXIS) if streamed else P()
            specs = (P(), P(), examples, _along_last(rows.ndim))
            shards = jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=P(), check_vma=False
            )
            return shards(state, subspace, data, rows)

        return run


def _along_last(axes: int) -> P:
    return P(*(None,) * (axes - 1), shard.AXIS)

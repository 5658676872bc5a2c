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

from ssvi_jax import methods, registry, vi
from ssvi_jax.config import Config
from ssvi_jax.errors import InputError
from ssvi_jax.methods.deterministic import Deterministic
from ssvi_jax.methods.magnitude import DenseToSparse
from ssvi_jax.methods.ssvi import SSVI
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

    def check_batch(self, size: int) -> None:
        """Raises `InputError` unless a batch of this size can be divided evenly."""
        if size % self.mesh.size:
            raise InputError(
                f"--batch-size: got {size} for {self.mesh.size} devices, allowed: a "
                f"multiple of {self.mesh.size}."
            )

    def cut(self, batch_index: np.ndarray) -> jax.Array:
        """Rows ``[M, batch]``, of which each device gets consecutive columns.

        Raises:
          InputError: they cannot be divided evenly.
        """
        self.check_batch(batch_index.shape[1])
        rows = np.asarray(batch_index, np.int32)
        sharding = NamedSharding(self.mesh, P(None, shard.AXIS))
        return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)

    def local(self, tree: T) -> T:
        """Replicated arrays as ordinary ones, on this process's first device."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def over_shards(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function of (state, subspace, data, rows), run on each shard of the rows.

        What it returns must be the same on all of them.
        """
        specs = (P(), P(), P(), P(None, shard.AXIS))
        # JAX's check of what is the same everywhere does not know the sparse kernels,
        # and would sum gradients of full kernels where they are made.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=specs, out_specs=P(), check_vma=False
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardedVI(vi.VI):
    """`vi.VI` on several devices: the same calls and, up to rounding, numbers.

    States, data and results are ordinary arrays of one device, as there. An `augment`
    of your own must draw for the whole batch (see `ops.shard.rows`). In a model with
    flax's dropout every device drops the same places of its own part of the batch.

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

    def _scan(self, state, subspace, data, batch_index):
        operands = self._placed(state, subspace, data, batch_index)
        return self.devices.local(self.sharded_steps(*operands))

    def _dense_gradient(self, state, subspace, data, batch_index, estimator):
        operands = self._placed(state, subspace, data, batch_index)
        return self.devices.local(self.sharded_growth(*operands, estimator))

    def _placed(self, state, subspace, data, batch_index):
        rows = self.devices.cut(batch_index)
        state, subspace = self.devices.replicate((state, subspace))
        return state, subspace, self.devices.keep(data), rows

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def sharded_steps(
        self, state: vi.State, subspace: Subspace, data: vi.Data, batch_index: jax.Array
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """`vi.VI.steps` on arrays that are already spread over the devices."""
        steps = self.devices.over_shards(self.steps)
        return steps(state, subspace, data, batch_index)

    @partial(jax.jit, static_argnames=("self", "estimator"))
    def sharded_growth(
        self,
        state: vi.State,
        subspace: Subspace,
        data: vi.Data,
        batch_index: jax.Array,
        estimator: str,
    ) -> dict[str, jax.Array]:
        """`vi.VI.growth`, likewise."""
        growth = self.devices.over_shards(partial(self.growth, estimator=estimator))
        return growth(state, subspace, data, batch_index)


def spread(method: methods.Method, config: Config) -> methods.Method:
    """A method that trains on the devices that its configuration asks for.

    Raises:
      InputError: too many devices, a batch that they cannot divide evenly, or a method
        that cannot.
    """
    devices = Devices(config.devices)
    if devices.mesh.size == 1:
        return method
    can = [name for name, entry in registry.METHODS.items() if entry.on_devices]
    if config.method not in can:
        raise InputError(
            f"--devices: got {devices.mesh.size} in all, allowed with --method "
            f"{config.method}: 1; those that share a batch are {', '.join(can)}."
        )
    devices.check_batch(config.batch_size)
    if isinstance(method, DenseToSparse):
        inferences = {
            name: ShardedVI.of(inference, devices)
            for name, inference in method.inferences.items()
        }
        return dataclasses.replace(method, inferences=inferences)
    assert isinstance(method, SSVI | Deterministic)
    sharded = ShardedVI.of(method.inference, devices)
    return dataclasses.replace(method, inference=sharded)

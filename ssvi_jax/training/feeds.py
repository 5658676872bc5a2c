"""Where the training loop gets its examples from: memory, or a stream.

A feed gives data on the device and rows of it, as `methods.Method.step` takes them, for
any steps: a function of (seed, step), whichever feed it is. From memory it is the whole
training set and the rows of a phase. A stream cuts the phase into chunks of steps whose
images fit a budget; the device computes one chunk while the next is read.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data, Masks
from ssvi_jax.data import Dataset, lazy
from ssvi_jax.data.batches import batch_indices
from ssvi_jax.data.stream import Order, Stream
from ssvi_jax.methods import base
from ssvi_jax.training import processes
from ssvi_jax.training.interrupt import wait
from ssvi_jax.training.parallel import Devices
from ssvi_jax.training.presets import ENSEMBLES
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi.state import State

CHUNK_BYTES = 2**29
"""Of the images of a chunk, unless one batch alone is larger. Up to three chunks are in
the host's memory (read ahead, being put together, on their way to the device) and three
in the device's, or in each process and device its part of them."""

Chunk = tuple[Data, np.ndarray]
"""Inputs and labels on the device, and int32 ``[steps, batch]`` rows of them."""


class Feed(Protocol):
    """Examples of any steps."""

    def chunks(self, step: int, num_steps: int) -> Iterator[Chunk]:
        """The batches of consecutive steps, some at a time.

        Raises:
          InputError: an example cannot be read; of several processes in all of them.
        """
        ...

    def batches(self, step: int, number: int) -> Chunk:
        """The batches of the next steps at once, for what is done before them."""
        ...

    def close(self) -> None:
        """Stops whatever reads ahead."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """The whole training set on the device.

    Attributes:
      data: images and labels.
      batch_size: examples in a batch.
      seed: the run's seed.
    """

    data: Data
    batch_size: int
    seed: int

    def chunks(self, step: int, num_steps: int) -> Iterator[Chunk]:
        """All of the steps as one chunk."""
        yield self.batches(step, num_steps)

    def batches(self, step: int, number: int) -> Chunk:
        """The training set, and `batch_indices`."""
        rows = batch_indices(
            step,
            number,
            num_examples=len(self.data[1]),
            batch_size=self.batch_size,
            seed=self.seed,
        )
        return self.data, rows

    def close(self) -> None:
        """There is nothing to stop."""


class Streamed:
    """Images that are read from disk, each process the part of its own devices.

    Args:
      images: the training images.
      config: the run's configuration.
      num_data: how many of them are used.
      total_steps: steps of the whole training.
    """

    def __init__(
        self, images: lazy.Images, config: Config, num_data: int, total_steps: int
    ):
        self._devices = Devices(config.devices)
        self._parts = config.accumulate
        columns = self._devices.columns(config.batch_size, self._parts)
        order = Order(
            columns.tolist(),
            total_steps,
            num_examples=num_data,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        batch_bytes = config.batch_size * int(np.prod(images.shape[1:]))
        self._steps = steps_of_a_chunk(config.inner_steps, batch_bytes)
        self._width = len(columns)
        self._image_shape = images.shape[1:]
        self._open = partial(Stream, images, order, seed=config.seed)
        self._stream = self._open(chunk=self._steps * self._width)
        self._error: InputError | None = None

    def chunks(self, step: int, num_steps: int) -> Iterator[Chunk]:
        """Of as many steps as the budget allows, a divisor of those of a phase."""
        for first in range(step, step + num_steps, self._steps):
            yield self._read(self._stream, first, self._steps)
        processes.raise_together(self._error)

    def batches(self, step: int, number: int) -> Chunk:
        """Read besides the chunks, of which they are the first again."""
        with closing(self._open(chunk=number * self._width)) as stream:
            return self._read(stream, step, number)

    def close(self) -> None:
        """Stops reading ahead."""
        self._stream.close()

    def _read(self, stream: Stream, step: int, number: int) -> Chunk:
        # Of several processes one that cannot read goes on, with zeros, to the end of
        # the phase, where all of them stop and the phase is given up.
        size = number * self._width
        try:
            if self._error is not None:
                raise self._error
            examples = stream.read(step * self._width)
        except InputError as error:
            if jax.process_count() == 1:
                raise
            self._error = error
            images = np.zeros((size, *self._image_shape), np.uint8)
            examples = images, np.zeros(size, np.int32)
        return self._devices.place_batches(examples, number, self._parts)


def steps_of_a_chunk(inner_steps: int, batch_bytes: int) -> int:
    """Steps whose images are within `CHUNK_BYTES`, a divisor of those of a phase.

    It depends on nothing that may differ between a run and its continuation.
    """
    fitting = max(1, CHUNK_BYTES // batch_bytes)
    return max(
        n for n in range(1, min(fitting, inner_steps) + 1) if not inner_steps % n
    )


def of(config: Config, data: Dataset, num_data: int, total_steps: int) -> Feed:
    """The feed of a data set.

    Args:
      config: the run's configuration.
      data: the data set.
      num_data: its first training examples that are used.
      total_steps: steps of the whole training.

    Raises:
      InputError: a method that cannot train on a stream.
    """
    if not isinstance(data.train_images, lazy.Images):
        images, labels = data.train_images[:num_data], data.train_labels[:num_data]
        on_device = jnp.asarray(images), jnp.asarray(labels)
        return InMemory(on_device, config.batch_size, config.seed)
    if config.method in ENSEMBLES:
        raise InputError(
            f"--method: got {config.method} with --dataset {data.name}, allowed: all "
            f"but {', '.join(ENSEMBLES)}; each of their networks has an order of its "
            "own, and images that are streamed come in one. Train with several --seed."
        )
    return Streamed(data.train_images, config, num_data, total_steps)


def advance(
    method: base.Method,
    state: State,
    masks: Masks,
    feed: Feed,
    step: int,
    num_steps: int,
    tick: Callable[[], None],
) -> tuple[State, dict[str, np.ndarray]]:
    """The steps of a phase, chunk by chunk; donates the state.

    Args:
      method: the method.
      state: the training state.
      masks: the selection.
      feed: the examples.
      step: number of the first step.
      num_steps: M.
      tick: called while the device computes.

    Returns:
      The new state, and metrics of shape ``[M]`` on the host.
    """
    traces: list[dict[str, jax.Array]] = []
    for data, rows in feed.chunks(step, num_steps):
        if len(traces) > 1:  # else chunks could pile up in the device's memory
            wait(traces[-2]["loss"], tick)
        state, trace = method.step(state, masks, data, rows)
        traces.append(trace)
    wait(traces[-1]["loss"], tick)
    found = jax.device_get(traces)
    return state, {name: np.concatenate([t[name] for t in found]) for name in found[0]}

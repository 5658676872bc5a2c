"""Where the training loop gets its examples from: memory, or a stream.

A feed gives data on the device and rows of it, as `Algorithm.step` takes them, for any
steps: a function of (seed, step), whichever feed it is. From memory it is the whole
training set and the rows of a phase. A stream cuts the phase into chunks of steps whose
images fit a budget; the device computes one chunk while the next is read. Batches of
the user's own come in chunks too.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.rows import as_arrays, num_rows
from ssvi_jax.core.types import Data, Masks
from ssvi_jax.data import lazy
from ssvi_jax.data.batches import batch_indices
from ssvi_jax.data.stream import Order, Stream
from ssvi_jax.methods.problem import Algorithm
from ssvi_jax.training import processes
from ssvi_jax.training.interrupt import wait
from ssvi_jax.vi import State
from ssvi_jax.vi.devices import Devices

LOGGER = logging.getLogger("ssvi_jax")

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
      data: inputs and labels.
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
            num_examples=num_rows(self.data),
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
      devices: devices of each process, see `Execution.devices`.
      parts: parts that a batch is computed in, see `Execution.accumulate`.
      batch_size: examples in a batch.
      inner_steps: steps of a phase.
      total_steps: steps of the whole training.
      num_data: the first training images that are used.
      seed: the run's seed.
    """

    def __init__(
        self,
        images: lazy.Images,
        *,
        devices: int,
        parts: int,
        batch_size: int,
        inner_steps: int,
        total_steps: int,
        num_data: int,
        seed: int,
    ):
        self._devices = Devices(devices)
        self._parts = parts
        columns = self._devices.columns(batch_size, parts)
        order = Order(
            columns.tolist(),
            total_steps,
            num_examples=num_data,
            batch_size=batch_size,
            seed=seed,
        )
        batch_bytes = batch_size * int(np.prod(images.shape[1:]))
        self._steps = steps_of_a_chunk(inner_steps, batch_bytes)
        self._width = len(columns)
        self._image_shape = images.shape[1:]
        self._open = partial(Stream, images, order, seed=seed)
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


@dataclasses.dataclass(frozen=True)
class Batches:
    """Training data as batches that are made one after the other.

    Attributes:
      source: an iterable of (inputs, labels) that can be iterated anew every epoch, as
        a list or a data loader, or a function of the epoch's number, from 0, that
        returns one; only then may the order differ between epochs. All batches have
        the same shapes; one that is smaller, as the last of an epoch, is left out.
      num_data: N, the number of training examples in an epoch.

    Raises:
      InputError: a source that can be iterated only once.
    """

    source: Iterable[Any] | Callable[[int], Iterable[Any]]
    num_data: int

    def __post_init__(self):
        if isinstance(self.source, Iterator):
            raise InputError(
                f"source: got a {type(self.source).__name__}, which ends after an "
                "epoch; allowed: an iterable that can be iterated again, or a function "
                "of the epoch that makes one (lambda epoch: loader(epoch))."
            )

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch."""
        source = self.source(number) if callable(self.source) else self.source
        return iter(source)


class OfBatches:
    """A feed from `Batches`.

    To go on at a step, the batches before it in its epoch are drawn and dropped.

    Args:
      batches: the training data.

    Raises:
      InputError: no batches, or what is not (inputs, labels).
    """

    def __init__(self, batches: Batches):
        self._batches = batches
        first = _pair(next(batches.epoch(0), None))
        self._shapes = _shapes(first)
        self.example = first
        self.batch_size = num_rows(first)
        self.steps_per_epoch = max(batches.num_data // self.batch_size, 1)
        bytes_of = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(first))
        self._chunk = max(1, CHUNK_BYTES // max(bytes_of, 1))
        self._warned = False
        self._next, self._step = self._from(0), 0
        self._ahead: list[Data] = []

    def chunks(self, step: int, num_steps: int) -> Iterator[Chunk]:
        """Of as many steps as the budget allows."""
        for first in range(step, step + num_steps, self._chunk):
            number = min(self._chunk, step + num_steps - first)
            yield _stacked(self._take(first, number))

    def batches(self, step: int, number: int) -> Chunk:
        """The next ones; `chunks` begins with them again."""
        found = self._take(step, number)
        self._ahead, self._step = found + self._ahead, step
        return _stacked(found)

    def close(self) -> None:
        """There is nothing to stop."""

    def _take(self, step: int, number: int) -> list[Data]:
        if step != self._step:
            self._next, self._step, self._ahead = self._from(step), step, []
        found = self._ahead[:number]
        self._ahead = self._ahead[number:]
        found += [next(self._next) for _ in range(number - len(found))]
        self._step += number
        return found

    def _from(self, step: int) -> Iterator[Data]:
        """Batches from a step on, for ever."""
        epoch, skipped = divmod(step, self.steps_per_epoch)
        while True:
            number = 0
            for batch in self._batches.epoch(epoch):
                pair = _pair(batch)
                if number == self.steps_per_epoch:
                    self._warn_of_more(number * self.batch_size + num_rows(pair))
                    break
                if _shapes(pair) != self._shapes:
                    if num_rows(pair) < self.batch_size:
                        continue
                    raise InputError(
                        f"data: got a batch of {_shapes(pair)} after one of "
                        f"{self._shapes}, allowed: the same shapes in all."
                    )
                number += 1
                if number > skipped:
                    yield pair
            if number < self.steps_per_epoch:
                raise InputError(
                    f"data: got {number} whole batches of {self.batch_size} in epoch "
                    f"{epoch}, needed: {self.steps_per_epoch}, as num_data is "
                    f"{self._batches.num_data}."
                )
            epoch, skipped = epoch + 1, 0

    def _warn_of_more(self, seen: int) -> None:
        """Says once that an epoch has more examples than N, which are not seen."""
        if seen > self._batches.num_data and not self._warned:
            self._warned = True
            LOGGER.warning(
                "Batches: an epoch has at least %s examples, but num_data is %s: what "
                "comes after %s is never trained on, and the KL counts %s examples",
                seen,
                self._batches.num_data,
                self.steps_per_epoch * self.batch_size,
                self._batches.num_data,
            )


def _pair(batch: Any) -> Data:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = "nothing" if batch is None else f"a {type(batch).__name__}"
        raise InputError(f"data: got {what}, allowed: batches of (inputs, labels).")
    x, y = batch
    return as_arrays("data (inputs)", x), as_arrays("data (labels)", y)


def _shapes(batch: Data) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(batch)]


def _stacked(batches: list[Data]) -> Chunk:
    """Batches as one chunk on the device, and their rows in it."""
    data = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    size = num_rows(batches[0])
    rows = np.arange(len(batches) * size, dtype=np.int32)
    return data, rows.reshape(len(batches), size)


def advance(
    algorithm: Algorithm,
    state: State,
    masks: Masks,
    feed: Feed,
    step: int,
    num_steps: int,
    tick: Callable[[], None],
) -> tuple[State, dict[str, np.ndarray]]:
    """The steps of a phase, chunk by chunk; donates the state.

    Args:
      algorithm: the method, built.
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
        state, trace = algorithm.step(state, masks, data, rows)
        traces.append(trace)
    wait(traces[-1]["loss"], tick)
    found = jax.device_get(traces)
    return state, {name: np.concatenate([t[name] for t in found]) for name in found[0]}

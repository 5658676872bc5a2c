"""Training images that are read, decoded and cropped while the device computes.

The pipeline is one of grain: a source of positions, a map that reads and decodes in
threads, and a buffer of bounded size. The source is a function of the number of the
example, counted from the first step on, so a pipeline is begun at any step: nothing
about it has to be in a checkpoint but the step.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssvi_jax.data.batches import place_of
from ssvi_jax.data.lazy import Images

if TYPE_CHECKING:
    import grain


class Order:
    """Epoch and position of every example of a training, as a source of grain's.

    Args:
      columns: which examples of each batch: those of this process.
      total_steps: steps of the whole training.
      num_examples: size of the training set.
      batch_size: examples in a whole batch.
      seed: the run's seed.
    """

    def __init__(
        self,
        columns: Sequence[int],
        total_steps: int,
        *,
        num_examples: int,
        batch_size: int,
        seed: int,
    ):
        self._columns, self._total_steps = columns, total_steps
        self._settings = {
            "num_examples": num_examples,
            "batch_size": batch_size,
            "seed": seed,
        }

    def __len__(self) -> int:
        return self._total_steps * len(self._columns)

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, place = divmod(int(index), len(self._columns))
        return place_of(step, self._columns[place], **self._settings)


class Stream:
    """Chunks of consecutive examples, the next ones read ahead.

    Host memory: at most one chunk waits decoded while one is being put together.

    Args:
      images: the training images.
      order: which of them are used, and when.
      seed: of the crops.
      chunk: examples that are asked for at a time.
      threads: how many read and decode; None: one a core.
    """

    def __init__(
        self,
        images: Images,
        order: Order,
        *,
        seed: int,
        chunk: int,
        threads: int | None = None,
    ):
        self._images, self._order, self._seed = images, order, seed
        self._chunk, self._threads = chunk, threads or _cores()
        self._next = 0
        self._pipeline: grain.DatasetIterator | None = None

    def read(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ``[chunk, h, w, c]`` and labels int32 ``[chunk]``.

        Args:
          start: number of the first example of `order`. Anything but the chunk after
            the last one begins the pipeline anew.

        Raises:
          InputError: a record that cannot be read or decoded.
        """
        if self._pipeline is None or start != self._next:
            self.close()
            self._pipeline = self._begun_at(start)
        try:
            images, labels = next(self._pipeline)
        except BaseException:
            self.close()
            raise
        self._next = start + self._chunk
        return images, labels

    def close(self) -> None:
        """Stops reading ahead; the next `read` begins anew."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _begun_at(self, start: int) -> "grain.DatasetIterator":
        import grain  # takes a second, which data sets in memory can spare

        size = max(self._chunk, self._threads)
        options = grain.ReadOptions(self._threads, prefetch_buffer_size=size)
        examples = grain.MapDataset.source(self._order)[start:].map(self._example)
        return examples.to_iter_dataset(options).batch(self._chunk).__iter__()

    def _example(self, place: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = place
        return self._images.example(position, seed=self._seed, epoch=epoch)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

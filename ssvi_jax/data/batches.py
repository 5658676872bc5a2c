"""Which examples make up which training step: a pure function of seed and step.

Nothing is stored between calls, so a run that resumes at any step sees exactly the
batches that an uninterrupted run would have seen.
"""

import functools

import numpy as np

from ssvi_jax.core.errors import InputError


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Number of whole batches in the data; the incomplete last one is dropped.

    Raises:
      InputError: `batch_size` is not between 1 and `num_examples`.
    """
    if not 1 <= batch_size <= num_examples:
        raise InputError(
            f"batch_size: got {batch_size}, allowed: 1 to {num_examples}, the number "
            "of training examples."
        )
    return num_examples // batch_size


def batch_indices(
    step: int, num_steps: int, *, num_examples: int, batch_size: int, seed: int
) -> np.ndarray:
    """Positions in the training set of the batches of consecutive steps.

    Every epoch is a fresh permutation drawn from (seed, epoch) and cut into whole
    batches, so an epoch visits each example at most once.

    Args:
      step: global step of the first batch, from 0.
      num_steps: number of batches; they may run across epochs.
      num_examples: size of the training set.
      batch_size: examples in a batch.
      seed: the run's seed, 0 or more.

    Returns:
      int32 ``[num_steps, batch_size]``.

    Raises:
      InputError: `batch_size` is not between 1 and `num_examples`.
    """
    per_epoch = steps_per_epoch(num_examples, batch_size)
    out = np.empty((num_steps, batch_size), np.int32)
    epochs, places = np.divmod(np.arange(step, step + num_steps), per_epoch)
    for epoch in np.unique(epochs):
        order = _epoch_order(int(epoch), num_examples, seed)
        batches = order[: per_epoch * batch_size]
        here = epochs == epoch
        out[here] = batches.reshape(per_epoch, batch_size)[places[here]]
    return out


def place_of(
    step: int, column: int, *, num_examples: int, batch_size: int, seed: int
) -> tuple[int, int]:
    """Epoch and position in the training set of one example of a step's batch.

    Args:
      step: global step.
      column: which example of the batch.
      num_examples: see `batch_indices`, whose ``[0, column]`` the position is.
      batch_size: likewise.
      seed: likewise.
    """
    epoch, place = divmod(step, steps_per_epoch(num_examples, batch_size))
    order = _epoch_order(epoch, num_examples, seed)
    return epoch, int(order[place * batch_size + column])


@functools.lru_cache(maxsize=2)  # a batch may be read ahead into the next epoch
def _epoch_order(epoch: int, num_examples: int, seed: int) -> np.ndarray:
    # A spawn key, unlike a longer seed, cannot coincide with another seed's stream.
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    order = np.random.default_rng(sequence).permutation(num_examples)
    order.flags.writeable = False  # it is shared between calls
    return order

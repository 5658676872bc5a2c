"""Data sets of Hugging Face as training data."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssvi_jax.core.errors import InputError, check_count
from ssvi_jax.training.feeds import Batches


def from_huggingface(
    dataset: Any,
    inputs: str | Sequence[str],
    labels: str,
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> Batches:
    """Batches of a `datasets.Dataset`, in another order every epoch.

    Rows are read as they are needed, so the set may be larger than memory. Its columns
    must be numbers, of one shape in all rows.

    Args:
      dataset: a `datasets.Dataset` (one split; not a dictionary of them, and not a
        stream).
      inputs: name of the column that is the input; of several names, which make the
        input a dictionary of them.
      labels: name of the column of labels.
      batch_size: rows of a step; what is left of an epoch is left out, as in memory.
      seed: of the order.

    Returns:
      What `fit` takes as data.

    Raises:
      InputError: no such data set, columns that it does not have, or a batch that is
        larger than it.
    """
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    has = getattr(dataset, "column_names", None)
    if not isinstance(has, list) or not hasattr(dataset, "__len__"):
        raise InputError(
            f"dataset: got a {type(dataset).__name__}, allowed: one split of a "
            "datasets.Dataset that is not streamed."
        )
    if missing := [name for name in (*names, labels) if name not in has]:
        raise InputError(
            f"inputs, labels: got {missing[0]!r}, allowed: {', '.join(has)}."
        )
    number = len(dataset)
    if check_count("batch_size", batch_size) > number:
        raise InputError(
            f"batch_size: got {batch_size}, allowed: 1 to {number}, the rows of the "
            "data set."
        )
    rows_of = dataset.with_format("numpy")

    def epoch(which: int) -> Iterator[Any]:
        order = np.random.default_rng([seed, which]).permutation(number)
        for start in range(0, number - batch_size + 1, batch_size):
            # Sorted, so that what lies together is read together.
            found = rows_of[np.sort(order[start : start + batch_size])]
            values = {name: np.asarray(found[name]) for name in (*names, labels)}
            x = {name: values[name] for name in names}
            yield (values[inputs] if isinstance(inputs, str) else x), values[labels]

    return Batches(epoch, num_data=number)

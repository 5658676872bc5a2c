"""What `fit` is trained on: arrays on the device or batches, and what is held out."""

import functools
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.rows import as_arrays, check_lengths, num_rows
from ssvi_jax.core.settings import positive
from ssvi_jax.core.types import Data
from ssvi_jax.training import feeds, fingerprint
from ssvi_jax.training.feeds import Batches
from ssvi_jax.training.session import FeedMaker
from ssvi_jax.vi.execution import Execution

_VALIDATION_STREAM = 3  # separates the choice of validation examples


class Source(NamedTuple):
    """Training data, ready for the device.

    Attributes:
      feed: makes what examples come from.
      example: shapes and types of inputs, of a batch of one.
      num_data: N, the number of training examples.
      batch_size: examples in a step.
      says: what tells these data from others, for a continuation.
    """

    feed: FeedMaker
    example: Any
    num_data: int
    batch_size: int
    says: Callable[[], str]


def as_given(data: Any, validation: Any) -> tuple[Any, Any]:
    """Data and validation for `prepare`: tuples of arrays, `Batches`, a number.

    Raises:
      InputError: what is not inputs and labels, or has different numbers of rows.
    """
    if not isinstance(data, Batches):
        data = _checked("data", data)
    if isinstance(validation, numbers.Real) and not isinstance(validation, bool):
        return data, float(validation)
    if validation is not None:
        validation = _checked("validation", validation)
    return data, validation


def prepare(
    data: Any,
    validation: float | Data | None,
    batch_size: int,
    key: jax.Array,
    execution: Execution,
) -> tuple[Source, Data | None]:
    """Training data on the device, and the validation part.

    Raises:
      InputError: a fraction that leaves no examples, or of `Batches`.
    """
    held_out = validation if isinstance(validation, tuple) else None
    part = None if isinstance(validation, tuple) else validation
    if isinstance(data, Batches):
        if part is not None:
            raise InputError(
                f"validation: got {part} with Batches, allowed: inputs and labels of "
                "their own."
            )
        feed = feeds.OfBatches(data)
        example = _one_of(feed.example[0])
        size = feed.batch_size
        shapes = functools.partial(_batch_shapes, feed.example)
        return Source(lambda _: feed, example, data.num_data, size, shapes), held_out
    positive("batch_size", batch_size)
    x, y = data
    if part is not None:
        (x, y), held_out = _split((x, y), part, seed_of(key))
    number = num_rows((x, y))
    batch_size = min(batch_size, number)
    on_device = execution.keep(jax.tree.map(jnp.asarray, (x, y)))
    feed = feeds.InMemory(on_device, batch_size, seed_of(key))
    example = _one_of(on_device[0])
    says = functools.partial(fingerprint.of_arrays, (x, y))
    return Source(lambda _: feed, example, number, batch_size, says), held_out


def _batch_shapes(batch: Data) -> str:
    """Of batches no values: an unseeded order of them is the user's own choice."""
    shapes = fingerprint.of_shapes(batch).items()
    return ", ".join(f"{path} {shape}" for path, shape in shapes) + " a batch"


def _checked(argument: str, data: Any) -> Data:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        also = "Batches" if argument == "data" else "a fraction of the data"
        raise InputError(
            f"{argument}: got {type(data).__name__}, allowed: (inputs, labels), or "
            f"{also}."
        )
    x = as_arrays(f"{argument} (inputs)", data[0])
    y = as_arrays(f"{argument} (labels)", data[1])
    check_lengths(argument, (x, y), "as many inputs as labels")
    return x, y


def _split(data: Data, part: float, seed: int) -> tuple[Data, Data]:
    number = num_rows(data)
    rng = np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(_VALIDATION_STREAM,))
    )
    order, count = rng.permutation(number), round(part * number) if 0 < part < 1 else 0
    if not 0 < count < number:
        raise InputError(
            f"validation: got {part} of {number} examples, allowed: a fraction between "
            "0 and 1 that leaves at least one on either side, or (inputs, labels)."
        )
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    return _rows(data, kept), _rows(data, held)


def _rows(data: Data, rows: np.ndarray) -> Data:
    return jax.tree.map(lambda leaf: leaf[rows], data)


def _one_of(x: Any) -> Any:
    """Shapes and types of a batch of one."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (1, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype)
        ),
        x,
    )


def seed_of(key: jax.Array) -> int:
    """A seed for NumPy: that of ``jax.random.key(seed)``, for seeds of 32 bits."""
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return functools.reduce(lambda total, word: (total << 32) | word, words, 0)

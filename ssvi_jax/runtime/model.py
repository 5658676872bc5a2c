"""A model file, opened for predictions."""

import ctypes
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError, check_choice, check_count
from ssvi_jax.runtime import binding


class Prediction(NamedTuple):
    """What is predicted for n inputs.

    Attributes:
      probabilities: float32 ``[n, classes]``, averaged over the draws.
      entropy: float32 ``[n]``, of the averaged probabilities, in nats.
      mutual_information: float32 ``[n]``, between label and weights, in nats; 0 of a
        single pass.
    """

    probabilities: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The likeliest class of each input, ``[n]``."""
        return self.probabilities.argmax(axis=-1)


class Model:
    """A network that predicts classes; `load` opens one.

    It may be pickled, and used by several threads, which take turns, and by the
    children of a fork, each of which opens it again when it predicts first.
    """

    def __init__(self, content: bytes, name: str):
        self._content, self._name = content, name
        self._library = binding.library()
        self._open()
        info = self._info = binding.Info()
        binding.check(
            self._library.ssvi_describe(self._handle, ctypes.byref(info)), name
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self._info.shape[: self._info.rank])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self._info.classes)

    @property
    def is_random(self) -> bool:
        """Whether draws of the weights differ."""
        return bool(self._info.is_random)

    def _open(self) -> None:
        handle = ctypes.c_void_p()
        code = self._library.ssvi_open_memory(
            self._content, len(self._content), ctypes.byref(handle)
        )
        binding.check(code, self._name)
        self._handle, self._process = handle, os.getpid()

    def __repr__(self) -> str:
        return f"Model(input_shape={self.input_shape}, num_classes={self.num_classes})"

    def __reduce__(self):
        """Opens the file's content again, in another process or beside this one."""
        return Model, (self._content, self._name)

    def __del__(self):
        # Threads of a parent's model cannot be waited for.
        if getattr(self, "_process", None) == os.getpid():
            self._library.ssvi_close(self._handle)

    def predict(
        self,
        x: Any,
        *,
        samples: int = 10,
        mode: str = "samples",
        seed: int = 0,
        threads: int | None = None,
    ) -> Prediction:
        """Predicts with uncertainty.

        Args:
          x: inputs ``[n, *input_shape]``, finite real numbers of any type; whole
            numbers from 0 to 255 where the network was trained on images of bytes.
          samples: draws of the weights, 1 to 1,048,576, where `mode` is "samples".
          mode: "samples", an average over draws; "mean", one pass with the means of
            the weights; "moments", one pass of means and variances, an approximation.
          seed: of the draws; the same one gives the same bits, whatever the threads.
          threads: how many compute, 1 to 1,024; None: one a processor.

        Raises:
          InputError: inputs of another shape, that are not finite in float32, that are
            no pixels where it takes pixels, or that give no finite probability; a mode,
            number or seed that there is not.
        """
        check_choice("mode", mode, binding.MODES)
        options = binding.Options(
            mode=binding.MODES[mode],
            threads=0
            if threads is None
            else _at_most("threads", threads, binding.MAX_THREADS),
            samples=_at_most("samples", samples, binding.MAX_SAMPLES),
            seed=_seed(seed),
        )
        inputs = self._inputs(x)
        if self._process != os.getpid():
            self._open()
        n = len(inputs)
        probabilities = np.empty((n, self.num_classes), np.float32)
        entropy, mutual = np.empty(n, np.float32), np.empty(n, np.float32)
        arrays = (probabilities, entropy, mutual)
        code = self._library.ssvi_predict(
            self._handle,
            _pointer(inputs),
            n,
            ctypes.byref(options),
            *map(_pointer, arrays),
        )
        binding.check(code, "x")
        return Prediction(*arrays)

    def _inputs(self, x: Any) -> np.ndarray:
        try:
            array = np.asanyarray(x)
        except ValueError as error:
            raise InputError(f"x: got no array ({error}).") from error
        is_real = array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"
        if not is_real or np.ma.isMaskedArray(array):
            kind = "a masked array" if is_real else f"dtype {array.dtype}"
            raise InputError(f"x: got {kind}, allowed: an array of real numbers.")
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            inputs = np.ascontiguousarray(array, np.float32)
        if array.shape[1:] != self.input_shape or not array.size:
            allowed = ", ".join(map(str, ("n", *self.input_shape)))
            raise InputError(
                f"x: got shape {array.shape}, allowed: [{allowed}] with n above 0."
            )
        return inputs


def load(path: str | os.PathLike[str]) -> Model:
    """Opens a model file that `ssvi_jax.Fitted.save` or a run wrote.

    Raises:
      InputError: no such file, a damaged one, or one without a graph: of an earlier
        version, or of a network that runs under JAX only.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"path: got {path!r}, which cannot be read ({reason})."
        ) from error
    return Model(content, str(path))


def _at_most(name: str, value: Any, most: int) -> int:
    if check_count(name, value) > most:
        raise InputError(f"{name}: got {value}, allowed: 1 to {most:,}.")
    return int(value)


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(
            f"seed: got {seed!r:.100}, allowed: a whole number, 0 to 2**64 - 1."
        )
    if not 0 <= int(seed) < 2**64:
        raise InputError(f"seed: got {int(seed)}, allowed: 0 to 2**64 - 1.")
    return int(seed)


def _pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

"""The kernels of ``csrc/`` as custom calls of a compiled program.

Arrays of images are handed over with the batch innermost (``[h, w, c, n]``); XLA keeps
that layout through the elementwise operations between two calls.
"""

import ctypes
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from importlib import machinery
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.typing import DTypeLike

from ssvi_jax.core.errors import check_choice

_HANDLERS = (
    *("ssvi_sample", "ssvi_sample_input", "ssvi_sample_weights"),
    *("ssvi_list_mean", "ssvi_mean", "ssvi_mean_input", "ssvi_mean_weights"),
    *("ssvi_sample_gradients", "ssvi_mean_gradients", "ssvi_comoment"),
    "ssvi_dense_gradient",
)
BATCH_LAST = (1, 2, 3, 0)
"""How axes of ``[batch, rows, columns, channels]`` lie in memory, major to minor."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A kernel's shape and how it slides over the images.

    Attributes:
      shape: ``(rows, columns, in, out)`` of the kernel.
      strides: steps between outputs.
      padding: (low, high) rows of zeros, then columns.
    """

    shape: tuple[int, int, int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    def output_shape(self, x: tuple[int, ...]) -> tuple[int, int, int, int]:
        """``[batch, rows, columns, out]`` for images of shape `x`."""
        rows, columns = (
            (size + sum(pad) - kernel) // stride + 1
            for size, pad, kernel, stride in zip(
                x[1:3], self.padding, self.shape[:2], self.strides, strict=True
            )
        )
        return x[0], rows, columns, self.shape[3]


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled kernels with their calls registered, or why there are none."""
    files = [
        Path(__file__).with_name("_sparse" + suffix)
        for suffix in machinery.EXTENSION_SUFFIXES
    ]
    found = next((file for file in files if file.exists()), None)
    if found is None:
        return (
            "the sparse kernels were not compiled; with a C++17 compiler installed, "
            "install ssvi_jax again"
        )
    try:
        loaded = ctypes.CDLL(str(found))
        compiled = loaded.ssvi_ffi_major(), loaded.ssvi_ffi_minor()
        runtime = interface_version()
        if (
            compiled[0] != runtime[0] or compiled > runtime
        ):  # JAX would not start at all
            return (
                f"the sparse kernels were compiled for version {_dotted(compiled)} of "
                "XLA's foreign function interface, this jaxlib has "
                f"{_dotted(runtime)}; install ssvi_jax again, or a newer jaxlib"
            )
        for name in _HANDLERS:
            capsule = jax.ffi.pycapsule(getattr(loaded, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError, IndexError) as error:
        return f"the sparse kernels do not load ({error}); install ssvi_jax again"
    loaded.ssvi_isa.restype = ctypes.c_char_p
    loaded.ssvi_multiply_adds.restype = ctypes.c_double
    loaded.ssvi_multiply_adds.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    return loaded


def interface_version() -> tuple[int, int]:
    """Major and minor version of the interface that this jaxlib has, by its header."""
    header = Path(jaxlib.__file__).parent / "include/xla/ffi/api/c_api.h"
    text = header.read_text(encoding="utf-8")
    major, minor = (
        int(re.findall(rf"#define XLA_FFI_API_{part} (\d+)", text)[0])
        for part in ("MAJOR", "MINOR")
    )
    return major, minor


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def available() -> bool:
    """Whether the compiled kernels can be used on this machine's CPU."""
    return not isinstance(library(), str)


def why_not() -> str:
    """Why `available` is false, and what to do; an empty string if it is true."""
    loaded = library()
    return loaded if isinstance(loaded, str) else ""


def instruction_sets() -> list[str]:
    """Names that ``SSVI_JAX_ISA`` may have on this processor, the best first."""
    loaded = library()
    if isinstance(loaded, str):
        return []
    names = ("avx512", "avx2", "generic")
    return [name for name in names if loaded.ssvi_isa(name.encode())]


def instruction_set() -> str:
    """What ``SSVI_JAX_ISA`` names, or nothing: the best of this processor.

    Raises:
      InputError: this processor does not have it.
    """
    isa = os.environ.get("SSVI_JAX_ISA", "")
    if isa:
        check_choice("SSVI_JAX_ISA", isa, instruction_sets())
    return isa


def _attributes(window: Window) -> dict[str, Any]:
    """Static arguments of every call; the environment is for tests."""
    low = [pad[0] for pad in window.padding]
    return {
        "window": np.array([*window.shape[:2], *window.strides, *low], np.int64),
        "isa": instruction_set(),
        "threads": np.int64(os.environ.get("SSVI_JAX_THREADS", "0")),
        "poison": np.bool_("SSVI_JAX_POISON" in os.environ),
    }


def call(
    name: str,
    window: Window,
    outputs: Sequence[tuple[int, ...]],
    *operands: jax.Array,
    dtype: DTypeLike = jnp.float32,
    **attributes: Any,
) -> list[jax.Array]:
    """Calls a kernel; arrays of images have the batch innermost.

    Args:
      name: one of the kernels' calls.
      window: how the kernel slides.
      outputs: shapes of the results.
      *operands: float32 images, int32 or uint32 vectors: what `csrc/ffi.cpp` takes.
      dtype: of all results.
      **attributes: static arguments that this call has besides.
    """

    def layout(shape: tuple[int, ...]) -> tuple[int, ...]:
        return BATCH_LAST if len(shape) == 4 else tuple(range(len(shape)))

    function = jax.ffi.ffi_call(
        name,
        [jax.ShapeDtypeStruct(shape, dtype) for shape in outputs],
        vmap_method="sequential",
        input_layouts=[layout(a.shape) for a in operands],
        output_layouts=[layout(shape) for shape in outputs],
    )
    return list(function(*operands, **_attributes(window), **attributes))

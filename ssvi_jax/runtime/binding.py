"""``libssvi`` as ctypes sees it."""

import ctypes
import functools
from pathlib import Path

from ssvi_jax.core.errors import InputError

MODES = {"mean": 0, "samples": 1, "moments": 2}
"""SSVI_MEAN, SSVI_SAMPLES and SSVI_MOMENTS of the header."""

MAX_SAMPLES, MAX_THREADS = 1 << 20, 1024
"""The most that `ssvi_predict` takes."""

BAD_CALL, MEMORY, DEFECT = 3, 5, 6
_MAX_RANK = 8


class Info(ctypes.Structure):
    """``ssvi_info``."""

    _fields_ = [
        ("rank", ctypes.c_int32),
        ("is_random", ctypes.c_int32),
        ("shape", ctypes.c_int64 * _MAX_RANK),
        ("inputs", ctypes.c_int64),
        ("classes", ctypes.c_int64),
    ]


class Options(ctypes.Structure):
    """``ssvi_options``."""

    _fields_ = [
        ("mode", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("samples", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
    ]


def include_folder() -> Path:
    """Where ``ssvi.h`` is, for a C compiler."""
    return Path(__file__).with_name("include")


def library_path() -> Path:
    """Where ``libssvi.so`` is, for a linker."""
    return Path(__file__).with_name("libssvi.so")


@functools.cache
def library() -> ctypes.CDLL:
    """The library, its functions declared.

    Raises:
      InputError: it was not compiled when the package was installed.
    """
    try:
        loaded = ctypes.CDLL(str(library_path()))
    except OSError as error:
        raise InputError(
            f"ssvi_jax.runtime: its library does not load ({error}); with a C++17 "
            "compiler installed, install ssvi_jax again."
        ) from error
    model, floats = ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)
    loaded.ssvi_error.restype = ctypes.c_char_p
    loaded.ssvi_close.restype = None
    loaded.ssvi_close.argtypes = [model]
    loaded.ssvi_open_memory.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(model))
    ]
    loaded.ssvi_describe.argtypes = [model, ctypes.POINTER(Info)]
    loaded.ssvi_predict.argtypes = [
        *(model, floats, ctypes.c_int64, ctypes.POINTER(Options)),
        *(floats, floats, floats),
    ]
    return loaded


def check(code: int, argument: str) -> None:
    """Raises what a function's code means.

    Raises:
      InputError: what was given cannot be used.
      MemoryError: there was not enough.
    """
    if code == 0:
        return
    text = library().ssvi_error().decode(errors="replace").rstrip(".")
    if code == MEMORY:
        raise MemoryError(text)
    if code == DEFECT:
        raise RuntimeError(text)
    # What is wrong with a call is said with its own argument.
    raise InputError(f"{text}." if code == BAD_CALL else f"{argument}: {text}.")

"""The one exception for bad input: what came, what is allowed, what to do."""

import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line's help must not wait for NumPy
    import numpy as np


class InputError(ValueError):
    """A value from outside that the library cannot use.

    Library code raises it at the public edge; scripts print its text and leave with
    exit code 2. Anything else that escapes is a defect of ours and keeps its traceback.
    """


def check_choice(argument: str, got: str, allowed: Iterable[str]) -> None:
    """Raises `InputError` naming the registry's entries when `got` is not one."""
    names = sorted(allowed)
    if got not in names:
        raise InputError(f"{argument}: got {got!r}, allowed: {', '.join(names)}.")


def check_fraction(argument: str, got: float, *, one_allowed: bool = False) -> None:
    """Raises `InputError` unless `got` is in [0, 1), or [0, 1] if `one_allowed`."""
    try:
        allowed = 0.0 <= got < 1.0 or (one_allowed and got == 1.0)
    except TypeError:  # no number
        allowed = False
    if not allowed:
        interval = "[0, 1]" if one_allowed else "[0, 1)"
        raise InputError(
            f"{argument}: got {_shown(got)}, allowed: a number in {interval}."
        )


def check_positive(argument: str, got: float) -> None:
    """Raises `InputError` unless `got` is a finite number above zero."""
    try:
        allowed = 0.0 < got < float("inf")
    except TypeError:  # no number
        allowed = False
    if not allowed:
        raise InputError(
            f"{argument}: got {_shown(got)}, allowed: a finite number above 0."
        )


def check_count(argument: str, got: Any) -> int:
    """The count as Python's number, also of NumPy's, which JSON would not take.

    Raises:
      InputError: unless `got` is a whole number above 0; booleans and text are none.
    """
    if isinstance(got, bool) or not isinstance(got, numbers.Integral) or got < 1:
        raise InputError(
            f"{argument}: got {_shown(got)}, allowed: a whole number above 0."
        )
    return int(got)


def check_images(argument: str, got: int) -> None:
    """Raises `InputError` unless `got` is a number of images, or 0 for all."""
    if got < 0:
        raise InputError(f"{argument}: got {got}, allowed: 0 (all) or more.")


def check_seed(argument: str, got: int) -> None:
    """Raises `InputError` unless `got` has 32 bits: JAX would take it modulo 2^32."""
    if not 0 <= got < 2**32:
        raise InputError(f"{argument}: got {got}, allowed: 0 to 2^32 - 1.")


def check_flag(argument: str, got: Any) -> bool:
    """True or False as Python's, also of NumPy's.

    Raises:
      InputError: anything else, also what Python would take for one of them.
    """
    plain = got.item() if getattr(got, "shape", None) == () else got
    if not isinstance(plain, bool):
        raise InputError(f"{argument}: got {got!r:.100}, allowed: True or False.")
    return plain


def check_rows(argument: str, got: "np.ndarray", num_rows: int) -> None:
    """Raises `InputError` unless `got` holds rows of data with `num_rows` rows.

    JAX would take the nearest row and say nothing.
    """
    if got.size and not (0 <= got.min() and got.max() < num_rows):
        raise InputError(
            f"{argument}: got rows from {got.min()} to {got.max()}, allowed: 0 to "
            f"{num_rows - 1}, the rows of the data."
        )


def _shown(got: Any) -> str:
    """What came, with quotes around text."""
    return (repr(got) if isinstance(got, str) else str(got))[:100]

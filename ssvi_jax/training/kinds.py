"""Whether a value is of the kind that a setting has, as files may hold anything."""

import sys
from typing import Annotated, Any, get_args, get_origin

from ssvi_jax.core.errors import InputError


def check_kind(flag: str, kind: Any, got: object) -> None:
    """Raises `InputError` for a value of another kind, as a file may hold it."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind == str | None:
        kind = object if got is None else str
    if get_origin(kind) is tuple:
        kind = tuple
        good = isinstance(got, (tuple, list)) and all(_is_a(float, n) for n in got)
    else:
        good = _is_a(kind, got)
    if not good:
        raise InputError(f"{flag}: got {str(got)[:100]!r}, allowed: {_KINDS[kind]}.")


def _is_a(kind: Any, got: object) -> bool:
    if isinstance(got, bool):  # which Python counts among the numbers
        return kind not in (int, float, str)
    if kind is float and isinstance(got, int):
        return abs(got) <= sys.float_info.max
    if kind is int:
        return isinstance(got, int) and abs(got) <= _MAX_INT
    return kind not in _KINDS or isinstance(got, kind)


_MAX_INT = 2**32
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: f"a whole number up to {_MAX_INT:,}",
    float: "a finite number",
    str: "text",
    tuple: "a list of finite numbers",
}

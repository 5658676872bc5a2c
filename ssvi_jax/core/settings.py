"""Settings as frozen dataclasses whose values are checked when they are made.

A field says by its annotation what kind of value it takes, and by `setting` what range.
A file may hold anything, so kinds are checked too. Imports nothing heavy.
"""

import dataclasses
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from ssvi_jax.core.errors import (
    InputError,
    check_choice,
    check_fraction,
    check_positive,
)

_LATER = ContextVar("_LATER", default=False)

Check = Callable[[str, Any], None]
"""(name of a setting, its value) → raises `InputError` unless it is allowed."""


def setting(default: Any, check: Check) -> Any:
    """A dataclass field with a default and a check of its values."""
    return dataclasses.field(default=default, metadata={"check": check})


def fraction(name: str, value: float) -> None:
    """Allows [0, 1)."""
    check_fraction(name, value)


def part(name: str, value: float) -> None:
    """Allows [0, 1]."""
    check_fraction(name, value, one_allowed=True)


def positive(name: str, value: float) -> None:
    """Allows finite numbers above 0."""
    check_positive(name, value)


def not_negative(name: str, value: float) -> None:
    """Allows finite numbers from 0."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name}: got {value}, allowed: 0 or more.")


def optional(check: Check) -> Check:
    """Allows None and what `check` allows."""
    return lambda name, value: None if value is None else check(name, value)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base of all settings.

    Numbers of NumPy and JAX become Python's, so that settings are always JSON.

    Raises:
      InputError: a value of another kind, not among the choices, or out of its range;
        the message begins with the field's name.
    """

    def __post_init__(self):
        if not _LATER.get():
            self.check()

    def check(self) -> None:
        """Raises `InputError`, see the class; more is added where values depend."""
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            value = _plain(given)
            if value is not given:
                object.__setattr__(self, field.name, value)
            kind: Any = field.type
            if get_origin(kind) is Annotated:
                kind = get_args(kind)[0]
            _check_kind(field.name, kind, value)
            if get_origin(kind) is Literal:
                check_choice(field.name, value, get_args(kind))
            if "check" in field.metadata:
                field.metadata["check"](field.name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of all fields, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from those of `values` that are fields of this class."""
        own = {name: values[name] for name in cls.names() if name in values}
        return cls(**own)

    def as_dict(self) -> dict[str, Any]:
        """Field → JSON value; paths as text, tuples as lists."""
        values = {name: getattr(self, name) for name in self.names()}
        for name, value in values.items():
            if isinstance(value, Path):
                values[name] = str(value)
            elif isinstance(value, tuple):
                values[name] = list(value)
        return values


@contextmanager
def checked_later() -> Iterator[None]:
    """Settings that are made inside are checked by their `check` only.

    A parser of command lines makes them, and would tell of errors in its own words.
    """
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def _plain(got: Any) -> Any:
    """Numbers of NumPy and JAX, which are not imported here, as Python's."""
    if hasattr(got, "tolist") and getattr(got, "ndim", None) in (0, 1):
        got = got.tolist()
    if isinstance(got, (list, tuple)):
        plain = [_plain(one) for one in got]
        same = all(a is b for a, b in zip(plain, got, strict=True))
        if same:
            return got
        return plain if isinstance(got, list) else tuple(plain)
    if type(got) in (bool, int, float):
        return got
    if isinstance(got, numbers.Integral):
        return int(got)
    return float(got) if isinstance(got, numbers.Real) else got


def _check_kind(name: str, kind: Any, got: object) -> None:
    if NoneType in get_args(kind):
        if got is None:
            return
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is tuple:
        kind = tuple
        good = isinstance(got, (tuple, list)) and all(_is_a(float, n) for n in got)
    else:
        good = _is_a(kind, got)
    if not good:
        raise InputError(f"{name}: got {str(got)[:100]!r}, allowed: {_KINDS[kind]}.")


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

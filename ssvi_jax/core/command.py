"""Commands: options from a dataclass, and bad input as one line and exit code 2."""

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

import tyro

from ssvi_jax.core import compiled
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import Settings, checked_later

T = TypeVar("T")

BEFORE_FAILING: list[Callable[[int], object]] = []
"""Called with the exit code before a command that failed leaves (see `processes`)."""


EXPERIMENTS = frozenset(
    {
        *("tensorflow_datasets", "array_record", "grain", "importlib_resources"),
        *("sklearn", "matplotlib", "jinja2"),
    }
)
"""Modules that commands need and the library does not: the extra `experiments`."""

_FLAGS: set[str] = set()
"""Names of the settings that this process's command line has a flag for."""

_PROGRAM: ContextVar[str | None] = ContextVar("_PROGRAM", default=None)


@contextmanager
def called(program: str) -> Iterator[None]:
    """Inside, help and errors call the command so: "ssvi train"."""
    token = _PROGRAM.set(program)
    try:
        yield
    finally:
        _PROGRAM.reset(token)


def program(otherwise: str | None = None) -> str | None:
    """What help calls the command: as `called` says, or otherwise; None: the script."""
    return _PROGRAM.get() or otherwise


def parse_as(
    options: type[T],
    argv: Sequence[str],
    *,
    default: T | None = None,
    brief: bool = False,
) -> T:
    """Parses the command line of a script whose options are a dataclass.

    Fields that are dataclasses themselves are groups of flags, without a prefix.

    Args:
      options: the dataclass.
      argv: the command line.
      default: values of what is not given; without it those of the dataclass.
      brief: `--help` lists the options without their descriptions, which
        `--help-verbose` adds; for a command with many.

    Raises:
      InputError: a group of flags is one of `Settings`, which refuses a value.
    """
    given: Any = {} if default is None else {"default": default}
    about = (get_origin(options) or options).__doc__ or ""
    with checked_later():
        parsed = tyro.cli(
            options,
            prog=program(),
            args=list(argv),
            description=" ".join(about.split()) if brief else None,
            config=(tyro.conf.OmitArgPrefixes,),
            compact_help=brief,
            **given,
        )
    groups = [group for group in vars(parsed).values() if isinstance(group, Settings)]
    _FLAGS.update(_flags_of(parsed), *(group.names() for group in groups))
    for group in groups:
        group.check()
    return parsed


def _flags_of(parsed: Any) -> set[str]:
    """Names of the fields that have a flag, which a positional one has not."""
    return {
        field.name
        for field in dataclasses.fields(parsed)
        if tyro.conf.Positional not in getattr(field.type, "__metadata__", ())
    }


def parse_known(
    options: type[T], argv: Sequence[str], default: T, foreign: Collection[str]
) -> tuple[T, list[str]]:
    """The same, but for flags that are known to be of other options.

    Args:
      options: the dataclass.
      argv: the command line.
      default: values of what is not given.
      foreign: names of fields of other options.

    Returns:
      The options, and those of the names that were given.
    """
    _FLAGS.update(foreign)
    own, found, skipping = [], [], False
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            names = {name, name.removeprefix("no_")} & {*foreign}
            skipping = bool(names)
            found += names
        if not skipping:
            own.append(word)
    return parse_as(options, own, default=default, brief=True), found


def check_new(name: str, path: Path, *, overwrite: bool) -> None:
    """Refuses to write over a file.

    Raises:
      InputError: `path` is a file, and `overwrite` was not asked for.
    """
    if path.is_file() and not overwrite:
        raise InputError(
            f"{name}: got {path}, which exists, allowed: a new file; choose another, "
            "or add --overwrite."
        )


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a script's main function and exits the process with its code.

    Compiled programs are kept for the next time (see `compiled`).

    `InputError`, errors of the file system and a package of the extra `experiments`
    that is not installed become one line on standard error and exit code 2. Any other
    exception is a defect and keeps its traceback. Lines come as they are printed, also
    in a file or a pipe; a character that the terminal does not have is printed as a
    question mark; there are no colours where $NO_COLOR is set.
    """
    compiled.keep()
    if os.environ.get("NO_COLOR"):  # rich looks by itself, tyro does not
        tyro._experimental_options["ansi_codes"] = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left; at exit Python would try to write again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (InputError, OSError) as error:
        print(f"error: {_as_flags(str(error))}", file=sys.stderr, flush=True)
        _leave(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXPERIMENTS:
            _hurry(1)
            raise
        print(
            f"error: {error.name} is not installed, which commands need; "
            "pip install 'ssvi_jax[experiments]'.",
            file=sys.stderr,
            flush=True,
        )
        _leave(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        _leave(130)
    except Exception:
        _hurry(1)
        raise
    sys.exit(code or 0)


def _as_flags(text: str) -> str:
    """A message that begins with names of settings, with those of flags instead."""
    start, colon, rest = text.partition(":")
    names = start.split(", ")
    if not colon or not _FLAGS.issuperset(names):
        return text
    flags = ("--" + name.replace("_", "-") for name in names)
    return f"{', '.join(flags)}:{rest}"


def _leave(code: int) -> NoReturn:
    _hurry(code)
    sys.exit(code)


def _hurry(code: int) -> None:
    for prepare in BEFORE_FAILING:
        prepare(code)

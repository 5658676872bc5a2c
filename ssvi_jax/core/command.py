"""Commands: options from a dataclass, and bad input as one line and exit code 2."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

from ssvi_jax.core.errors import InputError

T = TypeVar("T")

BEFORE_FAILING: list[Callable[[int], object]] = []
"""Called with the exit code before a command that failed leaves (see `processes`)."""


def parse_as(options: type[T], argv: Sequence[str], *, default: T | None = None) -> T:
    """Parses the command line of a script whose options are a dataclass.

    Args:
      options: the dataclass.
      argv: the command line.
      default: values of what is not given; without it those of the dataclass.
    """
    if default is None:
        return tyro.cli(options, args=list(argv))
    return tyro.cli(options, args=list(argv), default=default)


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a script's main function and exits the process with its code.

    `InputError` and errors of the file system become one line on standard error and
    exit code 2. Any other exception is a defect and keeps its traceback. A character
    that the terminal does not have is printed as a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left; at exit Python would try to write again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _leave(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        _leave(130)
    except Exception:
        _hurry(1)
        raise
    sys.exit(code or 0)


def _leave(code: int) -> NoReturn:
    _hurry(code)
    sys.exit(code)


def _hurry(code: int) -> None:
    for prepare in BEFORE_FAILING:
        prepare(code)

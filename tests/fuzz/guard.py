"""Watches one reading of one input: how it ends, how long it takes, what it needs."""

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssvi_jax.core.errors import InputError

LIMIT_SECONDS = 10.0
"""Of the processor: a busy machine is no finding."""
LIMIT_WALL_SECONDS = 120.0
LIMIT_MEGABYTES = 64.0
"""Besides `LIMIT_TIMES` the size of the input."""
LIMIT_TIMES = 1100
"""Deflate expands a byte to at most 1,032."""

FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "ctypes.dlopen", "code.__new__"),
    *("os.fork", "webbrowser.open"),
)
"""Audit events of an input that got something executed."""


class Outcome(NamedTuple):
    """What became of one input.

    Attributes:
      kind: "refused", "accepted", or "finding": neither a clear refusal nor an answer.
      text: the refusal, or what was found.
      seconds: wall clock.
      megabytes: rise of the resident memory's peak over that of all earlier inputs.
    """

    kind: str
    text: str
    seconds: float
    megabytes: float


class TimeLimitError(BaseException):
    """Takes an input too long: no reader may catch this."""


class ForbiddenError(BaseException):
    """An input got something executed: no reader may catch this."""


_watching = False
_memory_limited = False
_fed = float("-inf")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event in FORBIDDEN:
        raise ForbiddenError(event)


def install(*, memory_limit: int | None = None) -> None:
    """Prepares the process once.

    Args:
      memory_limit: bytes that the address space may still grow by. With it the process
        also ends when an input holds up even the handling of signals.
    """
    global _memory_limited
    _memory_limited = memory_limit is not None
    sys.addaudithook(_audit)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _too_long)
    if memory_limit is not None:
        size = int(Path("/proc/self/statm").read_text().split()[0])
        limit = size * resource.getpagesize() + memory_limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _too_long(number: int, frame: object) -> None:
    raise TimeLimitError(f"more than {LIMIT_SECONDS} s")


def call(read: Callable[[], object], size: int) -> Outcome:
    """Reads one input.

    Args:
      read: reads it and checks the answer; `InputError` is a refusal, `SystemExit(2)`
        that of a command line, and anything else a finding.
      size: bytes of the input.
    """
    before = _peak()
    begin = time.perf_counter()
    kind, text = _ending(read)
    seconds = time.perf_counter() - begin
    megabytes = _peak() - before
    limit = LIMIT_MEGABYTES + LIMIT_TIMES * size / 2**20
    if kind != "finding" and megabytes > limit:
        kind, text = "finding", f"{megabytes:.0f} MB, allowed: {limit:.0f}"
    return Outcome(kind, text, seconds, megabytes)


def _ending(read: Callable[[], object]) -> tuple[str, str]:
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
    except InputError as error:
        return _checked(str(error))
    except SystemExit as error:
        if error.code in (0, 2):
            return "refused", ""
        return "finding", f"exit code {error.code}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.name}"
        return "finding", f"{type(error).__name__} in {where}: {str(error)[:120]}"
    return "accepted", ""


def _checked(text: str) -> tuple[str, str]:
    """A refusal must be readable: one that is empty or endless is a finding."""
    if not text.strip() or len(text) > 20_000:
        return "finding", f"a refusal of {len(text)} characters"
    return "refused", text


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A time limit, and a second one for code that no signal interrupts."""
    global _watching
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_WALL_SECONDS)
    _watch_dog()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _watch_dog() -> None:
    """Ends the process unless this is called again soon, from time to time."""
    global _fed
    if _memory_limited and time.monotonic() > _fed + LIMIT_SECONDS:
        faulthandler.dump_traceback_later(2 * LIMIT_WALL_SECONDS, exit=True)
        _fed = time.monotonic()


def reset_peak() -> None:
    """Makes the peak of the resident memory what it is now, where that can be done."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Of the resident memory, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

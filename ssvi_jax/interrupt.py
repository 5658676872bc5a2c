"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

POLL_SECONDS = 0.05


class Interrupt:
    """Notes the first Ctrl-C or SIGTERM; a second one ends the process at once.

    Use as a context manager around training; `requested` is true once someone asked.

    Args:
      notify: called with one line when the request arrives.
    """

    def __init__(self, notify: Callable[[str], None]):
        self.requested = False
        self._notify = notify
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Installs the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            # A running XLA computation cannot be stopped; checkpoints are safe.
            print("stopped; continue with --resume", file=sys.stderr, flush=True)
            os._exit(128 + number)
        self.requested = True
        self._notify(
            "stopping: this phase is finished and saved first; the same signal again "
            "stops at once and goes back to the last checkpoint on --resume"
        )


def wait(array: Any, tick: Callable[[], None] = lambda: None) -> None:
    """Waits for a result while Python can still handle signals.

    Args:
      array: a `jax.Array`, the result of a dispatched computation.
      tick: called about twenty times a second.
    """
    while not array.is_ready():
        tick()
        time.sleep(POLL_SECONDS)

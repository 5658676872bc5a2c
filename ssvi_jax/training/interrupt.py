"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

POLL_SECONDS = 0.01


class Interrupt:
    """Notes the first Ctrl-C or SIGTERM; a second one ends the process at once.

    Use as a context manager around training.

    Args:
      notify: called with one line when the request arrives.
      again: how the training is continued, for these lines.

    Attributes:
      requested: number of the signal that asked to stop; 0: none has.
    """

    def __init__(
        self, notify: Callable[[str], object] = print, *, again: str = "--resume"
    ):
        self.requested = 0
        self._notify, self._again = notify, again
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
            with suppress(OSError):
                os.write(2, f"stopped; continue with {self._again}\n".encode())
            os._exit(128 + number)
        self.requested = number
        # A buffered stream refuses to be written to from within a write.
        with suppress(RuntimeError):
            self._notify(
                "stopping: this phase is finished and saved first; the same signal "
                "again stops at once and goes back to the last checkpoint on "
                f"{self._again}"
            )


def wait(array: Any, tick: Callable[[], None] = lambda: None) -> None:
    """Waits for a result while Python can still handle signals.

    Args:
      array: a `jax.Array`, the result of a dispatched computation.
      tick: called up to a hundred times a second.
    """
    while not array.is_ready():
        tick()
        time.sleep(POLL_SECONDS)

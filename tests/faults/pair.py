"""Two processes of one training, of which a fault strikes one."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Self

from .plans import Plan
from .strike import HANGS, LIMIT_SECONDS, Children, Process

SURVIVOR_SECONDS = 60.0
"""The process that is left must end within this time, of which it waits 10 itself."""


class Pair:
    """As `strike.Children`, for trainings of two processes on this machine.

    Args:
      folder: temporary; gets their output.
      compiled: see `strike.Children`.
    """

    def __init__(self, folder: Path, compiled: Path | None = None):
        self.folder = folder
        self._each: list[Children] = []
        for name in ("first", "second"):
            (folder / name).mkdir(parents=True)
            self._each.append(Children(folder / name, compiled or folder / "compiled"))

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the parents of all processes."""
        for children in self._each:
            children.__exit__()

    def train(self, folder: Path, plan: Plan, *flags: str) -> Process:
        """A training of both to its end; returns how the one not struck ended.

        That is the first, if none is. Of a plan's ``process`` 0 or 1 is struck.
        """
        begin = time.perf_counter()
        struck = plan.get("process")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{listener.getsockname()[1]}"
        pids = []
        for i, children in enumerate(self._each):
            own = ("--coordinator", where, "--num-processes", "2", "--process-id")
            its_plan = plan if i == (struck or 0) else {}
            pids.append(children.start(folder, its_plan, *flags, *own, str(i)))
        if struck is None:
            codes = [children.wait(LIMIT_SECONDS) for children in self._each]
        else:
            codes = self._after_strike(folder, plan, pids)
        for i, code in enumerate(codes):
            if code is None:
                os.kill(pids[i], signal.SIGKILL)
                self._each[i].wait(LIMIT_SECONDS)
        other = 0 if struck is None else 1 - struck
        code = HANGS if codes[other] is None else codes[other]
        assert code is not None
        seconds = time.perf_counter() - begin
        return Process(code, *self._each[other].said(), seconds)

    def _after_strike(
        self, folder: Path, plan: Plan, pids: list[int]
    ) -> list[int | None]:
        """The exit codes of both; None: still running so long after the strike."""
        struck = plan["process"]
        codes: list[int | None] = [None, None]
        codes[struck] = self._each[struck].until_struck(folder, plan, pids[struck])
        codes[1 - struck] = self._each[1 - struck].wait(SURVIVOR_SECONDS)
        return codes

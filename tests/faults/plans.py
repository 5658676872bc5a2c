"""What may happen to a training, and when: drawn at random from a seed.

A plan is a dictionary of JSON values that `child` and `strike` understand:

- ``strikes``: [name of a `child.STRIKES`, file operation at which it happens] each;
- ``signal``, ``seconds``: a signal from outside, so long after the run has begun;
- ``poison``: the step at which a phase begins whose first batch holds NaN;
- ``damage``: what to do to the newest checkpoint once the process has ended;
- ``bytes_left``, ``seconds_back``: how full the disk is, how far the clock is set back;
- ``disk``: the run has a small disk of its own (needs the right to mount);
- ``process``: of two processes that train together, the one that the plan is for.
"""

import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Plan = dict[str, Any]


class Extent(NamedTuple):
    """How long the undisturbed run is.

    Attributes:
      touches: file operations in its folder.
      seconds: from its first file to its end.
      phases: number of phases.
      phase_steps: steps of a phase.
    """

    touches: int
    seconds: float
    phases: int
    phase_steps: int


def _moment(name: str, number: signal.Signals, rng, extent: Extent) -> Plan:
    """A signal, from within at a file operation or from outside at any time."""
    if rng.random() < 0.5:
        return {"strikes": [[name, _touch(rng, extent)]]}
    return {"signal": int(number), "seconds": float(rng.uniform(0, extent.seconds))}


def _touch(rng: np.random.Generator, extent: Extent, begin: float = 0.0) -> int:
    first = 1 + int(begin * extent.touches)
    return int(rng.integers(first, extent.touches + 1))


def _killed(rng: np.random.Generator, extent: Extent) -> Plan:
    return _moment("kill", signal.SIGKILL, rng, extent)


def _terminated(rng: np.random.Generator, extent: Extent) -> Plan:
    return _moment("term", signal.SIGTERM, rng, extent)


def _full(rng: np.random.Generator, extent: Extent) -> Plan:
    left = int(rng.choice([0, 1, 4096, 20_000, 100_000]))
    return {
        "disk": True,
        "strikes": [["fill", _touch(rng, extent)]],
        "bytes_left": left,
    }


def _limited(rng: np.random.Generator, extent: Extent) -> Plan:
    left = int(2 ** rng.uniform(12, 16))  # what the process says lies in files too
    return {"strikes": [["limit", _touch(rng, extent)]], "bytes_left": left}


def _read_only(rng: np.random.Generator, extent: Extent) -> Plan:
    return {"disk": True, "strikes": [["remount", _touch(rng, extent)]]}


def _refused(rng: np.random.Generator, extent: Extent) -> Plan:
    return {"strikes": [["refuse", _touch(rng, extent)]]}


def _damaged(how: str) -> Callable[[np.random.Generator, Extent], Plan]:
    def draw(rng: np.random.Generator, extent: Extent) -> Plan:
        # Late enough for two checkpoints: the older one is what there is to go back to.
        kill = ["kill", _touch(rng, extent, begin=0.5)]
        return {"strikes": [kill], "damage": how, "seed": int(rng.integers(2**32))}

    return draw


def _poisoned(rng: np.random.Generator, extent: Extent) -> Plan:
    return {"poison": int(rng.integers(extent.phases)) * extent.phase_steps}


def _clock(rng: np.random.Generator, extent: Extent) -> Plan:
    first = _touch(rng, extent)
    strikes = [["set back", first]]
    if rng.random() < 0.5:
        strikes.append(["kill", int(rng.integers(first, extent.touches + 1))])
    return {"strikes": strikes, "seconds_back": float(10 ** rng.uniform(0, 8))}


def _one_killed(rng: np.random.Generator, extent: Extent) -> Plan:
    process = int(rng.integers(2))
    if process == 0:  # only the first has files
        return {"process": process, **_killed(rng, extent)}
    seconds = float(rng.uniform(0, extent.seconds))
    return {"process": process, "signal": int(signal.SIGKILL), "seconds": seconds}


KINDS: dict[str, Callable[[np.random.Generator, Extent], Plan]] = {
    "kill -9": _killed,
    "SIGTERM": _terminated,
    "full disk": _full,
    "file size limit": _limited,
    "read-only disk": _read_only,
    "writes refused": _refused,
    "truncated newest checkpoint": _damaged("truncate"),
    "bit flipped in the newest checkpoint": _damaged("flip"),
    "NaN in a batch": _poisoned,
    "clock set back": _clock,
    "one of two processes killed": _one_killed,
}
"""Kind of fault → draws a plan."""

NEED_MOUNT = ("full disk", "read-only disk")
"""Kinds that need the right to mount a file system."""

NEED_PAIR = ("one of two processes killed",)
"""Kinds that strike a training of two processes."""

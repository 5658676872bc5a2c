"""Which checkpoints of a run are kept: a preservation policy for Orbax."""

from collections.abc import Collection
from typing import Any

_NUM_LATEST = 3


class LastAndBest:
    """The preservation policy: the last three whole checkpoints and the best.

    Orbax's `AnyPreservationPolicy([LatestN(3), BestN(n=1)])` says the same of sound
    checkpoints, but reads scores in a way that a damaged file stops, and would let a
    damaged checkpoint push out a sound one.

    Attributes:
      scores: step → score, higher is better.
      damaged: steps found to be damaged; deleted once another save is complete.
    """

    def __init__(self) -> None:
        self.scores: dict[int, float] = {}
        self.damaged: set[int] = set()

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """One flag a checkpoint; of equal scores the earliest is the best."""
        del context
        kept = self.kept([info.step for info in checkpoints])
        return [info.step in kept for info in checkpoints]

    def kept(self, steps: Collection[int]) -> set[int]:
        """Those of the steps that are preserved."""
        whole = sorted({*steps} - self.damaged)
        scored = [step for step in whole if step in self.scores]
        best = sorted(scored, key=lambda step: -self.scores[step])[:1]
        return {*whole[-_NUM_LATEST:], *best}

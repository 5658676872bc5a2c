"""Validation: scores of the mean network where an epoch has ended."""

from typing import Any

import jax
import numpy as np

from ssvi_jax.core.rows import like_trained
from ssvi_jax.core.types import Masks, Weights
from ssvi_jax.metrics.scores import by_likelihood
from ssvi_jax.training.callbacks import Callback, Phase, Progress, Session
from ssvi_jax.vi import predictions


class Validation(Callback):
    """Scores a part of the data that is not trained on, into ``metrics["validation"]``.

    It happens at the end of a phase in which an epoch ends, and of the last. The best
    network by its NLL is kept on the host; what is yet to be pruned does not count.

    Args:
      data: inputs and labels.
      example: shapes and types of inputs of the training ``[1, ...]``; None: not known.
      backend: what multiplies; see `Execution.backend`.

    Attributes:
      best: step, weights and masks of the lowest NLL; None: there was none yet.
    """

    def __init__(
        self, data: tuple[Any, Any], *, example: Any = None, backend: str = "auto"
    ):
        self._x, self._y = data
        self._trained = None
        if example is not None:
            self._trained = [list(leaf.shape) for leaf in jax.tree.leaves(example)]
        self._backend = backend
        self._nll = float("inf")
        self.best: tuple[int, Weights, Masks] | None = None

    def begin(self, session: Session, start: Progress) -> None:
        """Refuses inputs of another shape on which the network fails."""
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(self._x)]
        trained = self._trained
        if trained is None or [s[1:] for s in shapes] == [s[1:] for s in trained]:
            return
        with like_trained("validation", self._x, trained):
            self.scores(Phase(session, 0, start, {}, 0.0))

    def scores(self, phase: Phase) -> dict[str, float]:
        """Of the mean network after a phase."""
        problem, progress = phase.session.algorithm.problem, phase.progress
        found = predictions.predict(
            problem.likelihood,
            problem.apply_fn,
            progress.state.weights,
            progress.masks,
            self._x,
            key=None,
            backend=self._backend,
        )
        return by_likelihood(problem.likelihood, found, self._y)

    def __call__(self, phase: Phase) -> None:
        """Scores at the end of an epoch."""
        if not phase.ends_epoch:
            return
        scores = phase.metrics["validation"] = self.scores(phase)
        if phase.step <= phase.session.algorithm.prune_step:
            return
        if scores["nll"] < self._nll:
            self._nll = scores["nll"]
            self.best = (phase.step, *_on_host(phase.progress))


def _on_host(progress: Progress) -> tuple[Weights, Masks]:
    """Copies that the next phase, which donates the state, leaves alone."""
    weights = jax.tree.map(np.array, jax.device_get(progress.state.weights))
    return weights, dict(progress.masks)

"""What happens between the phases of a training, besides the training itself.

A callback is a `Callback`, or any function of a `Phase`; True stops the training.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import positive
from ssvi_jax.core.types import Masks
from ssvi_jax.methods.problem import Algorithm
from ssvi_jax.networks.describe import describe
from ssvi_jax.training.feeds import Feed
from ssvi_jax.vi import State

LOGGER = logging.getLogger("ssvi_jax")


class Progress(NamedTuple):
    """Where a training is, and everything that a checkpoint holds.

    Attributes:
      state: the training state.
      masks: the current selection.
      first_masks: the selection at step 0, for the churn.
    """

    state: State
    masks: Masks
    first_masks: Masks


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """One training, from its first step to its last.

    Attributes:
      algorithm: the method, built on the problem.
      feed: where examples come from.
      steps_per_epoch: steps of a pass over the training set.
      notes: JSON values of callbacks, each under a name of its own: checkpoints keep
        them, and a continuation has them again after `Callback.begin`.
    """

    algorithm: Algorithm
    feed: Feed
    steps_per_epoch: int
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.algorithm.problem.total_steps

    @property
    def inner_steps(self) -> int:
        """M, steps of a phase."""
        return self.algorithm.problem.inner_steps

    def epochs_done(self, step: int) -> int:
        """Whole epochs completed at a step."""
        return step // self.steps_per_epoch


@dataclasses.dataclass(eq=False)
class Phase:
    """A phase that has ended.

    Attributes:
      session: the training it is of.
      step: steps done.
      progress: state and masks.
      metrics: what to log: means over the steps of loss, nll, kl and so on, what the
        swap before them did, seconds. Callbacks may add to it.
      seconds: training time so far, over all continuations, evaluation included.
    """

    session: Session
    step: int
    progress: Progress
    metrics: dict[str, Any]
    seconds: float

    @property
    def is_last(self) -> bool:
        """Whether the training is at its end."""
        return self.step >= self.session.total_steps

    @property
    def ends_epoch(self) -> bool:
        """Whether a pass over the training set came to its end in it."""
        done, before = (
            self.session.epochs_done(step)
            for step in (self.step, self.step - self.session.inner_steps)
        )
        return done > before or self.is_last


class Callback:
    """What may be done around phases; every function here does nothing.

    They are called in the order in which callbacks are given.
    """

    def planned_steps(self) -> int | None:
        """Steps that a run to be continued was planned for; None: there is none."""
        return None

    def begin(self, session: Session, start: Progress) -> tuple[Progress, float] | None:
        """Before the first phase; a progress to go on from, and its seconds, or None.

        Args:
          session: the training.
          start: the progress at step 0.
        """
        del session, start

    def stopped(self, session: Session) -> bool:
        """After all have begun; True if it had stopped what would be continued."""
        del session
        return False

    def before_phase(self, step: int, num_steps: int) -> None:
        """A phase of `num_steps` begins at `step`."""
        del step, num_steps

    def tick(self) -> None:
        """Called while the device computes, up to a hundred times a second."""

    def __call__(self, phase: Phase) -> bool | None:
        """After a phase; True stops the training."""
        del phase

    def end(self, phase: Phase) -> None:
        """After the last phase, or the one after which the training was stopped."""
        del phase

    def kept(self) -> str:
        """If the training fails: what of it is kept, for the error's text."""
        return ""

    def close(self) -> None:
        """In the end, whatever happened."""


CallbackLike: TypeAlias = Callback | Callable[[Phase], bool | None]


class _Function(Callback):
    def __init__(self, function: Callable[[Phase], bool | None]):
        self._function = function

    def __call__(self, phase: Phase) -> bool | None:
        return self._function(phase)


def as_callback(given: CallbackLike) -> Callback:
    """The callback itself, or one of a function."""
    if isinstance(given, Callback):
        return given
    if isinstance(given, type):
        raise InputError(
            f"callbacks: got the class {given.__name__}, allowed: an instance, as "
            f"{given.__name__}(...), or a function of a Phase."
        )
    if not callable(given):
        raise InputError(
            f"callbacks: got {type(given).__name__}, allowed: a Callback, or a "
            "function of a Phase."
        )
    return _Function(given)


class Describing(Callback):
    """Says once what is trained: kernels, what is kept of them, what multiplies.

    Args:
      example: shapes and types of inputs.
    """

    def __init__(self, example: Any):
        self._example = example

    def begin(self, session: Session, start: Progress) -> None:
        """Logs a table to the logger "ssvi_jax", at level INFO."""
        problem = session.algorithm.problem
        network = problem.apply_fn, problem.params, problem.model_state
        LOGGER.info(
            "%s steps in phases of %s, estimator %s\n%s",
            session.total_steps,
            session.inner_steps,
            session.algorithm.estimator,
            describe(
                network,
                self._example,
                start.masks,
                backend=problem.execution.backend,
            ),
        )


class History(Callback):
    """Keeps the metrics of all phases, `events`."""

    def __init__(self):
        self.events: list[dict[str, Any]] = []

    def __call__(self, phase: Phase) -> None:
        """Adds those of a phase."""
        self.events.append({"step": phase.step, **phase.metrics})


LARGER_IS_BETTER = {
    **dict.fromkeys(("accuracy", "r2"), True),
    **dict.fromkeys(("nll", "brier", "rmse"), False),
    **dict.fromkeys(("ece", "adaptive_ece", "classwise_ece"), False),
}
"""Scores of which it is known whether more is better."""


def no_validation() -> InputError:
    """Early stopping has nothing to look at."""
    return InputError(
        "callbacks: got EarlyStopping without validation, needed: `validation`, a "
        "fraction of the data or (inputs, labels) that are not trained on."
    )


class EarlyStopping(Callback):
    """Stops when some validations in a row have not become better.

    There is one at the end of every phase in which an epoch ends; so where a phase is
    longer than an epoch there are fewer than epochs. Checkpoints keep the count: the
    same call again stops where one without a break does, and does not go on from
    there, but with more patience it does.

    Args:
      patience: validations in a row without a better value.
      metric: a key of the validation's scores, see `metrics.scores.score`.
      larger_is_better: of that metric; None: as is known of it (`LARGER_IS_BETTER`).

    Raises:
      InputError: a patience below 1, or a metric of which it is not known what is
        better; in training, no validation, or a metric that it does not have.
    """

    def __init__(
        self,
        patience: int,
        metric: str = "nll",
        *,
        larger_is_better: bool | None = None,
    ):
        positive("patience", patience)
        if larger_is_better is None:
            if metric not in LARGER_IS_BETTER:
                raise InputError(
                    f"metric: got {metric!r}, allowed: {', '.join(LARGER_IS_BETTER)}; "
                    "or any score of the validation with `larger_is_better`."
                )
            larger_is_better = LARGER_IS_BETTER[metric]
        self._patience, self._metric = patience, metric
        self._sign = 1.0 if larger_is_better else -1.0
        self._name = f"{'largest' if larger_is_better else 'smallest'} {metric}"

    def __call__(self, phase: Phase) -> bool:
        """True after too many validations without a better value."""
        scores: Mapping[str, float] | None = phase.metrics.get("validation")
        if scores is None:
            if phase.ends_epoch:
                raise no_validation()
            return False
        if self._metric not in scores:
            raise InputError(
                f"metric: got {self._metric!r}, allowed: {', '.join(scores)}."
            )
        value = self._sign * float(scores[self._metric])
        step, since, best = self._note(phase.session)
        if step < phase.step:  # else another one of this metric has been here
            since = 0 if value > best else since + 1
            note = phase.step, since, max(best, value)
            phase.session.notes[self._name] = note
        return since >= self._patience

    def stopped(self, session: Session) -> bool:
        """Whether there were too many before this continuation, which is logged."""
        step, since, _ = self._note(session)
        if since < self._patience:
            return False
        LOGGER.warning("EarlyStopping stopped it at step %s: nothing was trained", step)
        return True

    def _note(self, session: Session) -> tuple[int, int, float]:
        """Step of the last validation, those since the best one, and its value."""
        return session.notes.get(self._name, (0, 0, -float("inf")))

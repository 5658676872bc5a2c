"""The arguments of `fit` are of the kinds that they may be: looked at before anything.

What depends on values or on other arguments is checked where it is used.
"""

import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.keys import check_key
from ssvi_jax.core.settings import positive
from ssvi_jax.methods.algorithms.sgd import Sgd
from ssvi_jax.methods.base import Method
from ssvi_jax.networks.triple import check_network
from ssvi_jax.training.callbacks import (
    EarlyStopping,
    as_callback,
    no_validation,
)
from ssvi_jax.training.display import ProgressBar
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.training.trackers import TensorBoard, WeightsAndBiases
from ssvi_jax.vi.execution import Execution

_WITHOUT_SCORES = {EarlyStopping, ProgressBar, TensorBoard, WeightsAndBiases}
"""Callbacks that are known to add no scores of a validation."""

LIKELIHOODS = (
    "Categorical(), Bernoulli(), Normal(), Poisson(), or a function (output, labels) "
    "→ log p of each example"
)
OPTIMIZERS = (
    "an optimizer of optax, as optax.adam(1e-3), a function of the number of steps "
    "that makes one, or Sgd(...)"
)


def check(given: Mapping[str, Any]) -> None:
    """Refuses arguments of another kind.

    Args:
      given: names and values of the arguments of `fit`.

    Raises:
      InputError: names the first of them, and what to give instead.
    """
    for name, looked_at in _CHECKS.items():
        value = given[name]
        if value is not None or name in ("method", "network"):
            looked_at(name, value)
    _check_stopping(given["callbacks"], given["validation"])


def plain(got: Any) -> Any:
    """A number as Python's, for what is written of a training is JSON; None is None."""
    if got is None:
        return None
    return int(got) if isinstance(got, numbers.Integral) else float(got)


def _method(name: str, got: Any) -> None:
    if not isinstance(got, Method):
        raise _refused(name, got, "a method with its settings, as SSVI(sparsity=0.95)")


def _key(name: str, got: Any) -> None:
    check_key(name, got)


def _whole(name: str, got: Any) -> None:
    if isinstance(got, bool) or not isinstance(got, numbers.Integral):
        raise _refused(name, got, "a whole number above 0")
    positive(name, int(got))


def _number(name: str, got: Any) -> None:
    if isinstance(got, bool) or not isinstance(got, numbers.Real):
        raise _refused(name, got, "a number above 0")


def _likelihood(name: str, got: Any) -> None:
    if isinstance(got, type) or not (callable(got) or hasattr(got, "log_prob")):
        raise _refused(name, got, LIKELIHOODS)


def _optimizer(name: str, got: Any) -> None:
    if isinstance(got, (Sgd, optax.GradientTransformation)):
        return
    if isinstance(got, type) or not callable(got):
        raise _refused(name, got, OPTIMIZERS)
    try:
        signature = inspect.signature(got)
    except (TypeError, ValueError):  # some callables have none
        return
    first = next(iter(signature.parameters), "nothing")
    called = getattr(got, "__name__", type(got).__name__)
    if first == "learning_rate":
        raise InputError(
            f"{name}: got {called}, which would take the number of steps for its "
            f"learning rate, allowed: {OPTIMIZERS}; call it: optax.{called}(1e-3)."
        )
    try:
        signature.bind(1)
    except TypeError as error:
        raise InputError(
            f"{name}: got {called} ({error}), allowed: {OPTIMIZERS}."
        ) from (error)


def _start(name: str, got: Any) -> None:
    if isinstance(got, Fitted):
        return
    if not isinstance(got, Mapping):
        allowed = "what `fit` returned or `load(path, module)` read, or full parameters"
        if isinstance(got, (tuple, list)):
            allowed += "; of what from_flax returned, the second"
        raise _refused(name, got, allowed)
    if isinstance(got.get("params"), Mapping):
        raise InputError(
            f"{name}: got variables with {', '.join(map(repr, got))}, allowed: the "
            f'parameters alone; pass v["params"] of your variables v.'
        )


def _callbacks(name: str, got: Any) -> None:
    if isinstance(got, (str, Mapping)) or not isinstance(got, Sequence):
        raise _refused(name, got, "a list of callbacks: callbacks=[...]")
    for one in got:
        as_callback(one)


def _check_stopping(callbacks: Iterable[Any], validation: Any) -> None:
    """Refuses early stopping where nothing can give it scores."""
    kinds = list(map(type, callbacks))
    others = set(kinds) - _WITHOUT_SCORES
    if EarlyStopping in kinds and validation is None and not others:
        raise no_validation()


def _execution(name: str, got: Any) -> None:
    if not isinstance(got, Execution):
        raise _refused(name, got, "Execution(...), as Execution(backend='auto')")


def _function(name: str, got: Any) -> None:
    if isinstance(got, type) or not callable(got):
        raise _refused(name, got, "a function (inputs, key) → inputs")


def _folder(name: str, got: Any) -> None:
    if not isinstance(got, (str, Path)):
        raise _refused(name, got, "the path of a folder")
    if Path(got).is_file():
        raise InputError(f"{name}: got {got}, a file, allowed: a folder, new or not.")


def _refused(name: str, got: Any, allowed: str) -> InputError:
    """The error, which shows what came by its name or its value."""
    if isinstance(got, type):
        what = f"the class {got.__name__}"
        allowed += f" (of a class make an instance: {got.__name__}(...))"
    elif isinstance(got, (str, bytes, int, float)):
        what = repr(got)[:100]
    else:
        what = f"a {type(got).__name__}"
    return InputError(f"{name}: got {what}, allowed: {allowed}.")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "method": _method,
    "network": lambda name, got: check_network(got),
    "key": _key,
    "steps": _whole,
    "epochs": _number,
    "minutes": _number,
    "batch_size": _whole,
    "inner_steps": _whole,
    "likelihood": _likelihood,
    "optimizer": _optimizer,
    "augment": _function,
    "start": _start,
    "callbacks": _callbacks,
    "folder": _folder,
    "execution": _execution,
}

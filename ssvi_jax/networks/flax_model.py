"""What the adapters of linen and nnx share: an `ApplyFn` that knows its kernels."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import (
    KernelShape,
    Masks,
    ModelState,
    PackedKernel,
    Params,
)
from ssvi_jax.networks import mixing, switch, tracing
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.networks.layers import Factors, Layer, Products

Example = Any
"""An input ``[batch, ...]``, or a pytree of them (a dictionary, a tuple), of which only
shapes and types are read."""

TRAIN_ARGUMENTS: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}
"""Arguments of a model's call, or its fields, that say whether it trains."""


class FlaxModel:
    """The signature of an `ApplyFn`, and what a trace of the model shows.

    Models of equal modules are equal, so that they share what is compiled for them.

    Args:
      module: the module.
      value: what its kind compares modules by.

    Attributes:
      kernel_shapes: see `types.ApplyFn`; empty until `study`.
      dirac: whether convolutions begin as the identity, under masks too (see
        `vi.dirac`): what the module says in a field of that name.
    """

    def __init__(self, module: nn.Module | nnx.Module, value: Any):
        self._value = value if _is_hashable(value) else object()
        names = inspect.signature(type(module).__call__).parameters
        self._arguments = {n: f for n, f in TRAIN_ARGUMENTS.items() if n in names}
        self.kernel_shapes: dict[str, KernelShape] = {}
        self.dirac = bool(getattr(module, "dirac", False))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlaxModel) or type(self) is not type(other):
            return False
        return self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
        factors: Mapping[str, Factors] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`; `factors` are rank-1 factors of kernels.

        With `dropout` the inputs of every Dense and Conv layer but the first are
        dropped, whatever `train` is.
        """
        products = Products(params, kernels, key, factors, dropout)
        return self._apply(products, params, model_state, x, train=train)

    def study(self, params: Params, model_state: ModelState, x: Example) -> None:
        """Learns from traces how the model applies its kernels, for `kernel_shapes`.

        Warns of running statistics that training does not move.

        Raises:
          InputError: in evaluation it writes running statistics, draws random numbers,
            or its output for an example depends on the others in the batch.
        """
        found = tracing.uses(self._evaluated, params, model_state, x)
        self.kernel_shapes = {path: use.shape for path, use in found.items()}

        def evaluated(key, x):
            return self._evaluated(Products(params, None, key), params, model_state, x)

        if switch.draws(evaluated, x):
            raise InputError(
                "module: with train=False it draws random numbers, as dropout does, so "
                f"the same input is predicted differently each time; {_SWITCH} "
                f"To drop in predictions use the method MCDropout. {_MEANT}"
            )
        if mixing.mixes(partial(evaluated, jax.random.key(0)), x):
            raise InputError(
                "module: with train=False its output for one example depends on the "
                "others in the batch (it sums, compares or sorts over them), so a "
                f"prediction would change with its batch; {_SWITCH} {_MEANT}"
            )
        self._warn_of_statistics(params, model_state, x)

    def _warn_of_statistics(
        self, params: Params, model_state: ModelState, x: Example
    ) -> None:
        flat = trees.flatten(model_state)
        names = self._statistics(model_state)
        if not names:
            return

        def trained(statistics):
            state = trees.unflatten(flat | statistics)
            products = Products(params, None, jax.random.key(0))
            new = trees.flatten(self._apply(products, params, state, x, train=True)[1])
            return {name: new[name] for name in names}

        try:
            still = switch.unmoved(trained, {name: flat[name] for name in names})
        except Exception:  # what a module raises in training, it will raise there
            return
        if len(still) == len(names):
            warnings.warn(
                f"module: with train=True it does not move its running statistics "
                f"({', '.join(still[:2])}), so it normalizes by their first values "
                f"for good, and may not drop either; {_SWITCH}",
                UserWarning,
                stacklevel=4,
            )

    def layers(
        self, params: Params, model_state: ModelState, x: Example
    ) -> list[Layer]:
        """The kernels in the order in which one forward pass applies them.

        Nothing is run. A kernel that is applied several times, as a recurrent one, is
        one of them.
        """
        found = tracing.uses(self._evaluated, params, model_state, x)
        batch = len(jax.tree.leaves(x)[0])
        flat = trees.flatten(params)
        return [
            Layer(path, use.shape, use.positions(batch))
            for path, use in found.items()
            if trees.is_kernel(path, flat[path])
        ]

    def channels(
        self, params: Params, model_state: ModelState, x: Example
    ) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Kernels that can have factors, and of which shapes: `Products.channels`."""

        def apply(params, model_state, x):
            products = Products(params, None, jax.random.key(0))
            self._evaluated(products, params, model_state, x)
            found.append(products)

        found: list[Products] = []
        jax.eval_shape(apply, params, model_state, mixing.rows(x, 1))
        return found[0].channels

    def refusals(
        self, params: Params, model_state: ModelState, masks: Masks, x: Example
    ) -> dict[str, str]:
        """Masked kernels that the sparse kernels do not take, and why.

        Args:
          params: full parameters.
          model_state: running statistics.
          masks: the selection.
          x: an example input.
        """

        def apply(params, model_state, x, kernels):
            products = Products(params, kernels, jax.random.key(0))
            self._evaluated(products, params, model_state, x)
            found.update(products.refusals)

        kernels = {path: _packed(mask) for path, mask in masks.items()}
        found: dict[str, str] = {}
        jax.eval_shape(apply, params, model_state, mixing.rows(x, 1), kernels)
        others = "a layer of another kind than those that take packed kernels"
        why = {path: found.get(path, others) for path in masks}
        return {path: reason for path, reason in why.items() if reason}

    def _evaluated(self, products, params, model_state, x) -> Any:
        return self._apply(products, params, model_state, x, train=False)[0]

    def _kwargs(self, *, train: bool) -> dict[str, Any]:
        return {name: fn(train) for name, fn in self._arguments.items()}

    def _apply(self, products, params, model_state, x, *, train):
        raise NotImplementedError

    def _statistics(self, model_state: ModelState) -> list[str]:
        """Paths of the running statistics in a model's state."""
        raise NotImplementedError


def _packed(mask: np.ndarray) -> PackedKernel:
    """Shapes and types of a kernel that only has the selected weights."""
    kept = int(mask.sum())
    values = jax.ShapeDtypeStruct((kept,), jnp.float32)
    index = jax.ShapeDtypeStruct((kept,), jnp.int32)
    return PackedKernel(
        values,  # type: ignore[arg-type]
        None,
        index,  # type: ignore[arg-type]
        mask.shape,
        backend="sparse",
    )


_SWITCH = (
    "allowed: a module that is told whether it trains, by an argument of its call or a "
    f"field of its own named {', '.join(TRAIN_ARGUMENTS)}, and tells its parts."
)


_MEANT = "If it is meant so, call it from a function with types.ApplyFn's signature."


def writes_statistics(where: str) -> InputError:
    """The error of a model that moves its running statistics in evaluation."""
    return InputError(
        f"module: with train=False it writes running statistics ({where}), so it "
        f"normalizes by the batch instead of by them; {_SWITCH}"
    )


def kept(new: Any, old: Any) -> Any:
    """The new values of a model's state, as what it was before: `old`.

    Of the same structure and types, so that a state can be carried from step to step: a
    model may add variables, or sow into them, and statistics may be computed in
    another precision than they are held in.
    """
    if isinstance(old, Mapping):
        return {name: kept(new[name], old[name]) for name in old}
    if jax.tree.structure(new) != jax.tree.structure(old):
        return old
    return jax.tree.map(_as_before, new, old)


def _as_before(new: Any, old: Any) -> Any:
    dtype = jnp.result_type(old)
    return new if jnp.result_type(new) == dtype else jnp.asarray(new, dtype)


def _is_hashable(value: Any) -> bool:
    """Whether all in it are values that can be compared."""
    try:
        hash(value)
    except TypeError:
        return False
    return True

"""A Keras 3 model on the JAX backend as an `ApplyFn`.

Keras has no place where another product could be put, so its layers see one sample of
their weights for a batch, whatever the estimator, and multiply densely. Masks, swaps,
posteriors and files are those of any network.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ssvi_jax.core import optional, trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import KernelShape, Masks, ModelState, PackedKernel, Params
from ssvi_jax.networks import mixing, switch, tracing
from ssvi_jax.networks.layers import Layer

_SEED = "seed_generator_state"
"""How Keras names what its random layers draw from."""


class KerasModel:
    """The signature of an `ApplyFn` for a Keras model; its own values do not change.

    Attributes:
      kernel_shapes: see `types.ApplyFn`; empty until `study`.
      draws: whether parameters can be drawn anew; they cannot.
    """

    draws = False

    def __init__(self, model: Any):
        self._model = model

        def path(variable: Any) -> str:
            # Keras numbers the names of models, so an equal one has another.
            return variable.path.removeprefix(f"{model.name}/")

        self._params = [path(v) for v in model.trainable_variables]
        self._state = [path(v) for v in model.non_trainable_variables]
        # What random layers draw from is given at every call, so it is no state.
        self._held = [path for path in self._state if not path.endswith(_SEED)]
        paths = [*self._params, *self._state]
        if len({*paths}) < len(paths):
            twice = next(path for path in paths if paths.count(path) > 1)
            raise InputError(
                f"model: got two variables named {twice}, allowed: different names; "
                "name the layers."
            )
        self.kernel_shapes: dict[str, KernelShape] = {}

    def init(self, key: Any = None, x: Any = None) -> tuple[Params, ModelState]:
        """Copies of the model's own parameters and state."""
        del key, x
        params = [jnp.array(v.value) for v in self._model.trainable_variables]
        state = [jnp.array(v.value) for v in self._model.non_trainable_variables]
        named = dict(zip(self._params, params, strict=True))
        return trees.unflatten(named), self._without_seeds(state)

    def _without_seeds(self, state: list[jax.Array]) -> ModelState:
        named = dict(zip(self._state, state, strict=True))
        return trees.unflatten({path: named[path] for path in self._held})

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`; `kernels` are in `params` as one sample, which is used.

        What random layers draw in training is a function of the key.
        """
        del kernels
        flat, held = trees.flatten(params), trees.flatten(model_state)
        variables = self._model.non_trainable_variables
        state = [
            held[path] if path in held else _seed(key, number, variable)
            for number, (path, variable) in enumerate(
                zip(self._state, variables, strict=True)
            )
        ]
        trainable = [flat[path] for path in self._params]
        output, new = self._model.stateless_call(trainable, state, x, training=train)
        if not train:
            return output, model_state
        return output, self._without_seeds(new)

    def study(self, params: Params, model_state: ModelState, x: Any) -> None:
        """Learns from traces how the model applies its kernels, for `kernel_shapes`.

        Raises:
          InputError: in evaluation it draws random numbers, or its output for an
            example depends on the others in the batch.
        """
        found = tracing.uses(self._evaluated, params, model_state, x)
        self.kernel_shapes = {path: use.shape for path, use in found.items()}

        def evaluated(key: jax.Array, x: Any) -> Any:
            return self(params, model_state, x, train=False, key=key)[0]

        if switch.draws(evaluated, x):
            raise InputError(
                "model: with training=False it draws random numbers, so the same input "
                "is predicted differently each time, allowed: a model that does not."
            )
        if mixing.mixes(partial(evaluated, jax.random.key(0)), x):
            raise InputError(
                "model: with training=False its output for one example depends on the "
                "others in the batch, allowed: a model whose predictions do not."
            )

    def layers(self, params: Params, model_state: ModelState, x: Any) -> list[Layer]:
        """See `FlaxModel.layers`."""
        found = tracing.uses(self._evaluated, params, model_state, x)
        batch, flat = len(jax.tree.leaves(x)[0]), trees.flatten(params)
        return [
            Layer(path, use.shape, use.positions(batch))
            for path, use in found.items()
            if trees.is_kernel(path, flat[path])
        ]

    def refusals(
        self, params: Params, model_state: ModelState, masks: Masks, x: Any
    ) -> dict[str, str]:
        """See `FlaxModel.refusals`: all of them."""
        del params, model_state, x
        return dict.fromkeys(masks, "Keras layers multiply by themselves")

    def _evaluated(self, products: Any, params: Any, model_state: Any, x: Any) -> Any:
        del products
        return self(params, model_state, x, train=False, key=jax.random.key(0))[0]


def _seed(key: jax.Array, number: int, variable: Any) -> jax.Array:
    """What a random layer draws from, another for each."""
    dtype = jnp.dtype(variable.dtype)
    return jax.random.bits(jax.random.fold_in(key, number), variable.shape, dtype)


def from_keras(model: Any, x: Any) -> tuple[KerasModel, Params, ModelState]:
    """An apply function, parameters and state of a Keras 3 model on the JAX backend.

    Every matrix or filter that Keras calls "kernel" is Bayesian (Dense, Conv, most
    others). Use it with any method that has no members, factors or dropout of its own.
    The model itself is left as it is: what is trained are copies.

    Args:
      model: a functional, sequential or subclassed `keras.Model`, with logits as its
        output.
      x: an example input ``[batch, ...]``, or a pytree of them as the model takes it.

    Returns:
      What `fit` takes as a network.

    Raises:
      InputError: another backend than JAX, no Keras model, one that ends in a softmax
        or sigmoid or has regularizers, which `fit` would not see, or one whose
        predictions depend on their batch.
    """
    keras = optional.load("keras", "from_keras", "keras")
    backend = keras.backend.backend()
    if backend != "jax":
        raise InputError(
            f"model: got one on Keras' backend {backend}, allowed: jax; set "
            "KERAS_BACKEND=jax before Keras is imported."
        )
    if not isinstance(model, keras.Model):
        raise InputError(f"model: got {type(model).__name__}, allowed: a keras.Model.")
    x = jax.tree.map(jnp.asarray, x)
    if not model.built:
        model(x)
    _check_alone(model)
    found = KerasModel(model)
    params, model_state = found.init()
    found.study(params, model_state, x)
    return found, params, model_state


def _check_alone(model: Any) -> None:
    """Refuses what would be trained otherwise than Keras does, without a word."""
    last = model.layers[-1] if model.layers else None
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    activation = activation or type(last).__name__.lower()  # a layer of its own
    if activation in ("softmax", "sigmoid", "log_softmax"):
        raise InputError(
            f"model: got one whose last layer ends in {activation}, allowed: logits; "
            "leave the activation out, for the likelihood has it."
        )
    for variable in model.trainable_variables:
        if getattr(variable, "regularizer", None) is not None:
            raise InputError(
                f"model: got a regularizer of {variable.path}, allowed: none; a prior "
                "takes its place, or the optimizer's weight decay."
            )

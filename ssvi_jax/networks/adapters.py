"""Any unmodified Flax model, linen or nnx, as an `ApplyFn`.

Layers of both libraries that multiply through a replaceable function get the library's
own product. Layers of any other kind see the sampled weights, so every Bayesian kernel
is stochastic whichever layer owns it.
"""

import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.keys import check_key
from ssvi_jax.core.types import ModelState, Params
from ssvi_jax.networks.flax_model import TRAIN_ARGUMENTS, Example, FlaxModel
from ssvi_jax.networks.keras_model import KerasModel
from ssvi_jax.networks.layers import Layer
from ssvi_jax.networks.linen_model import LinenModel
from ssvi_jax.networks.nnx_model import NnxModel

__all__ = [
    "TRAIN_ARGUMENTS",
    "Example",
    "FlaxModel",
    "Layer",
    "LinenModel",
    "NnxModel",
    "from_flax",
]


def model_of(module: Any) -> Any:
    """The apply function of a Flax module, or of a Keras model.

    Raises:
      InputError: neither.
    """
    if isinstance(module, nnx.Module):
        return NnxModel(module)
    if isinstance(module, nn.Module):
        return LinenModel(module)
    keras = sys.modules.get("keras")  # whoever has one of its models has imported it
    if keras is not None and isinstance(module, keras.Model):
        return KerasModel(module)
    raise InputError(
        f"module: got {type(module).__name__}, allowed: a flax.linen or flax.nnx "
        "module; for anything else write a function with types.ApplyFn's signature."
    )


def from_flax(
    module: nn.Module | nnx.Module,
    x: Any = None,
    *,
    key: jax.Array | None = None,
) -> tuple[FlaxModel, Params, ModelState]:
    """An apply function, parameters and running statistics of any Flax model.

    The parameters of an nnx module are its own, of a linen module they are drawn. They
    are full parameters: `VI.init` draws the means of Bayesian kernels anew, unless it
    is told to start from these (``means=params``), as of a trained network.

    Args:
      module: a `flax.linen` module (unbound) or a `flax.nnx` module.
      x: an example input ``[batch, ...]``, or a pytree of them (a dictionary, a tuple),
        which the module gets as it is, as its first argument. Needed for linen. An nnx
        module is asked what its layers say of themselves without it, and taken to apply
        them in the order in which it defines them.
      key: random key of the initialization; needed for linen.

    Raises:
      InputError: not a Flax module, or `x` or `key` missing for a linen module; or, as
        far as a trace for `x` shows it, a prediction would depend on its batch, because
        the module is not told that it does not train.
    """
    if key is not None:
        check_key("key", key)
    x = None if x is None else jax.tree.map(jnp.asarray, x)
    model = model_of(module)
    if isinstance(model, KerasModel):
        raise InputError(
            "module: got a Keras model, allowed: a flax.linen or flax.nnx module; for "
            "this one there is ssvi_jax.from_keras(model, x[:1])."
        )
    if isinstance(model, NnxModel):
        params, model_state = model.init()
    elif x is None or key is None:
        raise InputError("x, key: both are needed to initialize a flax.linen module.")
    else:
        params, model_state = model.init(key, x)
    if x is not None:
        model.study(params, model_state, x)
    return model, params, model_state

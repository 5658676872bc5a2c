"""A network as users pass it on: function, parameters, running statistics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from ssvi_jax.core.errors import InputError


def check_network(got: Any) -> None:
    """Refuses what is not the three things that `from_flax` returns.

    Raises:
      InputError: a module, a trained network, or anything else.
    """
    make = "what from_flax(module, x[:1], key=jax.random.key(0)) returns"
    if not isinstance(got, (tuple, list)) or len(got) != 3:
        what = f"a {type(got).__name__}"
        if isinstance(got, (tuple, list)):
            what += f" of {len(got)}"
        if hasattr(got, "apply_fn") and hasattr(got, "params"):
            make += (
                "; of a trained network (fit.apply_fn, fit.params, "
                "fit.weights.model_state)"
            )
        raise InputError(f"network: got {what}, allowed: {make}.")
    function, params, _ = got
    if isinstance(function, (nn.Module, nnx.Module)) or not callable(function):
        raise InputError(
            f"network: got a {type(function).__name__} as its function, allowed: "
            f"{make}."
        )
    if not isinstance(params, Mapping):
        raise InputError(
            f"network: got a {type(params).__name__} as its parameters, allowed: "
            f"{make}."
        )


@contextmanager
def taken_by(argument: str, example: Any, do: str) -> Iterator[None]:
    """Says of inputs that a network fails on them, in the block.

    Args:
      argument: name of the inputs.
      example: arrays ``[n, ...]``, or their shapes and types.
      do: what to do, to end the message.

    Raises:
      InputError: the block raised anything else.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever a module of the user's own raises
        shapes = [str(list(leaf.shape[1:])) for leaf in jax.tree.leaves(example)]
        first = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{argument}: got inputs of {', '.join(shapes)} an example, on which the "
            f"network fails ({type(error).__name__}: {first}); {do}."
        ) from error

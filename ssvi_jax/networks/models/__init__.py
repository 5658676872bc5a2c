"""The networks of the experiments: plain flax.linen modules, found by name.

They know nothing of masks or posteriors: any other linen model serves as well. All
take images ``[batch, height, width, channels]`` (the MLP and the LSTM also series
``[batch, time, features]``) and return logits ``[batch, num_classes]``. Sorted kernel
paths are in the order in which the network first applies them, within a residual block
the shortcut last.
"""

import numbers
from collections.abc import Callable

from flax import linen as nn

from ssvi_jax.core.errors import InputError, check_choice, check_positive
from ssvi_jax.networks.models import (
    airbench,
    bottleneck,
    convnet,
    lstm,
    mlp,
    resnet,
    wide_resnet,
)

__all__ = ["MODELS", "OF_SERIES", "build"]

MODELS: dict[str, Callable[[int, float], nn.Module]] = {
    "airbench": airbench.airbench,
    "convnet": convnet.convnet,
    "lstm": lstm.lstm,
    "mlp": mlp.mlp,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": bottleneck.resnet50,
    "wrn28": wide_resnet.wrn28,
}
"""Model name → function of (num_classes, width)."""

OF_SERIES = ("lstm", "mlp")
"""Models that take a series ``[batch, time, features]``."""


def build(name: str, *, num_classes: int, width: float = 1.0) -> nn.Module:
    """Returns an uninitialised linen model with ``__call__(x, *, train: bool)``.

    Args:
      name: a key of `MODELS`.
      num_classes: number of logits, at least 1.
      width: factor on the number of channels (or hidden units) of every hidden layer;
        products are rounded, and at least 1.

    Raises:
      InputError: for an unknown name, a number of classes that is not a whole number
        of at least 1, or a width that is not a finite number above 0.
    """
    check_choice("model", name, MODELS)
    check_positive("width", width)
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise InputError(
            f"num_classes: got {num_classes!r}, allowed: a whole number of at least 1."
        )
    return MODELS[name](num_classes, width)

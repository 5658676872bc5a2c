"""Multilayer perceptron: the smallest network that everything can be tried on."""

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers with ReLU between them; the input is flattened.

    Attributes:
      hidden_sizes: number of units of each hidden layer.
      num_classes: number of logits.
    """

    hidden_sizes: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[batch, ...]`` to logits ``[batch, num_classes]``.

        `train` changes nothing here; it is taken so that all models are called alike.
        """
        del train
        x = x.reshape(x.shape[0], -1)
        for number, size in enumerate(self.hidden_sizes, start=1):
            x = nn.relu(nn.Dense(size, name=f"dense{number}")(x))
        return nn.Dense(self.num_classes, name="linear")(x)


def mlp(num_classes: int, width: float = 1.0) -> MLP:
    """Two hidden layers of 256 units times `width`."""
    size = max(1, round(256 * width))
    return MLP(hidden_sizes=(size, size), num_classes=num_classes)

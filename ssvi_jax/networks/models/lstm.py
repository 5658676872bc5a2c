"""A long short-term memory network for series, every product of it a Dense layer.

Hochreiter and Schmidhuber 1997, with forget gates (Gers et al. 2000) that begin open
(Jozefowicz et al. 2015). Time is unrolled instead of scanned: a layer inside a scan
would be seen as one trace, without rank-1 factors or sparse kernels of its own (see
`networks.layers`). A layer's input product is one for all steps, so only the small
recurrent ones repeat.

What is random of a kernel is drawn anew at every step with local reparameterization
(and the signs with flipout), as at every pixel of a convolution. With weight sampling a
draw holds for the whole series (Fortunato et al. 2017, arXiv 1704.02798), as in every
prediction.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class LSTM(nn.Module):
    """Layers of LSTM cells, and a dense layer on the last state of the last one.

    Attributes:
      hidden_sizes: units of each layer.
      num_classes: number of logits.
    """

    hidden_sizes: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[batch, time, ...]`` to logits ``[batch, num_classes]``.

        What is behind the time axis is flattened, so an image is read row by row.
        `train` changes nothing here; it is taken so that all models are called alike.
        """
        del train
        x = x.reshape(*x.shape[:2], -1)
        for number, units in enumerate(self.hidden_sizes, start=1):
            into = nn.Dense(
                4 * units, bias_init=_open_gates, name=f"cell{number}_input"
            )
            again = nn.Dense(4 * units, use_bias=False, name=f"cell{number}_recurrent")
            x = _run(into(x), again)
        return nn.Dense(self.num_classes, name="linear")(x[:, -1])


def _run(inputs: jax.Array, again: nn.Dense) -> jax.Array:
    """Hidden states ``[batch, time, units]`` of one layer, from zero states.

    Args:
      inputs: ``[batch, time, 4 units]``, what the series adds to the gates.
      again: maps a hidden state to what it adds.
    """
    hidden = cell = jnp.zeros((len(inputs), inputs.shape[2] // 4), inputs.dtype)
    states = []
    # Split, not indexed: the gradient of an index is an array of the whole series.
    for step in jnp.split(inputs, inputs.shape[1], axis=1):
        gates = jnp.squeeze(step, 1) + again(hidden)
        new, forget, write, read = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(forget) * cell + nn.sigmoid(write) * jnp.tanh(new)
        hidden = nn.sigmoid(read) * jnp.tanh(cell)
        states.append(hidden)
    return jnp.stack(states, axis=1)


def _open_gates(key, shape, dtype=jnp.float32) -> jax.Array:
    """Zeros, and ones for the forget gates: the second quarter."""
    del key
    quarter = jnp.arange(shape[0]) // (shape[0] // 4)
    return (quarter == 1).astype(dtype)


def lstm(num_classes: int, width: float = 1.0) -> LSTM:
    """Two layers of 64 units times `width`."""
    units = max(1, round(64 * width))
    return LSTM((units, units), num_classes)

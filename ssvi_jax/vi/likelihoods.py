"""What a network's output says of the labels."""

import jax
import jax.numpy as jnp
import optax


def categorical_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Log softmax probability (nats) of integer labels ``[batch]``."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def accuracy(output: jax.Array, labels: jax.Array) -> jax.Array | None:
    """Of one output an example, or the mean over members ``[batch, K, classes]``.

    A fraction; None where labels are no integers.
    """
    between = output.ndim - labels.ndim - 1
    if not jnp.issubdtype(labels.dtype, jnp.integer) or between not in (0, 1):
        return None
    labels = labels.reshape(*labels.shape, *(1,) * between)
    return jnp.mean(jnp.argmax(output, axis=-1) == labels)

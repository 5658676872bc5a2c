"""Running statistics gathered again, for the network that predicts.

In training a batch norm follows the batches of networks that change and are noisy. Once
the posterior is final, its statistics are those of the network whose predictions are
wanted: a forward pass on training inputs gives those of a batch, and their average over
batches is taken (as SWA does, Izmailov et al. 2018, arXiv 1803.05407, section 3.2).

No norm is known by name. What a training step leaves of running statistics is affine in
what they were, new = a · old + b, so from old = 0 and old = 1 follow a and b, and the
value that would not move, b / (1 - a), is the batch's own.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.rows import num_rows
from ssvi_jax.core.types import (
    ApplyFn,
    Augment,
    Masks,
    ModelState,
    Subspace,
    Weights,
)
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.execution import backend_of
from ssvi_jax.vi.forward import forward


def gathered(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks | Subspace,
    x: Any,
    *,
    key: jax.Array,
    sampled: bool = True,
    augment: Augment | None = None,
    batch_size: int = 500,
    num_batches: int = 20,
    backend: str = "auto",
) -> ModelState:
    """The running statistics of a posterior's network.

    Args:
      apply_fn: the network, of one member.
      weights: posterior, parameters, and the statistics of training.
      masks: the selection, or its `masks.to_subspace`.
      x: training inputs ``[n, ...]``, or a pytree of them.
      key: random key of the rows and of the draws.
      sampled: statistics of draws of the weights, one for each batch; else those of the
        mean network.
      augment: random transformation of the inputs, that of training: what the weights
        were trained under are the statistics of transformed inputs.
      batch_size: inputs of a forward pass, at most n.
      num_batches: how many are averaged, without repetition at most n / batch_size.
      backend: what multiplies, see `ops.backend.choose`.

    Returns:
      The state with the statistics replaced, and what else is in it as it was.
    """
    number = num_rows((x, x))
    batch_size = min(batch_size, number)
    seed = np.asarray(jax.random.bits(key)).item()
    order = np.random.default_rng(seed).permutation(number)
    is_packed = isinstance(masks, Subspace)
    subspace = masks if is_packed else masks_lib.to_subspace(masks, weights.posterior)
    of_batch = partial(
        _of_batch,
        apply_fn,
        augment,
        "weight_sample" if sampled else "mean",
        backend_of(backend, apply_fn, subspace),
    )
    old, totals, used = weights.model_state, None, 0
    for i in range(min(num_batches, number // batch_size)):
        rows = np.sort(order[i * batch_size : (i + 1) * batch_size])
        batch = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), x)
        found = of_batch(weights, subspace, batch, jax.random.fold_in(key, i))
        # Changes are averaged, so that what does not change keeps every bit.
        found = jax.tree.map(jnp.subtract, found, old)
        totals = found if totals is None else jax.tree.map(jnp.add, totals, found)
        used += 1
    return jax.tree.map(lambda o, t: (o + t / used).astype(o.dtype), old, totals)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _of_batch(
    apply_fn: ApplyFn,
    augment: Augment | None,
    estimator: str,
    backend: str,
    weights: Weights,
    subspace: Subspace,
    x: Any,
    key: jax.Array,
) -> ModelState:
    """A batch's own statistics; what does not follow batches stays as it is."""
    x = x if augment is None else augment(x, jax.random.fold_in(key, 1))

    def after(model_state):
        return forward(
            *(apply_fn, weights._replace(model_state=model_state), subspace, x),
            key=key,
            estimator=estimator,
            train=True,
            backend=backend,
        )[1]

    old = weights.model_state
    follows = jax.tree.map(_follows, after(old), old)

    def replaced(value):
        return jax.tree.map(
            lambda follows, leaf: jnp.where(follows, jnp.full_like(leaf, value), leaf),
            *(follows, old),
        )

    at_zero, at_one = after(replaced(0.0)), after(replaced(1.0))

    def own(follows, old, b, sum_of_both):
        kept = jnp.minimum(sum_of_both - b, 1 - 1e-6)
        return jnp.where(follows, b / (1 - kept), old)

    return jax.tree.map(own, follows, old, at_zero, at_one)


def _follows(new: jax.Array, old: jax.Array) -> jax.Array:
    """Whether a forward pass moved it: a number that is not the same everywhere."""
    if not jnp.issubdtype(jnp.result_type(old), jnp.floating):
        return jnp.array(False)
    return jnp.any(new != old)

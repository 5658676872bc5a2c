"""One forward pass of a network with a packed posterior."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from ssvi_jax.core import trees
from ssvi_jax.core.types import ApplyFn, Augment, ModelState, Subspace, Weights
from ssvi_jax.ops import fuse_training
from ssvi_jax.vi import posterior as posterior_lib


def forward(
    apply_fn: ApplyFn,
    weights: Weights,
    subspace: Subspace,
    x: jax.Array,
    *,
    key: jax.Array,
    estimator: str,
    train: bool,
    probes: Mapping[str, jax.Array] | None = None,
    backend: str = "xla",
) -> tuple[jax.Array, ModelState]:
    """One stochastic (or mean) forward pass.

    Args:
      apply_fn: the network.
      weights: packed posterior, deterministic parameters, running statistics.
      subspace: the selected coordinates.
      x: inputs ``[batch, ...]``.
      key: random key.
      estimator: "local_reparam" (Kingma et al. 2015: Gaussian pre-activations with
        independent noise per example; layers that cannot do so use the weight sample),
        "flipout" (Wen et al. 2018: one draw, its signs flipped for each example; the
        same layers), "weight_sample" (one draw of the weights for the batch), or
        "mean".
      train: forwarded to the network.
      probes: full-shape zeros added to the means, to differentiate with respect to.
      backend: what multiplies; see `types.PackedKernel`.

    Returns:
      Logits and the new running statistics.
    """
    key_draw = None if estimator == "mean" else jax.random.fold_in(key, 0)
    kernels = posterior_lib.packed_sample(
        weights.posterior, subspace, key_draw, probes, backend=backend
    )
    draws = posterior_lib.full_kernels(kernels)
    extra = {}
    if estimator == "local_reparam":
        extra["kernels"] = posterior_lib.kernels(
            weights.posterior, subspace, probes, backend=backend
        )
    elif estimator == "flipout":
        assert key_draw is not None
        extra["kernels"] = posterior_lib.flipout_kernels(
            weights.posterior, subspace, key_draw, probes, backend=backend
        )
    elif backend == "sparse":
        extra["kernels"] = kernels
    apply = partial(
        apply_fn,
        trees.merge(weights.params, draws),
        weights.model_state,
        x,
        train=train,
        key=jax.random.fold_in(key, 1),
        **extra,
    )
    return fuse_training.evaluate(apply) if train and backend == "sparse" else apply()


def ordered_shapes(
    apply_fn: ApplyFn, kernels: Mapping[str, jax.Array]
) -> dict[str, tuple[int, ...]]:
    """Path → full shape of kernels, in the order in which the network applies them.

    Args:
      apply_fn: the network; kernels that it does not know follow, sorted by name.
      kernels: path → full kernel.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in kernels.items()}
    known = getattr(apply_fn, "kernel_shapes", {})
    fitting = {p: shape for p, shape in known.items() if shapes.get(p) == shape}
    return fitting | {p: s for p, s in shapes.items() if p not in fitting}


def output_shape(
    apply_fn: ApplyFn,
    weights: Weights,
    subspace: Subspace,
    inputs: Any,
    size: int,
    augment: Augment | None,
    estimator: str,
    backend: str,
) -> tuple[int, ...]:
    """The shape of what a network returns in training; nothing is run.

    Args:
      apply_fn: the network.
      weights: see `forward`, as is the rest.
      subspace: likewise.
      inputs: pytree of arrays ``[n, ...]``, of which only shape and type are read.
      size: how many of them make a batch.
      augment: random transformation of a batch.
      estimator: likewise.
      backend: likewise.
    """
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), inputs
    )

    def output(x):
        key = jax.random.key(0)
        x = x if augment is None else augment(x, key)
        return forward(
            *(apply_fn, weights, subspace, x),
            key=key,
            estimator=estimator,
            train=True,
            backend=backend,
        )[0]

    return jax.eval_shape(output, batch).shape

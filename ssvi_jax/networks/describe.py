"""What a network is made of, and how its kernels are trained: a table for a person."""

import math
from collections.abc import Sequence
from typing import Any

from ssvi_jax.core import trees
from ssvi_jax.core.types import ApplyFn, Masks, ModelState, Params
from ssvi_jax.networks.layers import Layer
from ssvi_jax.networks.learned_noise import WithNoise
from ssvi_jax.networks.structured import Structured


def layers_of(
    apply_fn: ApplyFn, params: Params, model_state: ModelState, example: Any
) -> list[Layer]:
    """The products of a network in the order they run.

    Of a function that does not tell, its kernels in the order of their names, as if
    each were applied once.

    Args:
      apply_fn: the network.
      params: its parameters.
      model_state: its running statistics.
      example: shapes and types of inputs.
    """
    if isinstance(apply_fn, WithNoise):
        apply_fn = apply_fn.network
    if isinstance(apply_fn, Structured):
        return apply_fn.layers(params, model_state)
    if hasattr(apply_fn, "layers"):
        return apply_fn.layers(params, model_state, example)  # type: ignore[attr-defined]
    kernels, _ = trees.split(params)
    return [Layer(path, tuple(leaf.shape), 1) for path, leaf in kernels.items()]


def describe(layers: Sequence[Layer], masks: Masks) -> str:
    """A table of kernels: path, shape, weights kept, density.

    Args:
      layers: see `layers_of`.
      masks: the selection; a kernel that has none is dense.
    """
    rows = [("kernel", "shape", "kept", "density")]
    for layer in layers:
        size = math.prod(layer.shape)
        mask = masks.get(layer.path)
        kept = size if mask is None else int(mask.sum())
        shape = "×".join(map(str, layer.shape))
        rows.append((layer.path, shape, f"{kept:,}", f"{kept / size:.4f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

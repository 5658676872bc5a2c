"""What a network is made of, and how its kernels are trained: a table for a person."""

import math
from collections.abc import Sequence
from typing import Any

from ssvi_jax.core import trees
from ssvi_jax.core.types import ApplyFn, Masks, ModelState, Params
from ssvi_jax.networks.layers import Layer
from ssvi_jax.networks.learned_noise import WithNoise
from ssvi_jax.networks.structured import Structured
from ssvi_jax.networks.triple import check_network
from ssvi_jax.ops import backend as backends


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


def describe(
    network: tuple[ApplyFn, Params, ModelState],
    example: Any,
    masks: Masks | None = None,
    *,
    backend: str = "auto",
) -> str:
    """A table of kernels: path, shape, weights kept, density; and what multiplies.

    Args:
      network: function, parameters and running statistics, as of `from_flax`.
      example: inputs ``[batch, ...]``, or their shapes and types.
      masks: kernel path → selection; a kernel that has none is dense.
      backend: as of `Execution`: where the sparse kernels are taken, the table says
        which kernels they leave to XLA, as dense products, and why.

    Raises:
      InputError: what is not such a network, or "sparse" where the sparse kernels
        cannot run.
    """
    check_network(network)
    masks = masks or {}
    layers = layers_of(*network, example)
    sizes = {layer.path: math.prod(layer.shape) for layer in layers}
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    total = sum(math.prod(mask.shape) for mask in masks.values())
    density = sum(kept.values()) / total if total else 1.0
    chosen = backends.choose(backend, density) if masks else "xla"
    refused = _refusals(network, example, masks) if chosen == "sparse" else {}
    rows = [("kernel", "shape", "kept", "density", "")]
    for layer in layers:
        number, path = sizes[layer.path], layer.path
        here = kept.get(path, number)
        shape = "×".join(map(str, layer.shape))
        why = f"dense product: {refused[path]}" if path in refused else ""
        rows.append((path, shape, f"{here:,}", f"{here / number:.4f}", why))
    return "\n".join([_columns(rows), _summary(backend, chosen, density)])


def _refusals(
    network: tuple[ApplyFn, Params, ModelState], example: Any, masks: Masks
) -> dict[str, str]:
    """Kernel path → why the sparse kernels do not take it; none of a plain function."""
    apply_fn, params, model_state = network
    if isinstance(apply_fn, WithNoise):
        apply_fn = apply_fn.network
    if isinstance(apply_fn, Structured):
        return apply_fn.refusals(params, model_state, masks)
    if hasattr(apply_fn, "refusals"):
        return apply_fn.refusals(params, model_state, masks, example)  # type: ignore[attr-defined]
    return {}


def _summary(asked: str, chosen: str, density: float) -> str:
    """What multiplies, and why not the sparse kernels where it is not they."""
    if chosen == "sparse":
        return "backend sparse: kernels that visit kept weights only"
    why = backends.why_xla(asked, density)
    return f"backend xla: dense products{why and f', as {why}'}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

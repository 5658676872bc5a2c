"""What a network is made of, and how its kernels are trained: a table for a person."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.core.rows import as_arrays
from ssvi_jax.core.types import ApplyFn, Masks, ModelState, Params
from ssvi_jax.networks.layers import Layer
from ssvi_jax.networks.learned_noise import WithNoise
from ssvi_jax.networks.structured import Structured
from ssvi_jax.networks.triple import check_network, taken_by
from ssvi_jax.ops import backend as backends
from ssvi_jax.vi import checks
from ssvi_jax.vi import masks as masks_lib


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
      masks: kernel path → boolean array of its full shape, for every kernel (all True
        of one that stays dense); None, or no kernel at all: the network is dense.
      backend: as of `Execution`: where the sparse kernels are taken, the table says
        which kernels they leave to XLA, as dense products, and why.

    Raises:
      InputError: what is not such a network, inputs that it does not take, masks of
        another network or that keep nothing, an unknown backend, or "sparse" where the
        sparse kernels cannot run.
    """
    check_network(network)
    check_choice("backend", backend, backends.BACKENDS)
    example = _example(example)
    do = "give inputs like those of from_flax(module, x[:1])"
    with taken_by("example", example, do):
        layers = layers_of(*network, example)
    masks = {} if masks is None else masks
    _check_masks(masks, layers, network[1])
    sizes = {layer.path: math.prod(layer.shape) for layer in layers}
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    total = sum(math.prod(mask.shape) for mask in masks.values())
    density = sum(kept.values()) / total if total else 1.0
    chosen = backends.choose(backend, density) if masks else "xla"
    refused = {}
    if chosen == "sparse":
        with taken_by("example", example, do):
            refused = _refusals(network, example, masks)
    rows = [("kernel", "shape", "kept", "density", "")]
    for layer in layers:
        number, path = sizes[layer.path], layer.path
        here = kept.get(path, number)
        shape = "×".join(map(str, layer.shape))
        why = f"dense product: {refused[path]}" if path in refused else ""
        rows.append((path, shape, f"{here:,}", f"{here / number:.4f}", why))
    return "\n".join([_columns(rows), _summary(backend, chosen, density)])


def _example(example: Any) -> Any:
    """Inputs, or their shapes and types, that have a batch axis."""
    example = as_arrays("example", example)
    leaves = jax.tree.leaves(example)
    if not leaves or not all(leaf.shape for leaf in leaves):
        what = "no array" if not leaves else "an array without axes"
        raise InputError(
            f"example: got {what}, allowed: inputs [batch, ...], as x[:1]."
        )
    return example


def _check_masks(masks: Masks, layers: Sequence[Layer], params: Params) -> None:
    """Refuses masks of another network, or that keep nothing; no masks pass."""
    if isinstance(masks, Mapping) and not masks:
        return
    shapes = {layer.path: tuple(layer.shape) for layer in layers}
    if isinstance(masks, Mapping):  # a kernel may be there and not be applied
        kernels, _ = trees.split(params)
        rest = {p: tuple(leaf.shape) for p, leaf in kernels.items() if p in masks}
        shapes = rest | shapes
    checks.check_masks(masks, shapes)
    for path, mask in masks.items():
        masks_lib.check_boolean(path, mask)
    if not any(mask.any() for mask in masks.values()):
        raise InputError(
            "masks: got none that keeps a weight, allowed: True where a weight is kept."
        )


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

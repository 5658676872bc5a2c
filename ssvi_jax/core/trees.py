"""Nested parameter dictionaries as flat path → array mappings, and back."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ssvi_jax.core.types import Params

Predicate = Callable[[str, jax.Array], bool]


def join(names: Iterable[object]) -> str:
    """The path of nested names; a "/" in a name becomes "~1" (as in RFC 6901)."""
    return "/".join(str(n).replace("~", "~0").replace("/", "~1") for n in names)


def flatten(tree: Mapping[str, Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Flattens nested dictionaries to ``{"a/b/kernel": leaf}``, keys sorted."""
    flat = {}
    for name in sorted(tree):
        value, path = tree[name], (*names, name)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[join(path)] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`, for names that are strings."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        names = (n.replace("~1", "/").replace("~0", "~") for n in path.split("/"))
        *parents, name = names
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def is_kernel(path: str, leaf: jax.Array) -> bool:
    """The default choice of Bayesian weights: every matrix or filter called "kernel".

    Biases and normalization scales stay deterministic.
    """
    return path.rsplit("/", 1)[-1] == "kernel" and leaf.ndim >= 2


def split(
    params: Params, predicate: Predicate = is_kernel
) -> tuple[dict[str, jax.Array], Params]:
    """Splits parameters into the chosen leaves (flat) and the rest (nested)."""
    flat = flatten(params)
    chosen = {path: leaf for path, leaf in flat.items() if predicate(path, leaf)}
    rest = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return chosen, unflatten(rest)


def merge(rest: Params, chosen: Mapping[str, jax.Array]) -> Params:
    """Inverse of `split`."""
    return unflatten(flatten(rest) | dict(chosen))

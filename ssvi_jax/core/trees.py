"""Trees as flat path → leaf mappings, and nested dictionaries back from them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ssvi_jax.core.types import Params

Predicate = Callable[[str, jax.Array], bool]


def join(names: Iterable[object]) -> str:
    """The path of nested names; a "/" in a name becomes "~1" (as in RFC 6901)."""
    return "/".join(str(n).replace("~", "~0").replace("/", "~1") for n in names)


def unjoin(path: str) -> list[str]:
    """The nested names of a path; inverse of `join`, for names that are strings."""
    return [n.replace("~1", "/").replace("~0", "~") for n in path.split("/")]


def flatten(
    tree: Any,
    is_leaf: Callable[[Any], bool] | None = lambda node: not isinstance(node, Mapping),
) -> dict[str, Any]:
    """Flattens a tree to ``{"a/b/kernel": leaf}``, the names of a dictionary sorted.

    Args:
      tree: nested dictionaries, or any pytree, whose fields and positions then are
        names too.
      is_leaf: what to leave whole: everything but dictionaries; None: what JAX does.
    """
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]
    return {join(map(_name, path)): leaf for path, leaf in found}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`, for names that are strings."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = unjoin(path)
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


def _name(entry: Any) -> str:
    """A key, field or position on JAX's path to a leaf."""
    return jax.tree_util.keystr((entry,), simple=True)

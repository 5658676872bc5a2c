"""A pytree on the host, and back, bit for bit.

What a checkpoint needs of a training state: a copy that no later donation can touch,
and a table of names, dtypes and shapes to compare with another state's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError

_MAX_LINES = 12

Arrays = dict[str, np.ndarray]
"""Path of a leaf (`trees.flatten`) → its values."""

Leaves = dict[str, tuple[str, list[int]]]
"""Path of a leaf → its dtype and shape."""


def on_host(tree: Any) -> Any:
    """The tree with NumPy copies of its leaves, random keys as their raw bits.

    Args:
      tree: pytree of arrays, Python numbers and new-style random keys.
    """
    host = jax.device_get(jax.tree.map(_key_bits, tree))
    # On a CPU what `device_get` returns can be a view of the buffer that training
    # donates next: this copy is what makes the snapshot a snapshot.
    return jax.tree.map(np.array, host)


def named(tree: Any) -> Arrays:
    """The arrays of a tree by their paths."""
    return trees.flatten(tree, is_leaf=None)


def table(arrays: Mapping[str, Any]) -> Leaves:
    """What the arrays are."""
    return {path: (str(a.dtype), list(a.shape)) for path, a in arrays.items()}


def rebuild(
    like: Any,
    arrays: Arrays,
    any_size: Callable[[str], bool] = lambda path: False,
) -> Any:
    """The pytree whose arrays these are.

    Args:
      like: pytree with their structure, shapes and dtypes. Where a leaf is a jax array
        so is the result, else NumPy, which may be the very array.
      arrays: those of an `on_host` tree.
      any_size: which leaves, by path, may have other lengths than in `like`.

    Raises:
      InputError: structure, a shape or a dtype differs; lists what.
    """
    wanted = named(jax.tree.map(_key_bits, like))

    def described(path: str, dtype: str, shape: list[int]) -> str:
        return f"{dtype}[{'?, ' * len(shape)}]" if any_size(path) else f"{dtype}{shape}"

    saved, now = (
        {path: described(path, *leaf) for path, leaf in leaves.items()}
        for leaves in (table(arrays), table(wanted))
    )
    if unlike := differences(saved, now, lambda path: "/".join(trees.unjoin(path))):
        raise InputError(
            f"The saved arrays are of another model or method:\n{unlike}\n"
            "Use the settings it was trained with, or choose another folder."
        )
    values = map(_as_kind_of, jax.tree.leaves(like), [arrays[path] for path in wanted])
    return jax.tree.unflatten(jax.tree.structure(like), values)


def same(some: Arrays, others: Arrays) -> bool:
    """Whether both have the same paths, dtypes, shapes and bits."""
    return table(some) == table(others) and all(
        np.array_equal(_as_bytes(array), _as_bytes(others[path]))
        for path, array in some.items()
    )


def to_bytes(arrays: Arrays) -> bytes:
    """All values one after the other, in order of path."""
    return b"".join(_as_bytes(arrays[path]).tobytes() for path in sorted(arrays))


def from_bytes(data: bytes, leaves: Leaves) -> Arrays:
    """Inverse of `to_bytes`; `leaves` is the `table`, perhaps by way of JSON."""
    arrays, start = {}, 0
    for path in sorted(leaves):
        dtype, shape = leaves[path]
        array = np.empty(shape, dtype)
        _as_bytes(array)[:] = np.frombuffer(data, np.uint8, array.nbytes, start)
        arrays[path] = array
        start += array.nbytes
    return arrays


def differences(
    saved: Mapping[str, str],
    now: Mapping[str, str],
    shown: Callable[[str], str] = str,
) -> str:
    """One line a differing entry, its name as it is to be shown; a dozen at most."""
    names = [n for n in dict.fromkeys([*saved, *now]) if saved.get(n) != now.get(n)]
    lines = [
        f"  {shown(n)}: saved {saved.get(n, 'nothing')}, now {now.get(n, 'nothing')}"
        for n in names[:_MAX_LINES]
    ]
    if len(names) > _MAX_LINES:
        lines.append(f"  and {len(names) - _MAX_LINES} more")
    return "\n".join(lines)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """uint8 ``[n]``, a view if the array is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _as_kind_of(like: Any, array: np.ndarray) -> Any:
    """The array as a random key, a jax array or NumPy, as `like` is."""
    if not isinstance(like, jax.Array):
        return array
    # jnp.array copies: a jax array that shares NumPy's memory must not be donated.
    value = jnp.array(array)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(value, impl=str(jax.random.key_impl(like)))
    return value


def _key_bits(leaf: Any) -> Any:
    """The raw bits of a new-style random key; anything else as an array."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)

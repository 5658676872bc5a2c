"""A pytree as bytes on the host, and back, bit for bit.

What a checkpoint needs of a training state: a copy that no later donation can touch,
a table of names, dtypes and shapes to compare with another state's, and a checksum.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.errors import InputError

Leaves = dict[str, tuple[str, list[int]]]
"""Path of a leaf, joined with "/" → its dtype and shape."""


def to_bytes(tree: Any) -> tuple[np.ndarray, Leaves]:
    """Copies a pytree into memory of its own.

    Args:
      tree: nested dictionaries, named tuples and the like of arrays, Python numbers
        and new-style random keys.

    Returns:
      uint8 ``[n]``: the leaves' bytes in order of path, booleans as packed bits; and
      the table that says what they are.
    """
    host = _named(jax.device_get(jax.tree.map(_key_bits, tree)))
    leaves = {path: (str(host[path].dtype), list(host[path].shape)) for path in host}
    data = np.empty(sum(_num_bytes(*leaf) for leaf in leaves.values()), np.uint8)
    start = 0
    for path in sorted(host):
        leaf = np.ascontiguousarray(host[path]).reshape(-1)
        stored = np.packbits(leaf) if leaf.dtype == bool else leaf.view(np.uint8)
        # On a CPU `leaf` can be a view of the buffer that training donates next: this
        # copy is what makes the snapshot a snapshot.
        data[start : start + stored.size] = stored
        start += stored.size
    return data, leaves


def from_bytes(
    like: Any,
    data: np.ndarray,
    leaves: Leaves,
    any_size: Callable[[str], bool] = lambda path: False,
) -> Any:
    """Rebuilds a pytree.

    Args:
      like: pytree with the saved structure, shapes and dtypes. Where a leaf is a jax
        array so is the result, else NumPy; it shares no memory with `data`.
      data: as `to_bytes` returned it.
      leaves: as `to_bytes` returned it, perhaps by way of JSON.
      any_size: which leaves, by path, may have other lengths than in `like`.

    Raises:
      InputError: structure, a shape or a dtype differs; lists what.
    """
    wanted = _named(jax.tree.map(_key_bits, like))

    def described(path: str, dtype: Any, shape: Any) -> str:
        return f"{dtype}[{'?, ' * len(shape)}]" if any_size(path) else f"{dtype}{shape}"

    saved = {path: described(path, *leaf) for path, leaf in leaves.items()}
    now = {p: described(p, leaf.dtype, [*leaf.shape]) for p, leaf in wanted.items()}
    if unlike := differences(saved, now):
        raise InputError(
            f"The saved arrays are of another model or method:\n{unlike}\n"
            "Use the settings it was trained with, or choose another folder."
        )
    found, start = {}, 0
    for path in sorted(leaves):
        size = _num_bytes(*leaves[path])
        found[path] = _array(data[start : start + size], *leaves[path])
        start += size
    values = map(_as_kind_of, jax.tree.leaves(like), [found[path] for path in wanted])
    return jax.tree.unflatten(jax.tree.structure(like), values)


def digest(meta: Mapping[str, Any], data: np.ndarray) -> str:
    """SHA-256 over metadata (JSON values) and data, in hexadecimal."""
    sha256 = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    sha256.update(np.ascontiguousarray(data).data)
    return sha256.hexdigest()


def differences(
    saved: Mapping[str, str], now: Mapping[str, str], limit: int = 12
) -> str:
    """One line a differing entry, at most `limit`; empty if there is none."""
    names = [n for n in dict.fromkeys([*saved, *now]) if saved.get(n) != now.get(n)]
    lines = [
        f"  {name}: saved {saved.get(name, 'nothing')}, now {now.get(name, 'nothing')}"
        for name in names[:limit]
    ]
    if len(names) > limit:
        lines.append(f"  and {len(names) - limit} more")
    return "\n".join(lines)


def _num_bytes(dtype: str, shape: list[int]) -> int:
    """Stored size of a leaf."""
    size = math.prod(shape)
    return -(-size // 8) if dtype == "bool" else size * np.dtype(dtype).itemsize


def _array(stored: np.ndarray, dtype: str, shape: list[int]) -> np.ndarray:
    """A leaf from its stored bytes, in memory of its own."""
    if dtype == "bool":
        bits = np.unpackbits(stored, count=math.prod(shape))
        return bits.astype(bool).reshape(shape)
    return stored.copy().view(dtype).reshape(shape)


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


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their path, joined with "/"."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in found
    }
    if len(named) < len(found):
        raise InputError('tree: two leaves have the same path, joined with "/".')
    return named

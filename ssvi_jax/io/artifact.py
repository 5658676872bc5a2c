"""The compact model file: one trained posterior, sparse or dense, in few bytes.

A safetensors container: bytes and a JSON header, nothing that could run code.
``__metadata__`` holds the tables (JSON) and a SHA-256 over them and every stream.
The streams are uint8, Huffman coded:

- ``positions``: gap bytes of every layer (`io.positions`);
- ``graph``: what the network computes (`io.graph`), for a runtime without JAX; where
  there is none the header's entry of that name says why;
- ``<group>/<dtype>``: all values of a group that are stored in one dtype, first the
  first byte of each, then the second …, as exponents repeat and mantissas do not.

Groups: ``mean`` and ``rho`` of the kept weights (a point estimate has no ``rho``),
``params`` (deterministic parameters) and ``model_state`` (running statistics). Single
precision is lossless. In half precision an array becomes float16 where that moves it by
at most 2⁻¹⁰ in relative Euclidean norm; each value then is right to a relative 2⁻¹¹, or
to 3e-8 when below 6.1e-5. Arrays that float16 cannot hold, and all running statistics,
stay as they are.
Storing rho = softplus⁻¹(σ) ≈ log σ and not σ keeps small σ: a relative error of at
most abs(rho)/2048, which is 0.4 % at σ = 6e-4 and 0.7 % at σ = 1e-6.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_flag
from ssvi_jax.core.types import Gaussian, Masks, Params, Point, Posterior, Weights
from ssvi_jax.io import container
from ssvi_jax.io.container import inflate
from ssvi_jax.io.graph import Graph
from ssvi_jax.io.graph import encode as encode_graph
from ssvi_jax.io.positions import decode, encode, entropy_bits

_MAX_SIZE = 2**31 - 1  # positions are int32
_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What a model file holds, every array in the dtype it was saved from.

    Attributes:
      weights: posterior (empty if deterministic), deterministic parameters (NumPy)
        and running statistics (NumPy).
      index: path → int32 ``[s]``, sorted flat positions of the kept weights.
      shapes: path → full shape of the kernel.
      config: the model's configuration, as saved.
      metadata: whatever else was saved with it.
      half: whether it was saved in half precision.
    """

    weights: Weights
    index: dict[str, jax.Array]
    shapes: dict[str, tuple[int, ...]]
    config: dict[str, Any]
    metadata: dict[str, Any]
    half: bool

    def masks(self) -> Masks:
        """Path → boolean array of the kernel's full shape."""
        masks = {path: np.zeros(shape, bool) for path, shape in self.shapes.items()}
        for path, mask in masks.items():
            mask.reshape(-1)[np.asarray(self.index[path])] = True
        return masks


def save(
    path: str | Path,
    weights: Weights,
    masks: Masks,
    *,
    config: Mapping[str, Any],
    half: bool = False,
    metadata: Mapping[str, Any] | None = None,
    graph: Graph | str = "it was not asked for",
) -> dict[str, Any]:
    """Writes a model file; an existing one is replaced only by a complete one.

    Args:
      path: the file; its folder must exist.
      weights: the posterior is packed in the order of the masks' true positions; a
        dense deterministic network has an empty one and its kernels in the params.
      masks: path → boolean array of the kernel's full shape; the posterior's keys.
      config: JSON values that say how to build the model.
      half: store float16 where that is safe, instead of every bit.
      metadata: further JSON values.
      graph: what the network computes, its rows in the order of the masks and of the
        flat params; or why it is not told.

    Returns:
      Sizes: bytes of the ``file`` and of its parts, ``kept`` and ``weights`` (counts),
      ``bits_per_position`` and their entropy ``bits_per_position_bound``,
      ``dense_vi_file`` (float32 mean and rho of every weight and the rest as it is)
      and ``times_smaller`` than that.

    Raises:
      InputError: posterior and masks do not fit, a value is not finite, a dtype or
        configuration cannot be stored, or the file cannot be written.
    """
    path, half = container.path_of(path), check_flag("half", half)
    posterior = weights.posterior
    _check_posterior(posterior, masks)
    arrays = {
        "mean": {path: np.asarray(g.mean) for path, g in posterior.items()},
        "rho": {
            path: np.asarray(g.rho)
            for path, g in posterior.items()
            if isinstance(g, Gaussian)
        },
        "params": _arrays(weights.params, "params"),
        "model_state": _arrays(weights.model_state, "model_state"),
    }
    tables, streams = {}, {}
    for group, named in arrays.items():
        _check_values(group, named)
        tables[group], joined = _pack(named, half and group != "model_state")
        streams |= {f"{group}/{dtype}": data for dtype, data in joined.items()}
    layers, streams["positions"] = _pack_positions(masks)
    said: dict[str, Any] = {"refused": graph}
    if not isinstance(graph, str):
        streams["graph"] = encode_graph(graph)
        said = {"bytes": len(streams["graph"])}
    header = {
        "half": half,
        "config": dict(config),
        "metadata": dict(metadata or {}),
        "layers": layers,
        "arrays": tables,
        "graph": said,
    }
    return _sizes(container.write(path, header, streams), masks, arrays)


def as_stored(params: Params, half: bool) -> Params:
    """Deterministic parameters as they will be when they are read again."""
    return jax.tree.map(lambda leaf: _rounded(np.asarray(leaf), half), params)


def load(path: str | Path) -> Artifact:
    """Reads a model file and verifies it first.

    Needs memory in proportion to the values stored, whatever the file claims; only
    `Artifact.masks` makes arrays of full shape.

    Raises:
      InputError: there is no such file, or it is not a whole, unaltered model file
        of a format that this version knows.
    """
    path = container.path_of(path)
    try:
        if path.is_dir():
            raise _folder(path)
        return _unpack(*container.read(path))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    except container.ERRORS as error:
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise InputError(
            f"{path}: not a whole model file ({reason}). Copy or train it again; model "
            "files are what a run writes as model.ssvi."
        ) from error


def _folder(path: Path) -> InputError:
    """A folder is not a model file, but a run's has one."""
    file = path / "model.ssvi"
    give = file if file.is_file() else "a file, as a run or `Fitted.save` writes"
    return InputError(
        f"path: got {path}, a folder, allowed: a model file; give {give}."
    )


def _check_posterior(posterior: Posterior, masks: Masks) -> None:
    """Raises `InputError` unless every layer has one value each a kept weight."""
    if posterior.keys() != masks.keys():
        names = ", ".join(sorted(posterior.keys() ^ masks.keys()))
        raise InputError(
            f"masks: must have the keys of the posterior; in only one: {names}."
        )
    for path, mask in masks.items():
        if mask.dtype != bool or mask.size > _MAX_SIZE:
            raise InputError(f"masks: {path} is not boolean or over {_MAX_SIZE} long.")
        wanted = (int(mask.sum()),)
        for name, value in posterior[path]._asdict().items():
            if value.shape != wanted or value.dtype != np.float32:
                raise InputError(
                    f"posterior: {name} of {path} is {value.dtype}{value.shape}, "
                    f"needed: float32{wanted} for the weights its mask keeps."
                )


def _check_values(group: str, named: Mapping[str, np.ndarray]) -> None:
    """Raises `InputError` for a dtype that cannot be stored or a value not finite."""
    for path, array in named.items():
        if str(array.dtype) not in _DTYPES:
            allowed = ", ".join(sorted(_DTYPES))
            raise InputError(f"{group}: {path} is {array.dtype}, allowed: {allowed}.")
        if not np.isfinite(array).all():
            raise InputError(f"{group}: {path} holds values that are not finite.")


def _pack(
    named: Mapping[str, np.ndarray], half: bool
) -> tuple[list[list[Any]], dict[str, bytes]]:
    """Returns rows (path, dtype, stored dtype, shape) and stored dtype → bytes."""
    rows, joined = [], {}
    for path, array in named.items():
        stored = _halved(array) if half else array
        rows.append([path, str(array.dtype), str(stored.dtype), list(array.shape)])
        joined.setdefault(str(stored.dtype), []).append(stored.reshape(-1))
    return rows, {
        dtype: _byte_planes(np.concatenate(parts)) for dtype, parts in joined.items()
    }


def _halved(array: np.ndarray) -> np.ndarray:
    """The array in float16 if that moves it by at most 2⁻¹⁰ in relative norm."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    error = np.linalg.norm((array - half.astype(np.float64)).reshape(-1))
    norm = np.linalg.norm(array.astype(np.float64).reshape(-1))
    return half if error <= 2**-10 * norm else array


def _rounded(array: np.ndarray, half: bool) -> np.ndarray:
    return (_halved(array) if half else array).astype(array.dtype)


def _byte_planes(array: np.ndarray) -> bytes:
    """The first byte of every value, then the second of every value, and so on."""
    planes = array.view(np.uint8).reshape(-1, array.itemsize)
    return planes.T.tobytes()


def _from_byte_planes(data: bytes, dtype: str) -> np.ndarray:
    """Undoes `_byte_planes`."""
    planes = np.frombuffer(data, np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)


def _pack_positions(
    masks: Masks,
) -> tuple[list[list[Any]], bytes]:
    """Returns rows (path, shape, count, number of gap bytes) and all gap bytes."""
    rows, parts = [], []
    for path, mask in masks.items():
        index = np.flatnonzero(mask)
        parts.append(encode(index, mask.size).tobytes())
        rows.append([path, list(mask.shape), len(index), len(parts[-1])])
    return rows, b"".join(parts)


def _unpack(header: dict[str, Any], coded: Mapping[str, bytes]) -> Artifact:
    """Rebuilds everything from a verified header and its coded streams."""
    tables = header["arrays"]
    if not all(isinstance(header[part], dict) for part in ("config", "metadata")):
        raise TypeError("a configuration that is no object")
    groups = {group: _unpack_group(group, tables[group], coded) for group in tables}
    mean, rho, layers = groups["mean"], groups["rho"], header["layers"]
    # Checked before any position is decoded: the values bound the memory needed.
    paths = {path for path, *_ in layers}
    if mean.keys() != paths or not rho.keys() <= paths:
        raise ValueError("values without positions, or positions without values")
    for path, _, count, _ in layers:
        for values in (mean[path], rho.get(path, mean[path])):
            if values.shape != (count,) or values.dtype != np.float32:
                raise ValueError("not one float32 a position")
    shapes, index = _unpack_positions(layers, coded["positions"])
    posterior: Posterior = {
        path: Gaussian(jnp.array(mean[path]), jnp.array(rho[path]))
        if path in rho
        else Point(jnp.array(mean[path]))
        for path in index
    }
    return Artifact(
        Weights(
            posterior,
            trees.unflatten(groups["params"]),
            trees.unflatten(groups["model_state"]),
        ),
        {path: jnp.array(positions) for path, positions in index.items()},
        shapes,
        header["config"],
        header["metadata"],
        bool(header["half"]),
    )


def _unpack_group(
    group: str, rows: list[list[Any]], coded: Mapping[str, bytes]
) -> dict[str, np.ndarray]:
    """Path → array of one group, in its original dtype."""
    sizes: dict[str, int] = {}
    for _, dtype, stored, shape in rows:
        if dtype not in _DTYPES or (dtype, stored) not in (
            (dtype, dtype),
            ("float32", "float16"),
        ):
            raise ValueError("an unknown dtype")
        sizes[stored] = sizes.get(stored, 0) + _size(shape)
    values = {}
    for stored, size in sizes.items():
        num_bytes = size * np.dtype(stored).itemsize
        data = inflate(coded[f"{group}/{stored}"], num_bytes)
        values[stored] = _from_byte_planes(data, stored)
    named, starts = {}, dict.fromkeys(sizes, 0)
    for path, dtype, stored, shape in rows:
        start = starts[stored]
        starts[stored] += _size(shape)
        array = values[stored][start : starts[stored]]
        if not np.isfinite(array).all():
            raise ValueError("a value that is not finite")
        named[path] = array.astype(dtype).reshape(shape)
    return named


def _unpack_positions(
    rows: list[list[Any]], coded: bytes
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Path → shape and path → int32 positions."""
    gap_bytes = np.frombuffer(inflate(coded, sum(row[3] for row in rows)), np.uint8)
    shapes, index, start = {}, {}, 0
    for path, shape, count, length in rows:
        if not 0 <= count <= _size(shape) <= _MAX_SIZE or length < 0:
            raise ValueError("an impossible count")
        shapes[path] = tuple(shape)
        index[path] = decode(gap_bytes[start : start + length], count, _size(shape))
        start += length
    return shapes, index


def _arrays(tree: Mapping[str, Any], argument: str) -> dict[str, np.ndarray]:
    """Nested dictionaries of arrays as path → array."""
    _check_keys(tree, argument)
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


def _check_keys(tree: Mapping[Any, Any], argument: str) -> None:
    """Raises `InputError` for a key that would not come back as it is."""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise InputError(f"{argument}: key {key!r}, allowed: text.")
        if isinstance(value, Mapping):
            _check_keys(value, argument)


def _size(shape: list[int]) -> int:
    """Number of values of a shape that came from a file."""
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("an impossible shape")
    return math.prod(shape)


def _sizes(
    coded: Mapping[str, int],
    masks: Masks,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """The accounting that `save` returns."""
    counts = [(int(mask.sum()), mask.size) for mask in masks.values()]
    kept, weights = sum(count for count, _ in counts), sum(size for _, size in counts)
    rest = sum(
        array.nbytes
        for group in ("params", "model_state")
        for array in arrays[group].values()
    )
    parts = dict.fromkeys(["file", *arrays, "positions", "graph"], 0)
    for name, num_bytes in coded.items():
        parts[name.split("/")[0]] += num_bytes
    bound = sum(entropy_bits(count, size) for count, size in counts)
    dense_vi_file = 2 * 4 * weights + rest
    return {
        **parts,
        "header": 2 * parts["file"] - sum(parts.values()),
        "kept": kept,
        "weights": weights,
        "bits_per_position": 8 * parts["positions"] / max(kept, 1),
        "bits_per_position_bound": bound / max(kept, 1),
        "dense_vi_file": dense_vi_file,
        "times_smaller": dense_vi_file / parts["file"],
    }

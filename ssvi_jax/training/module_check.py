"""Whether a module has the parameters that a model file holds.

Paths and shapes are compared, of a trace: nothing is computed. What has no parameters,
as an activation, cannot be told from another.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import Params
from ssvi_jax.io import artifact
from ssvi_jax.networks.adapters import FlaxModel, NnxModel
from ssvi_jax.networks.learned_noise import WithNoise
from ssvi_jax.networks.structured import Structured

_SHOWN = 4


def check_weights(
    plain: FlaxModel,
    structure: Structure,
    file: artifact.Artifact,
    path: str | Path,
    name: str,
) -> None:
    """Refuses a module whose parameters are not those of a model file.

    It passes where they are not known: a linen module makes them for its inputs, of
    which a file has the shapes, but of several not how they are put together.

    Args:
      plain: the module's apply function.
      structure: what the method made of it.
      file: the model file.
      path: where it is.
      name: the module's.

    Raises:
      InputError: a path or a shape differs.
    """
    params = _expected(plain, structure, file.config)
    if params is None:
        return
    expected = {p: tuple(leaf.shape) for p, leaf in trees.flatten(params).items()}
    rest = trees.flatten(file.weights.params)
    found = {p: tuple(leaf.shape) for p, leaf in rest.items()} | file.shapes
    paths = sorted({*expected, *found})
    unlike = [p for p in paths if expected.get(p) != found.get(p)]
    if unlike:
        differ = "; ".join(
            f"{p}: {_shown(found.get(p))} in the file, {_shown(expected.get(p))} here"
            for p in unlike[:_SHOWN]
        )
        more = f"; and {len(unlike) - _SHOWN} more" if len(unlike) > _SHOWN else ""
        raise InputError(
            f"module: {name} has other weights than {path} ({differ}{more}); give the "
            "module that was trained."
        )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def _expected(
    plain: FlaxModel, structure: Structure, config: Mapping[str, Any]
) -> Params | None:
    """Shapes of the parameters that are trained; None where they are not known."""
    example = _example(config)
    needs_example = not isinstance(plain, NnxModel) or structure.rank1 is not None
    if example is None and needs_example:
        return None
    network = Structured(plain, structure, example)

    def init() -> Params:
        params, _ = network.init(jax.random.key(0))
        if config["noise"]:
            params = WithNoise(plain).with_noise(params, structure.copies)
        return params

    try:
        return jax.eval_shape(init)
    except InputError:
        raise
    except Exception:
        # A module raises what it likes at inputs that are not its own. The one array
        # may have stood in a dictionary, so it is left to a prediction to complain.
        return None


def _example(config: Mapping[str, Any]) -> Any:
    """Shapes and types of an input, if it is one array; damaged ones are None."""
    try:
        ((shape, dtype),) = config["inputs"]
        dtype = jax.dtypes.canonicalize_dtype(dtype)  # the file may be of 64 bits
        return jax.ShapeDtypeStruct(tuple(map(int, shape)), dtype)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None

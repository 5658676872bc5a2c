"""A registry model on images or series, built from a description in a file."""

import dataclasses
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_positive
from ssvi_jax.core.structure import Rank1Spec, Structure
from ssvi_jax.core.types import (
    Masks,
    Weights,
)
from ssvi_jax.io import artifact
from ssvi_jax.networks import members, models
from ssvi_jax.networks.adapters import LinenModel
from ssvi_jax.networks.structured import Structured

OWN = "flax"
"""Marks, in a model file, a network of the user's own, of which it has weights only."""

_MAX_WHOLE = 2**31 - 1


def normalize(
    images: ArrayLike, mean: ArrayLike, std: ArrayLike, *, unit: float = 255.0
) -> jax.Array:
    """Maps inputs to zero mean and unit variance per channel.

    Args:
      images: ``[..., c]``, pixels in 0 to 255, or anything else with its `unit`.
      mean: ``[c]``, mean of the training inputs divided by `unit`.
      std: ``[c]``, their standard deviation divided by `unit`.
      unit: what inputs are divided by first.

    Returns:
      float32 ``[..., c]``: ``(images / unit - mean) / std``.
    """
    pixels = jnp.asarray(images, jnp.float32)
    channels = (1,) * (pixels.ndim - 1) + (-1,)
    scale = 1.0 / jnp.asarray(std, jnp.float32).reshape(channels)
    shift = jnp.asarray(mean, jnp.float32).reshape(channels)
    return (pixels * (1.0 / unit) - shift) * scale


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Everything that rebuilds a network's function (not its weights).

    Attributes:
      model: a key of `models.MODELS`.
      width: factor on hidden widths.
      num_classes: number of logits.
      input_shape: (height, width, channels) of an image, (time, features) of a series.
      mean: per channel, of pixels divided by 255, subtracted first.
      std: per channel, likewise, divided by then.
      rank1: the factors of a network of several members; None: an ordinary network.
      copies: K networks of their own, along the first axis of every array (see
        `members`), at least 1; None: an ordinary network, without that axis.
      dropout: rate of dropout in training and in draws (see `dropout`), in [0, 1).
      pixels: whether inputs are uint8 pixels; else they are float32, and mean and
        standard deviation are of what comes.

    Raises:
      InputError: a value that is none of these, or a model of images for a series.
    """

    model: str
    width: float
    num_classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rank1: Rank1Spec | None = None
    copies: int | None = None
    dropout: float = 0.0
    pixels: bool = True

    def __post_init__(self):
        if len(self.input_shape) == 2 and self.model not in models.OF_SERIES:
            raise InputError(
                f"model: got {self.model}, allowed for series: "
                f"{', '.join(models.OF_SERIES)}."
            )
        _ = self.structure  # checks the rest
        for length in self.input_shape:
            check_positive("input_shape", length)
        for name in ("mean", "std"):
            moments = getattr(self, name)
            if len(moments) != self.input_shape[-1] or not all(map(isfinite, moments)):
                raise InputError(
                    f"{name}: got {moments}, allowed: a finite number for each of "
                    f"{self.input_shape[-1]} channels."
                )

    @property
    def structure(self) -> Structure:
        """How the network differs from the plain model."""
        return Structure(self.rank1, self.copies, self.dropout)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "NetworkSpec":
        """Inverse of `dataclasses.asdict` after a trip through JSON.

        Raises:
          InputError: fields are missing, unknown, or of the wrong kind.
        """
        try:
            # Model files of earlier versions hold images only, and call it so.
            shape = values.get("input_shape") or values["image_shape"]
            return cls(
                model=str(values["model"]),
                width=float(values["width"]),
                num_classes=_whole(values["num_classes"]),
                input_shape=_lengths(shape),
                mean=tuple(float(v) for v in values["mean"]),
                std=tuple(float(v) for v in values["std"]),
                rank1=Rank1Spec(**values["rank1"]) if values.get("rank1") else None,
                copies=_whole(values["copies"]) if values.get("copies") else None,
                dropout=float(values.get("dropout", 0.0)),
                pixels=bool(values.get("pixels", True)),
            )
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"network: got {str(dict(values))[:500]}, needed: the fields of "
                f"NetworkSpec ({str(error)[:200]})."
            ) from error


def _lengths(values: Any) -> tuple[int, ...]:
    lengths = tuple(map(_whole, values))
    if len(lengths) not in (2, 3):
        raise ValueError("input_shape has 2 or 3 lengths")
    return lengths


def _whole(value: Any) -> int:
    if type(value) is not int or value > _MAX_WHOLE:
        raise TypeError(f"got {value!r}, allowed: a whole number up to {_MAX_WHOLE}")
    return value


class ImageNetwork(Structured):
    """An `ApplyFn` from uint8 images ``[batch, h, w, c]`` or float32 series to logits.

    It is a `types.MemberNetwork` too, of one member unless the description says more.

    Args:
      spec: the network's description.
      training_precision: see `precision.train_in`.
    """

    def __init__(self, spec: NetworkSpec, *, training_precision: str = "float32"):
        self.spec = spec
        model = models.build(spec.model, num_classes=spec.num_classes, width=spec.width)
        self.fast_statistics = getattr(model, "fast_statistics", False)
        super().__init__(
            LinenModel(model),
            spec.structure,
            jax.ShapeDtypeStruct((1, *spec.input_shape), jnp.float32),
            training_precision=training_precision,
        )

    def __eq__(self, other: object) -> bool:
        """Networks of one description and precision compute the same."""
        return isinstance(other, ImageNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        """Of what `==` compares."""
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[NetworkSpec, str]:
        return self.spec, self.training_precision

    def prepare(self, x: jax.Array) -> jax.Array:
        """Zero mean and unit variance of pixels in 0 to 255, or series as they come."""
        mean, std = jnp.array(self.spec.mean), jnp.array(self.spec.std)
        return normalize(x, mean, std, unit=255.0 if self.spec.pixels else 1.0)


def check_ours(
    file: artifact.Artifact, path: str | Path, then: str = ".predict(x)"
) -> None:
    """Refuses the model file of a network of the user's own.

    Args:
      file: what it holds.
      path: where it is.
      then: what to do in Python with what was loaded.

    Raises:
      InputError: it is one.
    """
    if file.config.get("kind") == OWN:
        raise InputError(
            f"{path}: holds the weights of a network of your own, but neither its "
            "module nor its data, allowed: the model.ssvi of a run. In Python: "
            f"ssvi_jax.load('{path}', module){then}."
        )


def load(path: str | Path) -> tuple[ImageNetwork, Weights, Masks]:
    """A network, its weights and masks from a model file that a run left.

    Raises:
      InputError: no model file, a damaged one, or one that holds another kind of model.
    """
    file = artifact.load(path)
    check_ours(file, path)
    network = ImageNetwork(NetworkSpec.from_json(file.config))
    try:
        params, model_state = jax.eval_shape(network.init, jax.random.key(0))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{path}: no network can be built as it says ({str(error)[:200]}); the "
            "file was put together wrongly."
        ) from error
    expected = _leaves({"params": params, "state": model_state})
    saved = file.weights
    found = _leaves({"params": saved.params, "state": saved.model_state})
    kernels = {f"params/{path}": (s, "float32") for path, s in file.shapes.items()}
    # Compared before the masks are made: a hostile file may claim any shape.
    if found | kernels != expected:
        raise InputError(
            f"{path}: its weights are not those of {network.spec.model} at width "
            f"{network.spec.width:g}; the file was put together wrongly."
        )
    weights, masks = jax.tree.map(jnp.asarray, saved), file.masks()
    if network.spec.copies is not None and not members.is_even(masks):
        raise InputError(
            f"{path}: its members do not keep equally many weights of each kernel; the "
            "file was put together wrongly."
        )
    return network, weights, masks


def _leaves(tree: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Path → shape and dtype."""
    flat = trees.flatten(tree).items()
    return {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flat}

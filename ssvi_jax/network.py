"""A registry model on uint8 images, built from a description that fits in a file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ssvi_jax import artifact, models, trees
from ssvi_jax.adapters import Layer, LinenModel
from ssvi_jax.data.augment import normalize
from ssvi_jax.errors import InputError
from ssvi_jax.types import Masks, ModelState, PackedKernel, Params, Weights


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Everything that rebuilds a network's function (not its weights).

    Attributes:
      model: a key of `models.MODELS`.
      width: factor on hidden widths.
      num_classes: number of logits.
      image_shape: (height, width, channels) of an input.
      mean: per channel, of pixels divided by 255, subtracted first.
      std: per channel, likewise, divided by then.
    """

    model: str
    width: float
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "NetworkSpec":
        """Inverse of `dataclasses.asdict` after a trip through JSON.

        Raises:
          InputError: fields are missing, unknown, or of the wrong kind.
        """
        try:
            return cls(
                model=str(values["model"]),
                width=float(values["width"]),
                num_classes=int(values["num_classes"]),
                image_shape=_three(values["image_shape"]),
                mean=tuple(float(v) for v in values["mean"]),
                std=tuple(float(v) for v in values["std"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"network: got {dict(values)}, needed: the fields of NetworkSpec "
                f"({error})."
            ) from error


def _three(values: Any) -> tuple[int, int, int]:
    height, width, channels = (int(v) for v in values)
    return height, width, channels


class ImageNetwork:
    """An `ApplyFn` from uint8 images ``[batch, h, w, c]`` to logits.

    Args:
      spec: the network's description.
    """

    def __init__(self, spec: NetworkSpec):
        self.spec = spec
        self._model = LinenModel(
            models.build(spec.model, num_classes=spec.num_classes, width=spec.width)
        )

    def init(self, key: jax.Array) -> tuple[Params, ModelState]:
        """Initial parameters and running statistics."""
        return self._model.init(key, jnp.zeros((1, *self.spec.image_shape)))

    def layers(self, params: Params, model_state: ModelState) -> list[Layer]:
        """The network's products in the order they run."""
        return self._model.layers(
            params, model_state, jnp.zeros((1, *self.spec.image_shape))
        )

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`; `x` holds pixels in 0 to 255."""
        x = normalize(x, jnp.array(self.spec.mean), jnp.array(self.spec.std))
        return self._model(
            params, model_state, x, train=train, key=key, kernels=kernels
        )


def load(path: str | Path) -> tuple[ImageNetwork, Weights, Masks]:
    """A network, its weights and masks from a model file that a run left.

    Raises:
      InputError: no model file, a damaged one, or one that holds another kind of model.
    """
    file = artifact.load(path)
    network = ImageNetwork(NetworkSpec.from_json(file.config))
    params, model_state = jax.eval_shape(network.init, jax.random.key(0))
    expected = _shapes({"params": params, "state": model_state})
    saved = file.weights
    found = _shapes({"params": saved.params, "state": saved.model_state})
    # Compared before the masks are made: a hostile file may claim any shape.
    if found | {f"params/{path}": s for path, s in file.shapes.items()} != expected:
        raise InputError(
            f"{path}: its weights are not those of {network.spec.model} at width "
            f"{network.spec.width:g}; the file was put together wrongly."
        )
    weights = jax.tree.map(jnp.asarray, saved)
    return network, weights, file.masks()


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}

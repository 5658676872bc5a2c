"""What a training method is: settings of its own, and how it is built on a problem.

A method is one file with one frozen dataclass that derives from `Method`. Both `fit`
and the command line use it as it is. Nothing heavy is imported before it is built.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ssvi_jax.core.settings import Settings
from ssvi_jax.core.structure import Structure

if TYPE_CHECKING:
    from ssvi_jax.methods.problem import Algorithm, OptimizerLike, Problem


@dataclasses.dataclass(frozen=True)
class Method(Settings):
    """A training method with its settings.

    Attributes:
      name: what the command line calls it.
      training: settings of the training that it has in every preset.
      fixed: names of its own settings that no preset changes.
      sparse_from_start: whether it keeps a part of the weights throughout.
    """

    name: ClassVar[str]
    training: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[tuple[str, ...]] = ()
    sparse_from_start: ClassVar[bool] = False

    @classmethod
    def defining(cls) -> dict[str, Any]:
        """Settings, its own and of the training, that are part of what it is."""
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        return {**{name: defaults[name] for name in cls.fixed}, **cls.training}

    @property
    def structure(self) -> Structure:
        """The members and factors that it gives to a network."""
        return Structure()

    def optimizer(self) -> "OptimizerLike":
        """What it is trained with by `fit`, unless another is given: Adam."""
        from ssvi_jax.methods.problem import adam

        return adam

    def check_training(self, training: Any) -> None:
        """Refuses settings of the training that the method cannot take.

        A command line asks before anything is loaded.

        Args:
          training: what has the attributes of `Sgd`.

        Raises:
          InputError: names the first.
        """

    def build(self, problem: "Problem") -> "Algorithm":
        """The algorithm that trains a network.

        Raises:
          InputError: settings that do not fit the problem.
        """
        raise NotImplementedError


M = TypeVar("M", bound=Method)

METHODS: dict[str, type[Method]] = {}
"""Name → method, of all that are registered."""


def register(method: type[M]) -> type[M]:
    """Makes a method known to the command line; to be used as a decorator."""
    METHODS[method.name] = method
    return method

"""The nouns of the library: masks, packed posterior, kernels, and the model's seam.

Kernels are named by their path in the parameter tree, joined with "/", for example
``"block1/conv1/kernel"``. Masks, posterior and index are flat dictionaries with the
same keys, so they are pytrees that line up leaf by leaf.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Params = Mapping
"""Nested dictionary of parameter arrays."""

ModelState = Mapping
"""Nested dictionary of non-trained arrays (batch-norm running statistics)."""

Data = tuple[Any, Any]
"""Inputs and labels of the whole training set, on the device: nearly always arrays
``[n, ...]`` and ``[n]``, or any pytrees of arrays that have n rows each."""

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""(inputs ``[batch, ...]``, key) → inputs ``[batch, ...]``."""

ParamsKL = Callable[[Params, jax.Array], jax.Array]
"""(deterministic parameters, key) → KL in nats of distributions that they hold."""

Masks = dict[str, np.ndarray]
"""Basis selection γ: path → boolean array of the kernel's full shape, on the host."""


class KernelShape(tuple[int, ...]):
    """A kernel's full shape that knows how its layer multiplies by it.

    It is the plain tuple in every other respect, and a plain tuple counts as the shape
    of a Dense or Conv kernel, which is applied as it is.

    Args:
      shape: the full shape.
      applied: see the attribute; None: the full shape.

    Attributes:
      applied: ``(*window, inputs, outputs)`` of one product: an output sums over the
        window (of a convolution) and the inputs. Heads are flattened, and of kernels
        that are stacked (`nn.scan`, `nn.vmap`, `einsum`) it is the shape of each.
    """

    applied: tuple[int, ...]

    def __new__(cls, shape: Iterable[int], applied: Iterable[int] | None = None):
        """See the class."""
        self = super().__new__(cls, shape)
        self.applied = tuple(self if applied is None else applied)
        return self

    @classmethod
    def of(cls, shape: Iterable[int]) -> "KernelShape":
        """The shape itself, or what it is as that of a Dense or Conv kernel."""
        return shape if isinstance(shape, cls) else cls(shape)

    @property
    def fan_in(self) -> int:
        """Weights that one output sums over."""
        return math.prod(self.applied[:-1])

    @property
    def is_stacked(self) -> bool:
        """Whether it holds the kernels of several products."""
        return math.prod(self) > math.prod(self.applied)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Subspace:
    """The masks as the device sees them.

    Attributes:
      index: path → int32 ``[s]``, the sorted flat positions where the mask is true.
      shapes: (path, full shape) of every kernel (static).
    """

    index: dict[str, jax.Array]
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = dataclasses.field(
        metadata={"static": True}
    )


class Gaussian(NamedTuple):
    """Packed mean-field Gaussian over the selected weights of one kernel.

    Attributes:
      mean: float32 ``[s]``.
      rho: float32 ``[s]``; the standard deviation is softplus(rho).
    """

    mean: jax.Array
    rho: jax.Array


class Point(NamedTuple):
    """Packed point estimate of the selected weights of one kernel: no uncertainty.

    Attributes:
      mean: float32 ``[s]``, the weights themselves.
    """

    mean: jax.Array


Posterior = Mapping[str, Gaussian | Point]
"""Path → packed Gaussian or point; the same keys as the masks."""


class Weights(NamedTuple):
    """Everything that a trained network needs besides its masks.

    Attributes:
      posterior: packed Gaussians, or points, of the kernels that have masks.
      params: the deterministic rest (biases, normalization scales), nested.
      model_state: running statistics, nested.
    """

    posterior: Posterior
    params: Params
    model_state: ModelState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedKernel:
    """A Gaussian kernel of which only the selected coordinates are stored.

    Attributes:
      mean: ``[s]`` means of the selected weights.
      sigma: ``[s]`` standard deviations; None: no noise, the weights are the means.
      index: int32 ``[s]`` sorted flat positions in the kernel.
      shape: the kernel's full shape (static).
      probe: None, or zeros of the full shape that are added to the mean: the gradient
        with respect to them is the dense gradient that addition needs.
      backend: "xla" (dense products of the unpacked kernel) or "sparse" (the compiled
        kernels, where they can; see `ops.backend`); static.
      deviation: None, or ``[s]`` a draw of the weights minus the means, to be flipped
        for each example (see `ops.flipout`); sigma is then None.
    """

    mean: jax.Array
    sigma: jax.Array | None
    index: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    probe: jax.Array | None = None
    backend: str = dataclasses.field(default="xla", metadata={"static": True})
    deviation: jax.Array | None = None

    def reshape(self, shape: tuple[int, ...]) -> "PackedKernel":
        """The same weights seen in another shape of equal size (row-major)."""
        probe = None if self.probe is None else self.probe.reshape(shape)
        return dataclasses.replace(self, shape=shape, probe=probe)

    def astype(self, dtype: jax.typing.DTypeLike) -> "PackedKernel":
        """The same kernel with its values in another floating type."""
        names = ("mean", "sigma", "probe", "deviation")
        values = {name: getattr(self, name) for name in names}
        changed = {
            name: None if value is None else value.astype(dtype)
            for name, value in values.items()
        }
        return dataclasses.replace(self, **changed)


class MemberNetwork(Protocol):
    """What a network of several members, or one that is random itself, has besides.

    `ApplyFn` is all that training needs. Prediction averages forward passes, and this
    says how many there are and what each of them computes (see docs/design.md). A
    network without these attributes has one member.

    Attributes:
      num_members: K, at least 1.
      is_random: whether `one` with a key differs from `one` without.
    """

    @property
    def num_members(self) -> int:
        """See the class."""
        ...

    @property
    def is_random(self) -> bool:
        """See the class."""
        ...

    def one(
        self,
        weights: Weights,
        subspace: Subspace,
        member: jax.typing.ArrayLike,
        key: jax.Array | None,
    ) -> tuple[Weights, Subspace]:
        """The weights of one forward pass of one member; pure, called inside jit.

        The posterior in the result is then drawn as that of any network, and the
        `ApplyFn` called on what results.

        Args:
          weights: of all members.
          subspace: where the packed kernels sit.
          member: 0 to K - 1.
          key: random key of a draw of whatever `weights.posterior` does not hold;
            None: its mean.
        """
        ...


class ApplyFn(Protocol):
    """A network as a pure function; all that the core knows of a model.

    It may have an attribute ``kernel_shapes``: path → `KernelShape` in the order in
    which it applies its kernels. Without it they are taken for Dense and Conv kernels,
    sorted by name.
    """

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
        """Returns logits ``[batch, classes]`` and the new model state.

        Args:
          params: full parameters, every kernel included.
          model_state: running statistics.
          x: one batch of inputs.
          train: whether batch statistics are used and updated, and dropout is on.
          key: random key for the forward pass.
          kernels: kernels whose layers draw their pre-activations (`ops.lrt_dense`,
            `ops.lrt_conv`); their entries in `params` are then not read. An apply
            function that cannot do so may leave this argument out and be used with
            weight sampling.
        """
        ...

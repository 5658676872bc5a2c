"""The nodes of a graph as they are made, for a batch of one size."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssvi_jax.io.graph import Node


class Refused(Exception):
    """What a runtime could not compute; the text names it."""


@dataclasses.dataclass(frozen=True)
class Known:
    """An array that depends on parameters only.

    Attributes:
      array: its values.
      row: of the parameter that it is, in the model file's table; None: of none.
    """

    array: Any
    row: int | None = None


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """The result of a node.

    Attributes:
      node: its number.
      shape: its own; where JAX's is larger, the node's is broadcast to it.
    """

    node: int
    shape: tuple[int, ...]


Value = Known | Dynamic


class Builder:
    """Collects nodes, whose numbers are those of this batch.

    Attributes:
      nodes: operation, inputs, whole numbers.
      constants: what the nodes ``constant`` hold.
      arrays: node → values of a ``constant`` or a ``param``.
      shapes: of every node's result.
    """

    def __init__(self):
        self.nodes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self.constants: list[np.ndarray] = []
        self.arrays: dict[int, np.ndarray] = {}
        self.shapes: list[tuple[int, ...]] = []
        self._known: dict[tuple, Dynamic] = {}

    def add(
        self,
        operation: str,
        inputs: Sequence[Dynamic],
        numbers: Sequence[int],
        shape: tuple[int, ...],
    ) -> Dynamic:
        """A node more."""
        nodes = tuple(value.node for value in inputs)
        self.nodes.append((operation, nodes, tuple(int(n) for n in numbers)))
        self.shapes.append(tuple(shape))
        return Dynamic(len(self.nodes) - 1, tuple(shape))

    def known(self, number: float) -> Known:
        """A number as a value."""
        return Known(np.float32(number))

    def elementwise(self, operation: str, operands: Sequence[Value]) -> Dynamic:
        """An operation on operands that broadcast."""
        inputs = [self._small(value) for value in operands]
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        return self.add(operation, inputs, (), shape)

    def whole(self, value: Value, shape: tuple[int, ...]) -> Dynamic:
        """A value that has its shape."""
        small = self._small(value)
        if small.shape == tuple(shape):
            return small
        return self.add("broadcast", [small], shape, shape)

    def reshape(self, x: Dynamic, shape: tuple[int, ...]) -> Dynamic:
        """The same values in order, in another shape."""
        if x.shape == tuple(shape):
            return x
        return self.add("reshape", [x], shape, shape)

    def transpose(self, x: Dynamic, axes: Sequence[int]) -> Dynamic:
        """The axes in another order."""
        if tuple(axes) == tuple(range(len(x.shape))):
            return x
        return self.add("transpose", [x], axes, tuple(x.shape[i] for i in axes))

    def slice(
        self,
        x: Dynamic,
        starts: Sequence[int],
        stops: Sequence[int],
        steps: Sequence[int],
    ) -> Dynamic:
        """Every step-th entry from start to stop of each axis."""
        numbers = [n for axis in zip(starts, stops, steps, strict=True) for n in axis]
        shape = tuple(
            len(range(*axis)) for axis in zip(starts, stops, steps, strict=True)
        )
        return x if shape == x.shape else self.add("slice", [x], numbers, shape)

    def pad(
        self, x: Dynamic, value: Value, edges: Sequence[tuple[int, int, int]]
    ) -> Dynamic:
        """More entries (low, high, between) on each axis."""
        shape = tuple(
            low + high + size + max(size - 1, 0) * between
            for size, (low, high, between) in zip(x.shape, edges, strict=True)
        )
        numbers = [n for edge in edges for n in edge]
        return self.add("pad", [x, self._small(value)], numbers, shape)

    def is_weight(self, x: Dynamic) -> bool:
        """Whether a node is a kernel or an array of parameters as it stands."""
        return self.nodes[x.node][0] in ("kernel", "param", "constant")

    def _small(self, value: Value) -> Dynamic:
        """A node for a value, where an array is as small as broadcasting allows."""
        if isinstance(value, Dynamic):
            return value
        array = np.asarray(value.array, np.float32)
        small = _collapsed(array)
        row = value.row if small.shape == array.shape else None
        key = (row,) if row is not None else (small.shape, small.tobytes())
        if key not in self._known:
            if row is not None:
                found = self.add("param", (), (row,), small.shape)
            else:
                found = self.add("constant", (), (len(self.constants),), small.shape)
                self.constants.append(small)
            self.arrays[found.node] = small
            self._known[key] = found
        return self._known[key]


def _collapsed(array: np.ndarray) -> np.ndarray:
    """One entry of each axis along which nothing changes; a number if all are one."""
    for axis, length in enumerate(array.shape):
        first = array.take([0], axis) if length > 1 else array
        if length > 1 and (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array


Numbers = tuple[tuple[int, int], ...]
"""Pairs (per example, constant): see `io.graph`."""


def merged(
    small: Builder, large: Builder, sizes: tuple[int, int]
) -> tuple[list[Node], list[Numbers]]:
    """Nodes for any batch, from those of two batches.

    Args:
      small: of a batch of ``sizes[0]`` examples.
      large: of ``sizes[1]``.
      sizes: two different numbers.

    Returns:
      Nodes, and the shapes of their results.

    Raises:
      Refused: the two compute different things.
    """
    kinds = [[node[:2] for node in one.nodes] for one in (small, large)]
    same = kinds[0] == kinds[1] and len(small.constants) == len(large.constants)
    if not same or any(
        a.shape != b.shape or a.tobytes() != b.tobytes()
        for a, b in zip(small.constants, large.constants, strict=True)
    ):
        raise Refused("what it computes depends on the number of examples")
    nodes = [
        Node(name, inputs, _scaling(one, two, sizes))
        for (name, inputs, one), (_, _, two) in zip(
            small.nodes, large.nodes, strict=True
        )
    ]
    shapes = [
        _scaling(one, two, sizes)
        for one, two in zip(small.shapes, large.shapes, strict=True)
    ]
    return nodes, shapes


def _scaling(
    one: tuple[int, ...], two: tuple[int, ...], sizes: tuple[int, int]
) -> Numbers:
    """The numbers of two batches as those of any."""
    few, many = sizes
    pairs = []
    for a, b in zip(one, two, strict=True):
        each, rest = divmod(b - a, many - few)
        if rest:
            raise Refused("what it computes does not scale with the batch")
        pairs.append((each, a - few * each))
    return tuple(pairs)

"""Makes a graph shorter: what follows a product becomes a part of it.

A factor of each output channel goes into the kernel, a term into the bias; a sum with
another array of the output's shape is a residual, a maximum with 0 a ReLU. So batch
norms and residual blocks are no operations of their own, as in `ops.fuse_prediction`.
Results are equal up to rounding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ssvi_jax.io.graph import RELU, RESIDUAL, SCALE, SHIFT, Graph, Node
from ssvi_jax.networks.graph_builder import Numbers

_OUTPUTS = 3  # place of the output channels among a product's numbers


def fused(
    graph: Graph, arrays: Mapping[int, np.ndarray], shapes: Sequence[Numbers]
) -> Graph:
    """The same network in fewer nodes.

    Args:
      graph: as it was traced.
      arrays: node → what is known of its values.
      shapes: of every node's result.
    """
    return _without_unused(_Fuser(graph, arrays, shapes).run())


class _Product:
    """relu(scale · product + shift + residual), still open to more.

    Attributes:
      old: the product's node.
      reshaped: the shape in which it is read; None: its own.
      residual: the node that is added, in the new graph; None: none.
    """

    def __init__(self, old: int, node: Node):
        self.old, self.node = old, node
        self.channels = node.numbers[_OUTPUTS][1]
        self.scale = np.ones(self.channels, np.float32)
        self.shift = np.zeros(self.channels, np.float32)
        self.reshaped: Numbers | None = None
        self.residual: int | None = None
        self.rectified = False

    def take(self, operation: str, first: bool, term: np.ndarray | None) -> bool:
        """Does an operation with a known term of each channel, if it can."""
        if self.rectified:
            return False
        if operation == "max" and term is not None and not term.any():
            self.rectified = True
        elif operation == "add" and term is not None:
            self.shift = self.shift + term
        elif operation == "sub" and term is not None and first:
            self.shift = self.shift - term
        else:
            return self.residual is None and self._scaled(operation, first, term)
        return True

    def _scaled(self, operation: str, first: bool, term: np.ndarray | None) -> bool:
        if operation == "neg":
            factor = np.float32(-1)
        elif operation == "sub" and term is not None:
            self.shift, factor = self.shift - term, np.float32(-1)
        elif operation == "mul" and term is not None:
            factor = term
        elif operation == "div" and term is not None and first and term.all():
            factor = 1 / term
        else:
            return False
        self.scale, self.shift = self.scale * factor, self.shift * factor
        return True


class _Fuser:
    """Rewrites the nodes one after the other; products wait for what follows."""

    def __init__(
        self,
        graph: Graph,
        arrays: Mapping[int, np.ndarray],
        shapes: Sequence[Numbers],
    ):
        self.graph, self.arrays, self.shapes = graph, arrays, shapes
        self.reads = Counter(i for node in graph.nodes for i in node.inputs)
        self.waiting: dict[int, _Product] = {}  # by the node that they now stand for
        self.nodes: list[Node] = []
        self.constants = list(graph.constants)
        self.place: dict[int, int] = {}  # old node → new

    def run(self) -> Graph:
        """The new graph; nodes that nobody reads are still there."""
        for old, node in enumerate(self.graph.nodes):
            if self._fold(old, node):
                continue
            inputs = tuple(self._closed(i) for i in node.inputs)
            node = node._replace(inputs=inputs)
            if node.operation == "product":
                self.waiting[old] = _Product(old, node)
            else:
                self.place[old] = self._add(node)
        self._closed(len(self.graph.nodes) - 1)
        return self.graph._replace(constants=self.constants, nodes=self.nodes)

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _fold(self, old: int, node: Node) -> bool:
        """Whether a product that only this node reads does it."""
        for place in reversed(range(len(node.inputs))):
            before = node.inputs[place]
            product = self.waiting.get(before)
            if product is None or self.reads[before] != 1 or len(node.inputs) > 2:
                continue
            others = [*node.inputs[:place], *node.inputs[place + 1 :]]
            if node.operation == "reshape":
                taken = self._reshaped(product, old)
            elif self.shapes[old] != self.shapes[before]:
                continue
            else:
                term = self._term(others[0], product.channels) if others else None
                taken = product.take(node.operation, place == 0, term)
                if not taken and node.operation == "add":
                    taken = self._added(product, before, others[0])
            if taken:
                self.waiting[old] = self.waiting.pop(before)
                return True
        return False

    def _reshaped(self, product: _Product, old: int) -> bool:
        """Channels must stay the last axis; then what follows is the same."""
        shape = self.shapes[old]
        if not shape or shape[-1] != (0, product.channels):
            return False
        product.reshaped = shape
        return True

    def _term(self, node: int, channels: int) -> np.ndarray | None:
        """A known array that differs by channel at most, as one number a channel."""
        array = self.arrays.get(node)
        if array is None or array.size not in (1, channels):
            return None
        if array.size > 1 and array.shape[-1] != channels:
            return None
        return np.broadcast_to(array.reshape(-1), channels).astype(np.float32)

    def _added(self, product: _Product, before: int, other: int) -> bool:
        """Takes an array of the same shape as the residual."""
        unlike = self.shapes[other] != self.shapes[before] or other in self.arrays
        if unlike or product.residual is not None or product.rectified:
            return False
        residual = self._closed(other)
        if product.reshaped is not None:
            shape = self.shapes[product.old]
            residual = self._add(Node("reshape", (residual,), shape))
        product.residual = residual
        return True

    def _closed(self, old: int) -> int:
        """The new node of an old one; a product that waits for more waits no longer."""
        if old in self.waiting:
            product = self.waiting.pop(old)
            inputs, bits = list(product.node.inputs), 0
            for bit, values, plain in (
                (SCALE, product.scale, 1.0),
                (SHIFT, product.shift, 0.0),
            ):
                if (values != plain).any():
                    inputs.append(self._constant(values))
                    bits |= bit
            if product.residual is not None:
                inputs.append(product.residual)
                bits |= RESIDUAL
            bits |= RELU if product.rectified else 0
            numbers = (*product.node.numbers[:-1], (0, bits))
            self.place[old] = self._add(Node("product", tuple(inputs), numbers))
            if product.reshaped is not None:
                shaped = Node("reshape", (self.place[old],), product.reshaped)
                self.place[old] = self._add(shaped)
        return self.place[old]

    def _constant(self, values: np.ndarray) -> int:
        self.constants.append(values)
        return self._add(Node("constant", (), ((0, len(self.constants) - 1),)))


def _without_unused(graph: Graph) -> Graph:
    """Without nodes and constants that the output does not need."""
    needed = {len(graph.nodes) - 1}
    for i in reversed(range(len(graph.nodes))):
        if i in needed:
            needed.update(graph.nodes[i].inputs)
    nodes, constants, place = [], [], {}
    for i in sorted(needed):
        node = graph.nodes[i]
        node = node._replace(inputs=tuple(place[j] for j in node.inputs))
        if node.operation == "constant":
            constants.append(graph.constants[node.numbers[0][1]])
            node = node._replace(numbers=((0, len(constants) - 1),))
        place[i] = len(nodes)
        nodes.append(node)
    return graph._replace(constants=constants, nodes=nodes)

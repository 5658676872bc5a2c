"""A graph of `io.graph` as an ONNX model with dense weights.

Convolutions of ONNX have the channels before rows and columns. A result is kept in the
order in which it was made, and turned when a reader needs the other one, so that a
chain of convolutions, poolings and elementwise operations is not turned in between.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssvi_jax.io.graph import RELU, RESIDUAL, SCALE, SHIFT, Graph, Node
from ssvi_jax.networks.onnx_writer import (
    ELEMENTWISE,
    FORMAT,
    OPERATOR_SET,
    Writer,
    elementwise,
)

MAX_BYTES = 2**31 - 2**20
"""Of a file: what Protocol Buffers can hold, less some for the nodes."""

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axes that put the channels last, and behind the batch."""

_END = 2**31 - 1


def build(
    onnx: Any,
    graph: Graph,
    kernels: Sequence[np.ndarray],
    params: Sequence[np.ndarray],
    *,
    dtype: str,
    batch_size: int | None,
    output: str,
    softmax: bool,
) -> Any:
    """The ModelProto, checked by ONNX's own rules.

    Args:
      onnx: the package.
      graph: what the network computes.
      kernels: dense, by their rows.
      params: deterministic parameters, by theirs.
      dtype: of the inputs, which are called "x".
      batch_size: of the inputs; None: any.
      output: the result's name.
      softmax: whether a softmax follows.

    Raises:
      ValueError: the graph has something that ONNX does not, would be larger than
        `MAX_BYTES`, or does not fit together; of a hostile file's it may be any of
        `container.ERRORS`.
    """
    made = _Graph(onnx, graph, kernels, params, dtype, batch_size)
    made.finish(output, softmax)
    writer, helper = made.writer, onnx.helper
    if writer.size > MAX_BYTES:
        raise ValueError(f"{writer.size} bytes of weights, more than {MAX_BYTES}")
    batch = "n" if batch_size is None else batch_size
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = helper.make_tensor_value_info("x", element, [batch, *graph.input_shape])
    y = helper.make_tensor_value_info(
        output, onnx.TensorProto.FLOAT, [batch, graph.classes]
    )
    model = helper.make_model(
        helper.make_graph(writer.nodes, "network", [x], [y], writer.arrays),
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        ir_version=FORMAT,
        producer_name="ssvi_jax",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ValueError(f"a graph that does not fit together: {error}") from error
    return model


class _Graph:
    """Writes the nodes one after the other.

    Args: see `build`.
    """

    def __init__(self, onnx, graph: Graph, kernels, params, dtype, batch_size):
        self.writer = Writer(onnx)
        self._graph = graph
        self._rows = {
            "kernel": kernels,
            "param": params,
            "constant": graph.constants,
        }
        self._dtype, self._batch_size = dtype, batch_size
        self._last: dict[int, str] = {}  # node → its result
        self._first: dict[int, str] = {}  # node → the same, channels first
        self._length = ""  # of the batch, where it is asked for
        for place, node in enumerate(graph.nodes):
            self._write(place, node)

    def finish(self, output: str, softmax: bool) -> None:
        """Gives the result its name."""
        y = self._of(len(self._graph.nodes) - 1)
        kind, options = ("Softmax", {"axis": -1}) if softmax else ("Identity", {})
        self.writer.rename(self.writer.add(kind, y, **options), output)

    def _write(self, place: int, node: Node) -> None:
        if node.operation in self._rows:
            return  # written where it is read
        if node.operation == "input":
            plain = self._dtype == "float32"
            self._last[place] = "x" if plain else self.writer.cast("x", "FLOAT")
        elif node.operation in ELEMENTWISE:
            self._elementwise(place, node)
        else:
            getattr(self, f"_{node.operation}")(place, node)

    # Results and numbers --------------------------------------------------------------

    def _known(self, place: int) -> np.ndarray | None:
        """The values of a node that is an array of the file."""
        node = self._graph.nodes[place]
        if node.operation not in self._rows:
            return None
        ((_, row),) = node.numbers
        if row < 0:
            raise ValueError("a row below 0")
        return np.asarray(self._rows[node.operation][row], np.float32)

    def _channels(self, place: int, number: int) -> np.ndarray:
        """A known number of each channel."""
        found = self._known(place)
        if found is None or found.size != number:
            raise ValueError("a product with terms that are not known")
        return found.reshape(number)

    def _of(self, place: int) -> str:
        """The result of a node."""
        if place not in self._last:
            known = self._known(place)
            self._last[place] = (
                self.writer.add("Transpose", self._first[place], perm=_LAST)
                if known is None
                else self.writer.array(known)
            )
        return self._last[place]

    def _channels_first(self, place: int) -> str:
        """The result of a node of four axes, with the channels behind the batch."""
        if place not in self._first:
            turned = self.writer.add("Transpose", self._of(place), perm=_FIRST)
            self._first[place] = turned
        return self._first[place]

    def _fixed(self, node: Node) -> list[int]:
        """Numbers that do not depend on the batch."""
        if any(each for each, _ in node.numbers):
            raise ValueError("a number that depends on the batch")
        return [constant for _, constant in node.numbers]

    def _numbers(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Whole numbers, computed from the batch where they depend on it."""
        w, size = self.writer, self._batch_size
        if size is not None or not any(each for each, _ in pairs):
            return w.integers([each * (size or 0) + rest for each, rest in pairs])
        if not self._length:
            zero = w.integers([0])
            self._length = w.add("Gather", w.add("Shape", "x"), zero)
        each, rest = (w.integers(numbers) for numbers in zip(*pairs, strict=True))
        return w.add("Add", w.add("Mul", self._length, each), rest)

    # Operations -----------------------------------------------------------------------

    def _elementwise(self, place: int, node: Node) -> None:
        turned = [i for i in node.inputs if i in self._first]
        rest = [self._known(i) for i in node.inputs if i not in self._first]
        if turned and all(known is not None and known.size == 1 for known in rest):
            names = [self._first.get(i) or self._of(i) for i in node.inputs]
            found, kept = self._first, names
        else:
            found, kept = self._last, [self._of(i) for i in node.inputs]
        found[place] = elementwise(self.writer, node.operation, kept)

    def _product(self, place: int, node: Node) -> None:
        w, numbers = self.writer, self._fixed(node)
        *taps, ci, co, sh, sw, top, bottom, left, right, dh, dw, groups, bits = numbers
        x, kernel, *rest = node.inputs
        scale = self._channels(rest.pop(0), co) if bits & SCALE else None
        shift = self._channels(rest.pop(0), co) if bits & SHIFT else None
        pointwise = (*taps, sh, sw, groups) == (1,) * 5
        dense = pointwise and not (top or bottom or left or right or x in self._first)
        if dense:
            weights = self._kernel(kernel, (ci, co), scale, (0, 1))
            y = w.add("MatMul", self._of(x), weights)
            y = y if shift is None else w.add("Add", y, w.array(shift))
        else:
            weights = self._kernel(kernel, (*taps, ci, co), scale, (3, 2, 0, 1))
            y = w.add(
                "Conv",
                self._channels_first(x),
                weights,
                *([] if shift is None else [w.array(shift)]),
                kernel_shape=taps,
                strides=[sh, sw],
                pads=[top, left, bottom, right],
                dilations=[dh, dw],
                group=groups,
            )
        read = self._of if dense else self._channels_first
        y = w.add("Add", y, read(rest[0])) if bits & RESIDUAL else y
        y = w.add("Relu", y) if bits & RELU else y
        (self._last if dense else self._first)[place] = y

    def _kernel(
        self,
        place: int,
        shape: tuple[int, ...],
        scale: np.ndarray | None,
        axes: tuple[int, ...],
    ) -> str:
        """A kernel of this shape, times a factor a channel, its axes in this order."""
        known, w = self._known(place), self.writer
        if known is not None:
            scaled = known.reshape(shape) * np.float32(1 if scale is None else scale)
            return w.array(scaled.transpose(axes))
        found = w.add("Reshape", self._of(place), w.integers(shape))
        found = found if scale is None else w.add("Mul", found, w.array(scale))
        return w.add("Transpose", found, perm=axes)

    def _matmul(self, place: int, node: Node) -> None:
        self._last[place] = self.writer.add("MatMul", *map(self._of, node.inputs))

    def _reshape(self, place: int, node: Node) -> None:
        (x,), w = node.inputs, self.writer
        lengths = [-1 if each else rest for each, rest in node.numbers]
        # Readers that plan ahead see more in -1 than in a computed number.
        plain = lengths.count(-1) == 1 and 0 not in lengths
        shape = w.integers(lengths) if plain else self._numbers(node.numbers)
        self._last[place] = w.add("Reshape", self._of(x), shape)

    def _broadcast(self, place: int, node: Node) -> None:
        (x,), shape = node.inputs, self._numbers(node.numbers)
        self._last[place] = self.writer.add("Expand", self._of(x), shape)

    def _transpose(self, place: int, node: Node) -> None:
        x = self._of(node.inputs[0])
        self._last[place] = self.writer.add("Transpose", x, perm=self._fixed(node))

    def _reverse(self, place: int, node: Node) -> None:
        axes, w = self._fixed(node), self.writer
        ends = ([-1] * len(axes), [-_END] * len(axes), axes, [-1] * len(axes))
        x = self._of(node.inputs[0])
        self._last[place] = w.add("Slice", x, *map(w.integers, ends))

    def _concatenate(self, place: int, node: Node) -> None:
        (axis,), parts = self._fixed(node), map(self._of, node.inputs)
        self._last[place] = self.writer.add("Concat", *parts, axis=axis)

    def _slice(self, place: int, node: Node) -> None:
        starts, stops, steps = (node.numbers[i::3] for i in range(3))
        w, axes = self.writer, self.writer.integers(range(len(starts)))
        bounds = self._numbers(starts), self._numbers(stops)
        x = self._of(node.inputs[0])
        self._last[place] = w.add("Slice", x, *bounds, axes, self._numbers(steps))

    def _pad(self, place: int, node: Node) -> None:
        x, value = node.inputs
        known, numbers = self._known(value), self._fixed(node)
        if known is None or known.size != 1:
            raise ValueError("a pad with what is not known")
        low, high, between = (numbers[i::3] for i in range(3))
        found, number = self._of(x), float(known.reshape(()))
        for axis, gap in enumerate(between):
            if gap:
                found = self._spread(found, axis, gap, len(low), number)
                high[axis] -= gap  # behind the last entry
        self._last[place] = self._padded(found, low, high, number)

    def _padded(
        self, x: str, low: Sequence[int], high: Sequence[int], value: float
    ) -> str:
        w = self.writer
        return w.add("Pad", x, w.integers([*low, *high]), w.number(value))

    def _spread(self, x: str, axis: int, gap: int, rank: int, value: float) -> str:
        """So many entries behind each of an axis: padded as an axis of its own."""
        order = [*(i for i in range(rank) if i != axis), axis]
        w = self.writer
        x = w.add("Unsqueeze", w.add("Transpose", x, perm=order), w.integers([rank]))
        x = self._padded(x, [0] * (rank + 1), [*[0] * rank, gap], value)
        # 0 takes a length from the input.
        x = w.add("Reshape", x, w.integers([*[0] * (rank - 1), -1]))
        return w.add("Transpose", x, perm=np.argsort(order).tolist())

    def _reduce_sum(self, place: int, node: Node) -> None:
        axes, (x,), w = self._fixed(node), node.inputs, self.writer
        if x in self._first and x not in self._last and sorted(axes) == [1, 2]:
            x, axes = self._first[x], [2, 3]
        else:
            x = self._of(x)
        # Without axes all would be summed.
        found = w.add("ReduceSum", x, w.integers(axes), keepdims=0) if axes else x
        self._last[place] = found

    def _reduce_max(self, place: int, node: Node) -> None:
        axes, x = self._fixed(node), self._of(node.inputs[0])
        kind = "ReduceMax" if node.operation == "reduce_max" else "ReduceMin"
        found = self.writer.add(kind, x, axes=axes, keepdims=0) if axes else x
        self._last[place] = found

    _reduce_min = _reduce_max

    def _window_max(self, place: int, node: Node) -> None:
        numbers, (x,) = self._fixed(node), node.inputs
        rank = len(numbers) // 5
        windows = [numbers[5 * axis : 5 * axis + 5] for axis in range(rank)]
        still = [axis for axis in range(rank) if windows[axis][:4] == [1, 1, 0, 0]]
        if not 2 <= len(still) < rank or rank > 5:
            raise ValueError("windows over all axes, or over more than five")
        order = (still[0], still[-1])
        order += tuple(axis for axis in range(rank) if axis not in order)
        slid = [windows[axis] for axis in order[2:]]
        if order == _FIRST:
            self._first[place] = self._pooled(node, self._channels_first(x), slid)
            return
        turned = self.writer.add("Transpose", self._of(x), perm=order)
        found, back = self._pooled(node, turned, slid), np.argsort(order).tolist()
        self._last[place] = self.writer.add("Transpose", found, perm=back)

    _window_sum = _window_max

    def _pooled(self, node: Node, x: str, windows: Sequence[Sequence[int]]) -> str:
        """Windows over the axes behind the first two."""
        sizes, steps, low, high, dilations = map(list, zip(*windows, strict=True))
        w, sums = self.writer, node.operation == "window_sum"
        if any(n >= size for n, size in zip([*low, *high], sizes * 2, strict=True)):
            # More than a pooling may have of its own.
            outside = 0.0 if sums else -np.inf
            x = self._padded(x, [0, 0, *low], [0, 0, *high], outside)
            low = high = [0] * len(low)
        options = {"kernel_shape": sizes, "strides": steps, "pads": [*low, *high]}
        if not sums:
            return w.add("MaxPool", x, dilations=dilations, **options)
        if any(d != 1 for d in dilations):
            raise ValueError("sums over windows with gaps")
        mean = w.add("AveragePool", x, count_include_pad=1, **options)
        return w.add("Mul", mean, w.number(math.prod(sizes)))

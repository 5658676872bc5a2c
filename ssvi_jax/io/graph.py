"""What a network computes, as a list of operations for a reader that has no JAX.

A stream of 32-bit little-endian words, as short to read in C as to write here (see
``runtime/csrc/graph.cpp``, the reader)::

    magic, version
    rank, lengths…                     of one input, without the batch
    classes                            the output is [n, classes]
    number of constants, and of each:  rank, lengths…, float32 values…
    number of nodes, and of each:      operation, number of inputs, inputs…,
                                       number of numbers, (per example, constant)…

The inputs of a node are numbers of nodes before it; the last node is the output. What a
node says of shapes holds for any batch of n examples: a number is n · (per example) +
constant. Kernels and parameters are not repeated: a node names their row in the tables
of the model file (`io.artifact`).
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAGIC, VERSION = 0x47565353, 1

UNARY = (
    *("neg", "abs", "sign", "floor", "ceil", "round", "trunc", "exp", "exp2"),
    *("expm1", "log", "log1p", "tanh", "logistic", "sqrt", "rsqrt", "cbrt", "erf"),
    *("erfc", "sin", "cos", "square", "not", "is_finite"),
)
BINARY = (
    *("add", "sub", "mul", "div", "max", "min", "pow"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or"),
)
OPERATIONS = (
    *("input", "kernel", "param", "constant", "product", "matmul", "select"),
    *("reshape", "broadcast", "transpose", "reverse", "concatenate", "slice", "pad"),
    *("reduce_sum", "reduce_max", "reduce_min", "window_sum", "window_max"),
    *UNARY,
    *BINARY,
)
"""The fixed set; what each does with its inputs and numbers is in `Node`."""

SCALE, SHIFT, RESIDUAL, RELU = 1, 2, 4, 8
"""Bits of a product's last number: which inputs follow, and whether it is rectified."""


class Node(NamedTuple):
    """One operation.

    Attributes:
      operation: one of `OPERATIONS`. Elementwise ones broadcast like NumPy's.
      inputs: the nodes that it reads.
      numbers: pairs (per example, constant) by operation:
        ``kernel`` the row of its layer, ``param`` that of its array, ``constant`` its
        own; ``product`` (a convolution ``[n, rows, columns, in]`` with a kernel) rows
        and columns of the kernel, inputs a group, outputs, strides, zeros above, below,
        left and right, dilations, groups, and bits;
        ``reshape`` and ``broadcast`` the shape; ``transpose`` and ``reverse`` axes;
        ``concatenate`` the axis; ``slice`` start, stop, step of each axis; ``pad`` low,
        high, between of each axis, with its second input's number; reductions axes;
        windows size, step, low, high, dilation of each axis.
    """

    operation: str
    inputs: tuple[int, ...] = ()
    numbers: tuple[tuple[int, int], ...] = ()


class Graph(NamedTuple):
    """A network.

    Attributes:
      input_shape: of one example.
      classes: the output is ``[n, classes]``.
      constants: float32 arrays.
      nodes: in an order in which they can be computed; the last is the output.
    """

    input_shape: tuple[int, ...]
    classes: int
    constants: Sequence[np.ndarray]
    nodes: Sequence[Node]


def encode(graph: Graph) -> bytes:
    """The stream of a graph."""
    parts = [_words(MAGIC, VERSION, *_counted(graph.input_shape), graph.classes)]
    parts.append(_words(len(graph.constants)))
    for array in graph.constants:
        parts.append(_words(*_counted(array.shape)))
        parts.append(np.ascontiguousarray(array, "<f4").tobytes())
    parts.append(_words(len(graph.nodes)))
    for node in graph.nodes:
        parts.append(_words(OPERATIONS.index(node.operation), *_counted(node.inputs)))
        flat = [part for number in node.numbers for part in number]
        parts.append(_words(len(node.numbers), *flat))
    return b"".join(parts)


def _counted(values: Sequence[int]) -> tuple[int, ...]:
    return len(values), *values


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)

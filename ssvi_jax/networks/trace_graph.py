"""The graph of a network's prediction, traced from its own module.

The prediction pass is traced as JAX sees it. What depends on parameters only, random
keys too, is computed here and now; what depends on the input or on a Bayesian kernel
becomes nodes of `io.graph`. The pass is traced for two batches, and what differs
between them must scale with the batch. A loop of known length is written out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.jaxprs import (
    CALL,
    Jaxpr,
    JaxprEqn,
    Literal,
    aval,
    needed,
    place_of,
    scan_split,
)
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import ApplyFn, Masks, Weights
from ssvi_jax.io import artifact
from ssvi_jax.io.graph import Graph
from ssvi_jax.networks import fuse_graph, graph_rules, known_values
from ssvi_jax.networks.graph_builder import (
    Builder,
    Dynamic,
    Known,
    Refused,
    Value,
    merged,
)

_BATCHES = (2, 3)
_MAX_NODES = 100_000
_CALLS = {
    CALL: "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
_COMPUTED = ("float32", "bool", "int32", "uint32", "int8", "uint8", "int16", "uint16")


def for_file(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks,
    inputs: Sequence[Sequence[Any]] | None,
    *,
    half: bool,
    classes: bool,
) -> Graph | str:
    """The graph that a model file gets, or why it has none.

    Args:
      apply_fn: see `of_network`, as are the next ones.
      weights: likewise.
      masks: likewise.
      inputs: likewise.
      half: likewise.
      classes: whether the outputs are logits of classes.
    """
    if not classes:
        return "its outputs are not logits of classes"
    graph = of_network(apply_fn, weights, masks, inputs, half=half)
    if isinstance(graph, Graph) and graph.classes < 2:
        return "it has one output, where classes are two"
    return graph


def of_network(
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks,
    inputs: Sequence[Sequence[Any]] | None,
    *,
    half: bool,
) -> Graph | str:
    """The graph of a network's outputs, or why it has none.

    Args:
      apply_fn: the network.
      weights: its weights.
      masks: kernel path → full shape's booleans.
      inputs: shape ``[batch, ...]`` and dtype of each input; None: not known.
      half: whether the file's numbers are in half precision.
    """
    structure = getattr(apply_fn, "structure", Structure())
    if structure != Structure() or getattr(apply_fn, "num_members", 1) != 1:
        return "it has several members, or draws besides its weights"
    if inputs is None or len(inputs) != 1:
        return "its inputs are not one array of known shape"
    ((shape, dtype),) = inputs
    stored = weights._replace(params=artifact.as_stored(weights.params, half))
    try:
        example = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
        return trace(apply_fn, stored, masks, example)
    except InputError as refusal:
        return str(refusal)
    except Exception as error:  # whatever a module says of an array for its dictionary
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"its module does not take one array ({reason})"


def inputs_of(config: Mapping[str, Any]) -> list[list[Any]] | None:
    """Shape and dtype of each input of a network that a model file describes."""
    if "input_shape" in config:  # one of the library's own
        dtype = "uint8" if config.get("pixels", True) else "float32"
        return [[[1, *config["input_shape"]], dtype]]
    return config.get("inputs")


def trace(
    apply_fn: ApplyFn, weights: Weights, masks: Masks, example: jax.ShapeDtypeStruct
) -> Graph:
    """What a network of one member computes of a batch, in evaluation mode.

    Args:
      apply_fn: the network.
      weights: its weights, in the precision in which they will be stored.
      masks: kernel path → full shape's booleans; rows of kernels in their order.
      example: shape and type of inputs ``[batch, ...]``, of any batch.

    Returns:
      The graph; its output is what the network returns.

    Raises:
      InputError: the network has an operation outside of the fixed set, which is named
        with the layer that it is in.
    """
    try:
        small, large = (
            _of_batch(apply_fn, weights, masks, example, size) for size in _BATCHES
        )
        nodes, shapes = merged(small, large, _BATCHES)
        if [each for each, _ in shapes[-1]] != [1, 0] or shapes[-1][0][1]:
            raise Refused("an output that is not a number for each class of an example")
    except Refused as refusal:
        raise InputError(
            f"network: got {refusal}, allowed: operations that the runtime has "
            "(docs/deploy.md lists them)."
        ) from refusal
    classes = shapes[-1][1][1]
    graph = Graph(tuple(example.shape[1:]), classes, small.constants, nodes)
    return fuse_graph.fused(graph, small.arrays, shapes)


def _of_batch(apply_fn, weights, masks, example, size: int) -> Builder:
    """The nodes for a batch of one size."""
    kernels = {
        path: jax.ShapeDtypeStruct(mask.shape, np.float32)
        for path, mask in masks.items()
    }
    x = jax.ShapeDtypeStruct((size, *example.shape[1:]), example.dtype)

    def predicted(params, state, kernels, x):
        full = trees.merge(params, kernels)
        key = jax.random.key(0)
        return apply_fn(full, state, x, train=False, key=key)[0]

    args = (weights.params, weights.model_state, kernels, x)
    closed, shape = jax.make_jaxpr(predicted, return_shape=True)(*args)
    if len(jax.tree.leaves(shape)) != 1:
        raise Refused("several outputs")
    tracer = _Tracer(list(masks))
    builder = tracer.builder
    inputs: list[Value] = [
        Known(np.asarray(leaf), row if leaf.dtype == np.float32 else None)
        for row, leaf in enumerate(jax.tree.leaves(weights.params))
    ]
    inputs += [Known(np.asarray(leaf)) for leaf in jax.tree.leaves(weights.model_state)]
    rows = {path: row for row, path in enumerate(masks)}
    for path in sorted(kernels):  # the order of a dictionary's leaves
        inputs.append(builder.add("kernel", (), (rows[path],), masks[path].shape))
    inputs.append(builder.add("input", (), (), x.shape))
    jaxpr, used = needed(closed.jaxpr)
    kept = [value for value, use in zip(inputs, used, strict=True) if use]
    (output,) = tracer.run(jaxpr, closed.consts, kept)
    tracer.finish(output, aval(closed.jaxpr.outvars[0]).shape)
    return builder


class _Tracer:
    """Evaluates a jaxpr on known arrays and nodes.

    Args:
      paths: of the kernels, by their rows.
    """

    def __init__(self, paths: Sequence[str]):
        self.builder = Builder()
        self._paths = paths
        self._latest = ""  # the kernel that was read last
        self._callers: list[str] = []

    def finish(self, output: Value, shape: tuple[int, ...]) -> None:
        """Makes the output the last node."""
        last = self.builder.whole(output, shape)
        if last.node != len(self.builder.nodes) - 1:
            self.builder.add("reshape", [last], last.shape, last.shape)

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Value]
    ) -> list[Value]:
        """The results of a trace."""
        values: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
        values |= {
            var: const if isinstance(const, Known | Dynamic) else Known(const)
            for var, const in zip(jaxpr.constvars, consts, strict=True)
        }

        def read(atom: Any) -> Value:
            return Known(atom.val) if isinstance(atom, Literal) else values[atom]

        for eqn in jaxpr.eqns:
            found = self._step(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, found, strict=True))
            if len(self.builder.nodes) > _MAX_NODES:
                raise Refused(f"more than {_MAX_NODES} operations")
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if all(isinstance(value, Known) for value in operands):
            arrays = [value.array for value in operands if isinstance(value, Known)]
            return [Known(found) for found in known_values.compute(eqn, arrays)]
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            jaxpr, consts = (
                (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
            )
            return self._inside(eqn, jaxpr, consts, operands)
        if name == "cond":
            return self._chosen(eqn, operands)
        if name == "scan":
            return self._unrolled(eqn, operands)
        for value in operands:
            if isinstance(value, Dynamic) and value.node < len(self._paths):
                self._latest = self._paths[self.builder.nodes[value.node][2][0]]
        rule = graph_rules.RULES.get(name)
        if rule is None:
            raise Refused(f"the operation {name!r}{self._where(eqn)}")
        for atom in eqn.outvars:
            if str(aval(atom).dtype) not in _COMPUTED:
                raise Refused(f"computations in {aval(atom).dtype}{self._where(eqn)}")
        try:
            graph_rules.check_exact(eqn)
            return graph_rules.results(rule(self.builder, eqn, operands))
        except Refused as refusal:
            raise Refused(f"{refusal} ({name!r}{self._where(eqn)})") from None

    def _inside(
        self, eqn: JaxprEqn, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Value]
    ) -> list[Value]:
        """The results of a trace that an equation calls."""
        self._callers.append(place_of(eqn))
        found = self.run(jaxpr, consts, args)
        self._callers.pop()
        return found

    def _where(self, eqn: JaxprEqn) -> str:
        """The layer of an equation, by the names of Flax or by the kernel before it."""
        names = [name for name in (*self._callers, place_of(eqn)) if name]
        if names:
            return f" in {'/'.join(names)}"
        return f" after {self._latest}" if self._latest else ""

    def _chosen(self, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
        """The branch of a condition that is known."""
        which, *rest = operands
        if not isinstance(which, Known):
            raise Refused(f"a choice that depends on the input{self._where(eqn)}")
        branches = eqn.params["branches"]
        chosen = branches[min(max(int(which.array), 0), len(branches) - 1)]
        return self._inside(eqn, chosen.jaxpr, chosen.consts, rest)

    def _unrolled(self, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
        """A loop over an axis, step after step."""
        body, b = eqn.params["jaxpr"], self.builder
        num_consts, num_carry = scan_split(eqn)
        consts = operands[:num_consts]
        carry = operands[num_consts : num_consts + num_carry]
        scanned = [
            value if isinstance(value, Known) else b.whole(value, aval(atom).shape)
            for value, atom in zip(
                operands[num_consts + num_carry :],
                eqn.invars[num_consts + num_carry :],
                strict=True,
            )
        ]
        length = eqn.params["length"]
        order = range(length)
        rows: list[list[Value]] = [[] for _ in eqn.outvars[num_carry:]]
        for i in reversed(order) if eqn.params["reverse"] else order:
            here = [_row(b, value, i) for value in scanned]
            arguments = [*consts, *carry, *here]
            found = self._inside(eqn, body.jaxpr, body.consts, arguments)
            carry = found[:num_carry]
            for kept, value in zip(rows, found[num_carry:], strict=True):
                kept.append(value)
        stacked = [
            _stacked(b, kept[::-1] if eqn.params["reverse"] else kept, aval(atom).shape)
            for kept, atom in zip(rows, eqn.outvars[num_carry:], strict=True)
        ]
        return [*carry, *stacked]


def _row(b: Builder, value: Value, i: int) -> Value:
    if isinstance(value, Known):
        return Known(value.array[i])
    lengths = value.shape[1:]
    row = b.slice(
        value, (i, *[0] * len(lengths)), (i + 1, *lengths), (1,) * len(value.shape)
    )
    return b.reshape(row, lengths)


def _stacked(b: Builder, rows: list[Value], shape: tuple[int, ...]) -> Value:
    if not rows or all(isinstance(row, Known) for row in rows):
        return Known(np.stack([row.array for row in rows if isinstance(row, Known)]))
    each = [b.reshape(b.whole(row, shape[1:]), (1, *shape[1:])) for row in rows]
    return b.add("concatenate", each, (0,), shape)

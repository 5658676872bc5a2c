"""How a network applies its kernels, read off the trace of one forward pass.

A trace (a jaxpr) shows every product as it runs: in any layer, also the user's own,
under `nn.scan`, `nn.vmap` or `jit`, by einsum, with heads. Followed are values that are
made of parameters alone (a slice, a transposed or normalized kernel); where one of them
meets anything else in a product, the network applies the kernels that it is made of.
Nothing is run.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from ssvi_jax.core import trees
from ssvi_jax.core.jaxprs import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    scan_split,
)
from ssvi_jax.core.types import KernelShape, ModelState, Params
from ssvi_jax.networks.layers import Held, Products

Apply = Callable[[Products, Params, ModelState, Any], Any]
"""(products, params, model_state, x) → what the network returns in evaluation."""


class Use(NamedTuple):
    """How one kernel is applied.

    Attributes:
      shape: its full shape, and that of one product.
      multiply_adds: of all its products in the pass.
    """

    shape: KernelShape
    multiply_adds: int

    def positions(self, batch: int) -> int:
        """How often each weight is applied to one of so many examples, rounded up."""
        return max(-(-self.multiply_adds // max(math.prod(self.shape) * batch, 1)), 1)


def uses(
    apply: Apply, params: Params, model_state: ModelState, x: Any
) -> dict[str, Use]:
    """Path → `Use` of every parameter that is multiplied by, in order of application.

    Args:
      apply: the network.
      params: full parameters.
      model_state: running statistics.
      x: one batch, of which only shapes and types are read.
    """
    flat = trees.flatten(params)
    marks = _Marks(params, None, jax.random.key(0))

    def run(flat, model_state, x):
        return apply(marks, trees.unflatten(flat), model_state, x)

    traced = jax.make_jaxpr(run)(flat, model_state, x)
    # Vectors are biases and scales: nothing that is multiplied by.
    kernels = {path: leaf.shape for path, leaf in flat.items() if leaf.ndim >= 2}
    given = [_Value(frozenset({path} & kernels.keys())) for path in sorted(flat)]
    given += [_Value(is_state=True) for _ in jax.tree.leaves(model_state)]
    given += [_Value(is_input=True) for _ in jax.tree.leaves(x)]
    walk = _Walk(kernels, marks.applied)
    walk.run(traced.jaxpr, given, 1)
    return walk.uses


class _Marks(Products):
    """Products that name their kernel in the trace, with its shape as the layer has it.

    Vectorized, the products of a stack may be one larger product.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.applied: dict[str, tuple[int, ...]] = {}

    def dot_general(self, path: str, held: Held) -> Callable[..., jax.Array]:
        del held

        def product(x, kernel, dimension_numbers, *args, **kwargs):
            _, applied = _matrix(kernel.shape, *(d[1] for d in dimension_numbers))
            kernel = self._marked(path, kernel, applied)
            return jax.lax.dot_general(x, kernel, dimension_numbers, *args, **kwargs)

        return product

    def conv_general_dilated(self, path: str, held: Held) -> Callable[..., jax.Array]:
        del held

        def product(x, kernel, *args, **kwargs):
            kernel = self._marked(path, kernel, tuple(kernel.shape))
            return jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)

        return product

    def _marked(self, path, kernel, applied):
        name = f"{path} {len(self.applied)}"
        self.applied[name] = applied
        return checkpoint_name(kernel, name)


@dataclasses.dataclass(frozen=True)
class _Value:
    """What a value in the trace is made of.

    Attributes:
      kernels: paths of kernels; none, if the input is part of it.
      is_input: whether it depends on the input.
      is_state: whether it depends on running statistics.
      applied: the shape of a kernel that its layer is about to multiply by.
    """

    kernels: frozenset[str] = frozenset()
    is_input: bool = False
    is_state: bool = False
    applied: tuple[int, ...] | None = None


def _join(values: Sequence[_Value]) -> _Value:
    """What is computed from these, other than by a product."""
    is_input = any(value.is_input for value in values)
    kernels = frozenset().union(*(value.kernels for value in values))
    return _Value(
        frozenset() if is_input else kernels,
        is_input,
        any(value.is_state for value in values),
        values[0].applied if len(values) == 1 else None,
    )


class _Walk:
    """Follows values through a trace.

    Args:
      shapes: kernel path → full shape.
      marks: name of a marked kernel → its shape as the layer has it.

    Attributes:
      uses: path → `Use`, in the order of the first products.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        marks: Mapping[str, tuple[int, ...]],
    ):
        self.uses: dict[str, Use] = {}
        self._shapes = shapes
        self._marks = marks

    def run(self, jaxpr: Jaxpr, args: Sequence[_Value], times: int) -> list[_Value]:
        """The results for these arguments.

        Args:
          jaxpr: what is computed.
          args: what comes in.
          times: how often this runs in a pass; 0: nothing is noted.
        """
        values: dict[Var, _Value] = dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Var | Literal) -> _Value:
            constant = _Value()
            return values.get(atom, constant) if isinstance(atom, Var) else constant

        for equation in jaxpr.eqns:
            results = self._step(equation, list(map(read, equation.invars)), times)
            values.update(zip(equation.outvars, results, strict=True))
        return list(map(read, jaxpr.outvars))

    def _step(
        self, equation: JaxprEqn, args: list[_Value], times: int
    ) -> Sequence[_Value]:
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            split = scan_split(equation)
            return self._loop(params["jaxpr"], args, split, times, params["length"])
        if name == "while":
            first = params["cond_nconsts"]  # what the condition reads is no product
            split = params["body_nconsts"], len(equation.outvars)
            # How often it runs is not known; once is counted.
            return self._loop(params["body_jaxpr"], args[first:], split, times, 1)
        if name == "cond":
            found = [self.run(b.jaxpr, args[1:], times) for b in params["branches"]]
            return [_join([args[0], *results]) for results in zip(*found, strict=True)]
        called = _called(equation)
        if called is not None:
            return self.run(called, args, times)
        result = self._product(equation, args, times) or _join(args)
        if name == "name" and params["name"] in self._marks:
            applied = self._marks[params["name"]]
            result = dataclasses.replace(result, applied=applied)
        return [result] * len(equation.outvars)

    def _loop(
        self,
        body: ClosedJaxpr,
        args: list[_Value],
        split: tuple[int, int],
        times: int,
        length: int,
    ) -> list[_Value]:
        """A body of (constants, carry, items), the lengths of the first two in `split`.

        What the carry is made of is known once another turn adds nothing to it.
        """
        start, end = split[0], sum(split)
        carry: list[_Value] = []
        while carry != args[start:end]:
            carry = args[start:end]
            results = self.run(body.jaxpr, args, 0)
            joined = map(_join, zip(carry, results[: end - start], strict=True))
            args = [*args[:start], *joined, *args[end:]]
        return self.run(body.jaxpr, args, times * length)

    def _product(
        self, equation: JaxprEqn, args: list[_Value], times: int
    ) -> _Value | None:
        """Notes a product of kernels with anything else; None if this is not one."""
        name = equation.primitive.name
        if name not in ("dot_general", "conv_general_dilated", "gather"):
            return None
        sides = [i for i, value in enumerate(args[:2]) if value.kernels]
        marked = [i for i, value in enumerate(args[:2]) if value.applied]
        side = (marked or sides or [0])[0]
        other = args[1 - side]
        if not marked and (len(sides) != 1 or (other.is_state and not other.is_input)):
            return None
        if name == "gather" and not other.is_input:
            return None  # a part of the kernel, the same for every input
        terms, applied = _terms(equation, side)
        if times:
            applied = args[side].applied or applied
            total = times * terms * math.prod(_shape(equation.outvars[0]))
            self._note(args[side].kernels, applied, total)
        return _Value(is_input=True)

    def _note(
        self, paths: frozenset[str], applied: tuple[int, ...], total: int
    ) -> None:
        """Adds a product's multiply-adds to its kernels, to each those of its size."""
        whole = sum(math.prod(self._shapes[path]) for path in paths)
        for path in sorted(paths):
            shape = self._shapes[path]
            part = math.prod(shape) / whole
            before = self.uses.get(path)
            if before is None:
                outputs = max(round(applied[-1] * part), 1)
                known = KernelShape(shape, (*applied[:-1], outputs))
                before = Use(known, 0)
            added = before.multiply_adds + round(total * part)
            self.uses[path] = before._replace(multiply_adds=added)


def _called(equation: JaxprEqn) -> Jaxpr | None:
    """What an equation only calls, on its own operands."""
    for value in equation.params.values():
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(inner, Jaxpr) and _lengths(inner) == _lengths(equation):
            return inner
    return None


def _lengths(node: Jaxpr | JaxprEqn) -> tuple[int, int]:
    return len(node.invars), len(node.outvars)


def _terms(equation: JaxprEqn, side: int) -> tuple[int, tuple[int, ...]]:
    """How many products a result sums over, and the shape of the kernel that does it.

    A table that is looked up is, seen as a matrix, what its rows are compared by.
    """
    shape, params = _shape(equation.invars[side]), equation.params
    if equation.primitive.name == "dot_general":
        return _matrix(shape, *(axes[side] for axes in params["dimension_numbers"]))
    if equation.primitive.name == "gather":
        row = math.prod(params["slice_sizes"])
        return 1, (row, math.prod(shape) // row)
    out, into, *window = params["dimension_numbers"].rhs_spec
    applied = tuple(shape[axis] for axis in (*window, into, out))
    return math.prod(applied[:-1]), applied


def _shape(atom: Var | Literal) -> tuple[int, ...]:
    return getattr(atom.aval, "shape")  # noqa: B009 (unknown to pyright)


def _matrix(
    shape: Sequence[int], contracted: Sequence[int], batched: Sequence[int]
) -> tuple[int, tuple[int, int]]:
    """Inputs of an output of a product, and (inputs, outputs) of each of a batch."""
    inputs = math.prod(shape[axis] for axis in contracted)
    each = math.prod(shape[axis] for axis in batched) * inputs
    return inputs, (inputs, math.prod(shape) // max(each, 1))

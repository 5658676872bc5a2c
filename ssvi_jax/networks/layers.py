"""The products of one forward pass of a model: plain, or locally reparameterized.

A product is reparameterized only where a layer multiplies by the parameter itself.
Where it does not, because the kernel is normalized, or because the layer sits inside
scan, vmap, jit or remat (where one trace stands for many calls), the weight sample that
the layer was given is used as it is.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssvi_jax import ops
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.jaxprs import trace_state
from ssvi_jax.core.types import PackedKernel, Params
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.ops import backend, convolution

Held = Callable[[], jax.Array]
"""Returns the kernel that a layer holds at the time of its call."""


class Layer(NamedTuple):
    """One product of a model.

    Attributes:
      path: path of its kernel.
      shape: full shape of the kernel; a `KernelShape` where it says how it is applied.
      positions: how often each of its weights is applied to one example (output
        pixels).
    """

    path: str
    shape: tuple[int, ...]
    positions: int


class Factors(NamedTuple):
    """Makes a layer's kernel W ∘ (r sᵀ) without forming it: s ∘ (W (r ∘ x)) + bias.

    The first axis has R rows; the i-th serves the i-th of R equal blocks of
    consecutive examples (a batch axis that comes first, also merged with others).

    Attributes:
      r: ``[R, *in]``, a factor for each input channel.
      s: ``[R, *out]``, a factor for each output channel.
      bias: ``[R, *out]``, added last; None: nothing is.
    """

    r: jax.Array
    s: jax.Array
    bias: jax.Array | None = None

    def inputs(self, x: jax.Array) -> jax.Array:
        """Returns r ∘ x."""
        return x * _per_example(self.r, x)

    def outputs(self, y: jax.Array) -> jax.Array:
        """Returns s ∘ y + bias."""
        y = y * _per_example(self.s, y)
        return y if self.bias is None else y + _per_example(self.bias, y)


def _per_example(rows: jax.Array, x: jax.Array) -> jax.Array:
    """Rows ``[R, *channels]``, repeated, so that they broadcast to ``[batch, …]``."""
    batch, number = x.shape[0], len(rows)
    if batch % number:
        raise InputError(
            f"batch: got {batch} examples for {number} members, allowed: a multiple."
        )
    repeated = jnp.repeat(rows.astype(x.dtype), batch // number, axis=0)
    between = (1,) * (x.ndim - rows.ndim)
    return repeated.reshape(batch, *between, *rows.shape[1:])


class Products:
    """The products of one forward pass: plain, or locally reparameterized.

    Args:
      params: full parameters of the model.
      kernels: kernels to reparameterize; None: none.
      key: random key of the forward pass.
      factors: kernel path → rank-1 factors of that layer; None: none.
      dropout: of the inputs of every product but the first; None: none.

    Attributes:
      channels: path → shapes (``in``, ``out``) of the factors that a layer can have;
        only of layers that multiply by the parameter itself.
      refusals: path → why its packed kernel, if it has one, is multiplied by XLA as
        a dense one; empty where the sparse kernels do it.
    """

    def __init__(
        self,
        params: Params,
        kernels: Mapping[str, PackedKernel] | None,
        key: jax.Array,
        factors: Mapping[str, Factors] | None = None,
        dropout: Dropout | None = None,
    ):
        self.kernels = kernels or {}
        self.key = key
        self._uses: Counter[str] = Counter()
        self.channels: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.refusals: dict[str, str] = {}
        self._factors = factors or {}
        self._dropout = dropout
        self._parameters = trees.flatten(params)
        self._trace = trace_state()

    def dot_general(self, path: str, held: Held) -> Callable[..., jax.Array]:
        """A stand-in for `jax.lax.dot_general` in the layer that owns `path`."""

        def product(x, kernel, dimension_numbers, *args, **kwargs):
            x = self._dropped(path, x)
            rows = _matrix_rows(x, kernel, dimension_numbers)
            own = rows if rows and self._is_own(path, held) else None
            packed = self.kernels.get(path) if own else None
            factors = None
            if own and x.ndim > own:
                factors = self._factors_of(path, kernel.shape[:own], kernel.shape[own:])
            x = factors.inputs(x) if factors else x
            contracted = math.prod(kernel.shape[i] for i in dimension_numbers[0][1])
            if own is None or packed is None:
                self.refusals[path] = self._why_not_own(path, held)
                y = jax.lax.dot_general(x, kernel, dimension_numbers, *args, **kwargs)
            else:
                inputs = x.reshape(*x.shape[: x.ndim - own], contracted)
                outputs = kernel.shape[own:]
                packed = packed.reshape((contracted, math.prod(outputs)))
                packed = packed.astype(x.dtype)
                self.refusals[path] = backend.refuses_dense(inputs, packed)
                y = ops.lrt_dense(inputs, packed, self._next_key(path))
                y = y.reshape(*inputs.shape[:-1], *outputs)
            self._uses[path] += 1
            return factors.outputs(y) if factors else y

        return product

    def conv_general_dilated(self, path: str, held: Held) -> Callable[..., jax.Array]:
        """A stand-in for `jax.lax.conv_general_dilated`, likewise."""

        def product(
            x,
            kernel,
            window_strides,
            padding,
            lhs_dilation=None,
            rhs_dilation=None,
            dimension_numbers=None,
            feature_group_count=1,
            **kwargs,
        ):
            x = self._dropped(path, x)
            if not _is_plain_conv(x, lhs_dilation, dimension_numbers, kwargs):
                self._uses[path] += 1
                self.refusals[path] = "not a plain convolution with channels last"
                return jax.lax.conv_general_dilated(
                    x,
                    kernel,
                    window_strides,
                    padding,
                    lhs_dilation=lhs_dilation,
                    rhs_dilation=rhs_dilation,
                    dimension_numbers=dimension_numbers,
                    feature_group_count=feature_group_count,
                    **kwargs,
                )
            window = _window(
                *(x, kernel, window_strides, padding, rhs_dilation),
                feature_group_count,
            )
            options: dict[str, Any] = {
                "strides": window.strides,
                "padding": window.padding,
                "rhs_dilation": window.dilation,
                "groups": window.groups,
            }
            own = self._is_own(path, held)
            packed = self.kernels.get(path) if own else None
            channels = (x.shape[-1],), (kernel.shape[-1],)
            factors = self._factors_of(path, *channels) if own else None
            x = factors.inputs(x) if factors else x
            if packed is None:
                self.refusals[path] = self._why_not_own(path, held)
                y = ops.conv(x, kernel, **options)
            else:
                packed = packed.astype(x.dtype)
                self.refusals[path] = backend.refuses_conv(x, packed, window)
                y = ops.lrt_conv(x, packed, self._next_key(path), **options)
            self._uses[path] += 1
            return factors.outputs(y) if factors else y

        return product

    def _is_own(self, path: str, held: Held) -> bool:
        """Whether the layer multiplies by the parameter itself, outside transforms."""
        same = held() is self._parameters.get(path)
        return same and trace_state() == self._trace

    def _why_not_own(self, path: str, held: Held) -> str:
        """Why a layer's product is not one with a packed kernel."""
        if trace_state() != self._trace:
            return "inside scan, vmap, jit or remat"
        if held() is not self._parameters.get(path):
            return "the layer changes its kernel before it multiplies"
        return "the product is not one of inputs times kernel"

    def _dropped(self, path: str, x: jax.Array) -> jax.Array:
        """The input of a product; that of the first are the data, which stay."""
        if self._dropout is None or not self._uses:
            return x
        return self._dropout(x, path, self._uses[path])

    def _factors_of(
        self, path: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> Factors | None:
        self.channels[path] = (inputs, outputs)
        return self._factors.get(path)

    def _next_key(self, path: str) -> jax.Array:
        """A key per layer, and per call where a layer is used more than once."""
        layer_key = jax.random.fold_in(self.key, zlib.crc32(path.encode()))
        return jax.random.fold_in(layer_key, self._uses[path])


def _matrix_rows(x, kernel, dimension_numbers) -> int | None:
    """How many leading kernel axes are contracted with as many trailing ones of x.

    None if the product has batch dimensions or contracts otherwise.
    """
    (x_axes, kernel_axes), (x_batch, kernel_batch) = dimension_numbers
    rows = len(kernel_axes)
    trailing = tuple(range(x.ndim - rows, x.ndim))
    plain = tuple(x_axes) == trailing and tuple(kernel_axes) == tuple(range(rows))
    return rows if plain and not x_batch and not kernel_batch else None


def _window(x, kernel, strides, padding, rhs_dilation, groups) -> convolution.Window:
    """How a kernel slides; padding as numbers, whatever it was given as."""
    dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
    if isinstance(padding, str):
        spans = zip(kernel.shape, dilation, strict=False)
        taken = [(k - 1) * d + 1 for k, d in spans]
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], taken, strides, padding)
    return convolution.Window.make(strides, padding, dilation, groups)


def _is_plain_conv(x, lhs_dilation, dimension_numbers, kwargs) -> bool:
    """Whether this is a channels-last convolution that `ops` has."""
    last = x.ndim - 1
    spatial = tuple(range(1, last))
    channels_last = jax.lax.ConvDimensionNumbers(
        (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)
    )
    plain = not any(d != 1 for d in lhs_dilation or ())
    grouped = kwargs.get("batch_group_count", 1) != 1
    return plain and not grouped and dimension_numbers == channels_last

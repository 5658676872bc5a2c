"""Any unmodified Flax model, linen or nnx, as an `ApplyFn`.

Dense and convolution layers of both libraries do their product through a replaceable
function (`dot_general`, `conv_general_dilated`). The adapters put the library's own
product there for the length of one call; everything else in the model runs as written.
Layers of any other kind see the sampled weights, so every Bayesian kernel is
stochastic whichever layer owns it.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from ssvi_jax import ops, trees
from ssvi_jax.errors import InputError
from ssvi_jax.types import ApplyFn, ModelState, PackedKernel, Params

TRAIN_ARGUMENTS = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}
"""Arguments of a model's call that say whether it trains."""


class Layer(NamedTuple):
    """One product of a model.

    Attributes:
      path: path of its kernel.
      shape: full shape of the kernel.
      positions: how often the kernel is applied to one example (output pixels).
    """

    path: str
    shape: tuple[int, ...]
    positions: int


class Products:
    """The products of one forward pass: plain, or locally reparameterized."""

    def __init__(self, kernels: Mapping[str, PackedKernel] | None, key: jax.Array):
        self.kernels = kernels or {}
        self.key = key
        self.calls: list[Layer] = []

    def dot_general(self, path: str) -> Callable[..., jax.Array]:
        """A stand-in for `jax.lax.dot_general` in the layer that owns `path`."""

        def product(x, kernel, dimension_numbers, *args, **kwargs):
            kernel_axes = dimension_numbers[0][1]
            contracted = math.prod(kernel.shape[i] for i in kernel_axes)
            positions = x.size // (contracted * x.shape[0])
            rows = _matrix_rows(x, kernel, dimension_numbers)
            if rows is None:
                self._record(path, kernel, positions)
                return jax.lax.dot_general(
                    x, kernel, dimension_numbers, *args, **kwargs
                )
            inputs = x.reshape(*x.shape[: x.ndim - rows], contracted)
            outputs = kernel.shape[rows:]
            matrix = (contracted, math.prod(outputs))
            packed = self.kernels.get(path)
            if packed is None:
                y = ops.dense(inputs, kernel.reshape(matrix))
            else:
                packed = packed.reshape(matrix)
                y = ops.lrt_dense(inputs, packed, self._next_key(path))
            self._record(path, kernel, positions)
            return y.reshape(*inputs.shape[:-1], *outputs)

        return product

    def conv_general_dilated(self, path: str) -> Callable[..., jax.Array]:
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
            if not _is_plain_conv(x, lhs_dilation, dimension_numbers, kwargs):
                y = jax.lax.conv_general_dilated(
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
                self._record(path, kernel, y.size // (x.shape[0] * y.shape[-1]))
                return y
            dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
            window = [
                (k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)
            ]
            if isinstance(padding, str):
                padding = jax.lax.padtype_to_pads(
                    x.shape[1:-1], window, window_strides, padding
                )
            options: dict[str, Any] = {
                "strides": tuple(window_strides),
                "padding": tuple((int(low), int(high)) for low, high in padding),
                "rhs_dilation": dilation,
                "groups": feature_group_count,
            }
            packed = self.kernels.get(path)
            if packed is None:
                y = ops.conv(x, kernel, **options)
            else:
                y = ops.lrt_conv(x, packed, self._next_key(path), **options)
            self._record(path, kernel, y.size // (x.shape[0] * y.shape[-1]))
            return y

        return product

    def _next_key(self, path: str) -> jax.Array:
        """A key per layer, and per call where a layer is used more than once."""
        number = sum(layer.path == path for layer in self.calls)
        layer_key = jax.random.fold_in(self.key, zlib.crc32(path.encode()))
        return jax.random.fold_in(layer_key, number)

    def _record(self, path: str, kernel: jax.Array, positions: int) -> None:
        self.calls.append(Layer(path, tuple(kernel.shape), positions))


def _matrix_rows(x, kernel, dimension_numbers) -> int | None:
    """How many leading kernel axes are contracted with as many trailing ones of x.

    None if the product has batch dimensions or contracts otherwise.
    """
    (x_axes, kernel_axes), (x_batch, kernel_batch) = dimension_numbers
    rows = len(kernel_axes)
    trailing = tuple(range(x.ndim - rows, x.ndim))
    plain = tuple(x_axes) == trailing and tuple(kernel_axes) == tuple(range(rows))
    return rows if plain and not x_batch and not kernel_batch else None


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


def _train_arguments(call: Callable[..., Any]) -> dict[str, Callable[[bool], bool]]:
    names = inspect.signature(call).parameters
    return {name: fn for name, fn in TRAIN_ARGUMENTS.items() if name in names}


class LinenModel:
    """A `flax.linen` module as an `ApplyFn`.

    A call argument named `train`, `training`, `is_training`, `deterministic` or
    `use_running_average` is set from `train`; dropout draws from the key given.

    Args:
      module: the module, unbound.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self._arguments = _train_arguments(type(module).__call__)

    def init(self, key: jax.Array, x: jax.Array) -> tuple[Params, ModelState]:
        """Full parameters and running statistics for inputs like `x`."""
        variables = jax.jit(
            lambda key, x: self.module.init(
                {"params": key, "dropout": key}, x, **self._kwargs(train=False)
            )
        )(key, x)
        params = variables.pop("params")
        return params, variables

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
        """See `types.ApplyFn`."""
        products = Products(kernels, key)
        return self._apply(products, params, model_state, x, train=train)

    def layers(
        self, params: Params, model_state: ModelState, x: jax.Array
    ) -> list[Layer]:
        """The products of one forward pass in the order they run (nothing is run)."""
        products = Products(None, jax.random.key(0))
        jax.eval_shape(
            lambda *args: self._apply(products, *args, train=False),
            params,
            model_state,
            x,
        )
        return products.calls

    def _kwargs(self, *, train: bool) -> dict[str, Any]:
        return {name: fn(train) for name, fn in self._arguments.items()}

    def _apply(self, products, params, model_state, x, *, train):
        def interceptor(next_fun, args, kwargs, context):
            with _own_product(context, products):
                return next_fun(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            output, new_state = self.module.apply(
                {"params": params, **model_state},
                x,
                rngs={"dropout": jax.random.fold_in(products.key, 0)},
                mutable=list(model_state) if train else [],
                **self._kwargs(train=train),
            )
        return output, {**model_state, **new_state}


@contextmanager
def _own_product(context, products: Products) -> Iterator[None]:
    """Puts the library's product into a Dense or Conv for the length of its call."""
    module, name = context.module, None
    if context.method_name == "__call__":
        if isinstance(module, (nn.Dense, nn.DenseGeneral)):
            name = "dot_general"
        elif isinstance(module, nn.Conv) and module.mask is None:
            name = "conv_general_dilated"
    # A product that the user chose is left alone; its layer sees the sampled weights.
    if name is None or getattr(module, name) or getattr(module, f"{name}_cls", None):
        yield
        return
    path = "/".join((*module.path, "kernel"))
    # Linen modules are frozen; this is undone before anyone else can look.
    object.__setattr__(module, name, getattr(products, name)(path))
    try:
        yield
    finally:
        object.__setattr__(module, name, None)


class NnxModel:
    """A `flax.nnx` module as an `ApplyFn`; the module itself is not changed.

    Args:
      module: the module, with its parameters.
    """

    def __init__(self, module: nnx.Module):
        self._graph, params, rngs, rest = nnx.split(
            module, nnx.Param, nnx.RngState, ...
        )
        self._templates = (params, rest)
        self._rngs = rngs
        self._arguments = _train_arguments(type(module).__call__)

    def init(self) -> tuple[Params, ModelState]:
        """The module's own parameters and its other variables."""
        params, rest = (_from_nnx(template) for template in self._templates)
        return params, rest

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
        """See `types.ApplyFn`."""
        products = Products(kernels, key)
        return self._apply(products, params, model_state, x, train=train)

    def layers(
        self, params: Params, model_state: ModelState, x: jax.Array
    ) -> list[Layer]:
        """The products of one forward pass in the order they run (nothing is run)."""
        products = Products(None, jax.random.key(0))
        jax.eval_shape(
            lambda *args: self._apply(products, *args, train=False),
            params,
            model_state,
            x,
        )
        return products.calls

    def _apply(self, products, params, model_state, x, *, train):
        params_state = _to_nnx(params, self._templates[0])
        rest_state = _to_nnx(model_state, self._templates[1])
        rngs = _reseed(self._rngs, jax.random.fold_in(products.key, 0))
        module = nnx.merge(self._graph, params_state, rngs, rest_state, copy=True)
        module.train() if train else module.eval()
        _own_products(module, products)
        output = module(x, **{n: fn(train) for n, fn in self._arguments.items()})
        _, _, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return output, _from_nnx(rest) if train else model_state


def _own_products(module: nnx.Module, products: Products) -> None:
    for path, layer in nnx.iter_modules(module):
        kernel_path = "/".join((*map(str, path), "kernel"))
        if isinstance(layer, (nnx.Linear, nnx.LinearGeneral)):
            if layer.dot_general is jax.lax.dot_general:
                layer.dot_general = products.dot_general(kernel_path)
        elif isinstance(layer, nnx.Conv) and layer.mask is None:
            if layer.conv_general_dilated is jax.lax.conv_general_dilated:
                layer.conv_general_dilated = products.conv_general_dilated(kernel_path)


def _from_nnx(state: nnx.State) -> dict[str, Any]:
    flat = nnx.to_flat_state(state)
    return trees.unflatten(
        {"/".join(map(str, path)): variable[...] for path, variable in flat}
    )


def _to_nnx(tree: Mapping[str, Any], template: nnx.State) -> nnx.State:
    values = trees.flatten(tree)
    flat = [
        (path, variable.replace(values["/".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(template)
    ]
    return nnx.from_flat_state(flat)


def _reseed(rngs: nnx.State, key: jax.Array) -> nnx.State:
    """Random streams of a module, made a function of `key` alone."""
    flat = []
    for i, (path, variable) in enumerate(nnx.to_flat_state(rngs)):
        value = variable[...]
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(jax.random.fold_in(key, i))
            impl = jax.random.key_impl(value)
            variable = variable.replace(jax.random.wrap_key_data(data, impl=impl))
        flat.append((path, variable))
    return nnx.from_flat_state(flat)


def from_flax(
    module: nn.Module | nnx.Module,
    x: jax.Array | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[ApplyFn, Params, ModelState]:
    """An apply function, parameters and running statistics of any Flax model.

    Args:
      module: a `flax.linen` module (unbound) or a `flax.nnx` module.
      x: an example input ``[batch, ...]``; needed for linen.
      key: random key of the initialization; needed for linen.

    Raises:
      InputError: not a Flax module, or `x` or `key` missing for a linen module.
    """
    if isinstance(module, nnx.Module):
        model = NnxModel(module)
        return model, *model.init()
    if not isinstance(module, nn.Module):
        raise InputError(
            f"module: got {type(module).__name__}, allowed: a flax.linen or flax.nnx "
            "module; for anything else write a function with types.ApplyFn's signature."
        )
    if x is None or key is None:
        raise InputError("x, key: both are needed to initialize a flax.linen module.")
    model = LinenModel(module)
    return model, *model.init(key, jnp.asarray(x))
